"""The self-critical stage (Rennie et al., CVPR 2017): training on the captions' scores, on either host.

One step of ``SelfCriticalTrainer``:

1. sample S captions per image from the model, without gradient          modeling/sampling.py
2. reward r and baseline b of each caption                               scorer/caption_reward.py
3. teacher forcing on the sampled words, with gradient                   forced_batch
4. L = -(1/M) sum over captions of (r - b) sum_t log p(w_t)              losses/reward.py

X-modaler's own trainers instead keep the graph of sampling word by word. The gradient is the same, because the words
are constants in both cases; teacher forcing over whole captions is much faster.

Dropout is off in both passes, so that the probabilities in L are those of the sampling. The grounding loss is added if
it is in LOSSES.NAMES. Scheduled sampling does not apply, because all words are the model's own.

Letters: B images, S sampled captions per image, M words of the batch, T words of a caption.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.host import (
    ENGINE_REGISTRY,
    LOSSES_REGISTRY,
    SCORER_REGISTRY,
    DefaultTrainer,
    build_scorer,
    comm,
    get_event_storage,
    kfg,
)
from xmodaler_ssattn.modeling.collate import send
from xmodaler_ssattn.modeling.sampling import sample_captions
from xmodaler_ssattn.partners import is_kind_of, losses_of, require_grounded_captioner
from xmodaler_ssattn.processes import losses_over_processes
from xmodaler_ssattn.scorer.caption_reward import unread_files

LOSS = "SelfCriticalLoss"
BASELINES = ("greedy", "mean")
# The hosts' losses on target words; ours state themselves what they learn from captions.
HOST_WORD_LOSSES = ("CrossEntropy", "LabelSmoothing", "RewardCriterion")


def over_others(rewards: Tensor) -> Tensor:
    """Advantages r - the mean of the image's other S - 1 captions (Luo, 2020, arXiv:2003.09971): (B, S) -> (B, S).

    The other captions do not depend on the caption itself, so the gradient is unbiased.

    Raises:
        ValueError: S is 1, so there is no other caption.
    """
    if (samples := rewards.shape[1]) < 2:
        raise ValueError(f"over_others: expected at least two captions per image, got {samples}.")
    return rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (samples - 1)


@ENGINE_REGISTRY.register()
class SelfCriticalTrainer(DefaultTrainer):
    """The host's trainer with another step. ``SCORER.BASELINE`` chooses the baseline; DATALOADER.SEQ_PER_SAMPLE is S.

    The event storage gets ``rl/reward`` and ``rl/baseline``, means over the batch and the processes, ``rl/length``,
    the number of words with the end, and each term of the reward, such as ``rl/CiderD``.

    Raises:
        UserError: lists all settings that cannot work, before any data is read.
    """

    _train_data_loader_iter: Any  # of the host; None at the beginning of an epoch

    def __init__(self, cfg: Any) -> None:
        require_grounded_captioner(cfg, "SelfCriticalTrainer", "from which it cannot sample captions")
        check_config(cfg)
        super().__init__(cfg)
        self.scorer = build_scorer(cfg)
        self.baseline = cfg.SCORER.BASELINE
        self.samples = cfg.DATALOADER.SEQ_PER_SAMPLE

    def resume_or_load(self, resume: bool = True) -> None:
        if not self.cfg.MODEL.WEIGHTS and not (resume and self.checkpointer.has_checkpoint()):
            raise UserError(
                "MODEL.WEIGHTS is empty, but self-critical training must start from a trained model: the captions of a "
                "random model have almost no reward to learn from. Train with cross-entropy first and give the "
                "checkpoint: MODEL.WEIGHTS OUTPUT_DIR/model_best.pth or model_final.pth (or --resume this stage)."
            )
        super().resume_or_load(resume=resume)

    def run_step(self) -> None:
        start = time.perf_counter()
        samples = self._next_samples()
        data_time = time.perf_counter() - start
        batch = comm.unwrap_model(self.model).preprocess_batch(samples)
        self.model.eval()
        try:
            batch, metrics = self._sample_and_score(batch)
            outputs = self.model(batch)
        finally:
            self.model.train()
        losses = losses_over_processes(self.losses, outputs)
        self.optimizer.zero_grad()
        total: Any = sum(value for name, value in losses.items() if "acc" not in name)
        total.backward()
        if total.is_cuda:  # reading the losses waits for the device: the update is queued before
            self.optimizer.step()
        self._write_metrics(losses, data_time)
        self._write_rewards(metrics)
        if not total.is_cuda:
            self.optimizer.step()
        if getattr(self, "ema", None) is not None:  # upstream's averaged weights
            self.ema.update(self.model)

    def _next_samples(self) -> list[dict]:
        """The next batch; reshuffles after an epoch, or when a resumed run begins an epoch (no iterator)."""
        if hasattr(super(), "_next_batch"):  # the embedded runtime counts the batches, to resume within an epoch
            return super()._next_batch()
        iterator = self._train_data_loader_iter
        samples = next(iterator, None) if iterator is not None else None
        if samples is None:
            if comm.get_world_size() > 1:
                self.train_data_loader.sampler.set_epoch(self.iter // self.iters_per_epoch)
            self._train_data_loader_iter = iter(self.train_data_loader)
            samples = next(self._train_data_loader_iter)
        return samples

    def _sample_and_score(self, batch: dict) -> tuple[dict, dict[str, float]]:
        """The batch for the gradient, with the advantages in REWARDS, and the values to log."""
        model = comm.unwrap_model(self.model)
        greedy = self.baseline == "greedy"
        sampled = sample_captions(model, batch, self.samples, greedy_first=greedy)
        images = len(batch[kfg.IDS])
        # (B, captions per image, T) each, in one copy: the host must know the words to score them.
        sents, regions = torch.stack(sampled).cpu().view(2, images, self.samples + int(greedy), -1)
        scores = self._score(batch, sents[:, int(greedy) :], regions[:, int(greedy) :])
        rewards = scores.pop(kfg.REWARDS)
        if greedy:
            baseline = self._score(batch, sents[:, :1], regions[:, :1])[kfg.REWARDS]  # (B, 1)
            advantages = rewards - baseline
        else:
            baseline, advantages = rewards, over_others(rewards)
        forced = forced_batch(batch, sents[:, int(greedy) :].flatten(0, 1), model.greedy_decoder.eos_token_id)
        forced[kfg.REWARDS] = send(advantages.reshape(-1).float(), model.device)
        forced[keys.SUPPRESSED_WORD] = model.greedy_decoder.unk_token_id
        metrics = {"reward": float(rewards.mean()), "baseline": float(baseline.mean())}
        metrics["length"] = forced[keys.NUM_WORDS] / rewards.numel()
        return forced, metrics | {name: float(value) for name, value in scores.items()}

    def _score(self, batch: dict, sents: Tensor, regions: Tensor) -> dict:
        """The scorer's output for (B, S, T) captions, with REWARDS as (B, S) float64."""
        scores = self.scorer(
            {
                **{key: batch[key] for key in (keys.BOXES_PX, keys.NUM_REGIONS, kfg.ATT_FEATS, kfg.ATT_MASKS)},
                kfg.IDS: [image_id for image_id in batch[kfg.IDS] for _ in range(sents.shape[1])],
                kfg.G_SENTS_IDS: sents.flatten(0, 1),
                keys.WORD_REGIONS: regions.flatten(0, 1),
            }
        )
        return {**scores, kfg.REWARDS: torch.as_tensor(scores[kfg.REWARDS], dtype=torch.float64).view(sents.shape[:2])}

    def _write_rewards(self, metrics: dict[str, float]) -> None:
        """Put the rewards, averaged over the processes, into the event storage."""
        gathered = comm.gather(metrics)
        if comm.is_main_process():
            means = {f"rl/{name}": sum(each[name] for each in gathered) / len(gathered) for name in metrics}
            get_event_storage().put_scalars(**means)


