"""What each of two processes does: train through, and train in two parts. In a file that a new process can import."""

import json
from pathlib import Path

import torch

from runtime.toy_host import losses_of, toy_config, toy_trainer
from xmodaler_ssattn.runtime import comm


def train_in_two_processes(folder: str) -> None:
    torch.set_num_threads(1)
    rank = comm.get_rank()
    assert (comm.get_world_size(), comm.get_local_rank()) == (2, rank)
    assert comm.gather(rank) == ([0, 1] if rank == 0 else [])

    runs = {}
    for name, epochs, resume in (("through", 3, False), ("parts", 2, False), ("parts", 3, True)):
        trainer = toy_trainer(toy_config(Path(folder, name), "SOLVER.EPOCH", epochs), resume=resume)
        trainer.train()
        runs[f"{name} {epochs}"] = {
            "weights": [p.double().sum().item() for p in trainer.model.parameters()],
            "losses": losses_of(trainer) if rank == 0 else [],
            "random": torch.get_rng_state().tolist(),
            "steps": trainer.iters_per_epoch,
            "shuffle": trainer.train_data_loader.sampler.epoch,
        }
    Path(folder, f"rank{rank}.json").write_text(json.dumps(runs))
