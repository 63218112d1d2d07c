"""What each of two processes does in self-critical training. In a file that a new process can import."""

import json
from pathlib import Path

import torch

from engine.rl_world import rl_trainer
from xmodaler_ssattn.host import comm, kfg


def draw_and_train(folder: str) -> None:
    torch.set_num_threads(1)
    rank, world = comm.get_rank(), Path(folder, "world")
    # A world of its own, since both processes write their files; the images are the same.
    trainer = rl_trainer(
        Path(folder, f"rank{rank}"), DATALOADER__TRAIN_BATCH_SIZE=2, SOLVER__EPOCH=3, OUTPUT_DIR=str(world)
    )
    torch.manual_seed(rank)
    seen, original = [], trainer.scorer

    def scorer(batch):
        scores = original(batch)
        seen.append([sorted(set(batch[kfg.IDS])), float(scores[kfg.REWARDS].mean())])
        return scores

    trainer.scorer = scorer
    trainer.train()
    rewards = [value for value, _ in trainer.storage.history("rl/reward").values()] if rank == 0 else []
    weights = [p.detach().double().sum().item() for p in trainer.model.parameters()]
    Path(folder, f"rank{rank}.json").write_text(json.dumps({"weights": weights, "seen": seen, "rewards": rewards}))