def forced_batch(batch: dict, sents: Tensor, end: int = 0) -> dict:
    """A training batch with sampled captions.

    Args:
        batch: B images, from ``preprocess_batch``.
        sents: (B S, T) int64 on the CPU, ``end`` from a caption's end on.

    Returns:
        a copy of ``batch`` with the keys of the captions replaced. The end is a caption's last word to predict; in a
        caption without end, all T words are predicted.
    """
    device = batch[kfg.ATT_FEATS].device
    ended = (sents == end).int()
    lengths = torch.where(ended.any(dim=1), ended.argmax(dim=1) + 1, sents.shape[1])
    longest = int(lengths.max())
    words = sents[:, :longest]
    tokens = torch.cat([torch.full_like(words[:, :1], end), words[:, :-1]], dim=1)
    targets = words.masked_fill(torch.arange(longest) >= lengths.unsqueeze(1), -1)
    return {
        **batch,
        kfg.G_TOKENS_IDS: send(tokens, device),
        kfg.G_TARGET_IDS: send(targets, device),
        keys.CAPTION_LENGTHS: lengths.tolist(),
        keys.CAPTIONS_PER_IMAGE: len(sents) // len(batch[kfg.IDS]),
        keys.NUM_WORDS: int(lengths.sum()),
    }


def learns_from_captions(name: str) -> str:
    """What the loss ``name``, or a class that it is derived from, learns from captions: see ``Loss``."""
    if is_kind_of(LOSSES_REGISTRY, name, *HOST_WORD_LOSSES):
        return "words"
    return getattr(LOSSES_REGISTRY.get(name), "learns_from_captions", "") if name in LOSSES_REGISTRY else ""


def check_config(cfg: Any) -> None:
    """Refuse settings of the self-critical stage that cannot work, all at once."""
    problems = []
    if cfg.SCORER.BASELINE not in BASELINES:
        problems.append(f"SCORER.BASELINE: expected one of {BASELINES}, got {cfg.SCORER.BASELINE!r} (not a beam).")
    elif cfg.SCORER.BASELINE == "mean" and cfg.DATALOADER.SEQ_PER_SAMPLE < 2:
        problems.append(
            "SCORER.BASELINE is 'mean', the mean of the image's other captions, so DATALOADER.SEQ_PER_SAMPLE must be "
            f"at least 2; got {cfg.DATALOADER.SEQ_PER_SAMPLE}."
        )
    if cfg.SCORER.NAME not in SCORER_REGISTRY:
        known = ", ".join(sorted(name for name, _ in SCORER_REGISTRY))
        problems.append(
            f"SCORER.NAME: expected a registered scorer such as GroundedScorer, got {cfg.SCORER.NAME!r}; "
            f"known are {known}."
        )
    names = list(cfg.LOSSES.NAMES)
    learned = {name: learns_from_captions(name) for name in names}
    if not losses_of(cfg, LOSS):
        problems.append(f"LOSSES.NAMES: expected {LOSS!r} among them, got {names!r}.")
    if wrong := [name for name in names if learned[name] == "words"]:
        problems.append(
            f"LOSSES.NAMES: {', '.join(wrong)} would teach the model to repeat its own output; remove them, {LOSS} "
            "replaces them."
        )
    for name in sorted(name for name in learned if learned[name] == "pairs"):
        problems.append(
            f"LOSSES.NAMES: {name} pairs regions with the words of reference captions, but the captions here "
            "are sampled; remove it. SCORER.GROUNDING_WEIGHT rewards object words whose region is right."
        )
    problems += unread_files(cfg)
    raise_all(problems, "ENGINE.NAME SelfCriticalTrainer cannot work with this config")
