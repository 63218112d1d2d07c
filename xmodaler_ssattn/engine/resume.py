"""Compare a resumed run with the interrupted one, and name all differences that are not allowed.

Both hosts restore weights, optimiser, schedule and iteration, and count epochs in iterations. A setting that was
changed before resuming therefore has no effect (BASE_LR: the optimiser's rates are read from the file), shifts every
epoch (TRAIN_BATCH_SIZE, processes, images), or makes the rest of the run a different experiment (losses, data). A hook
stores the run's settings and facts in the checkpoint, with the states of the hooks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodaler_ssattn.configuring import flatten, read_yaml, values_of
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import read_text
from xmodaler_ssattn.host import HookBase, comm
from xmodaler_ssattn.processes import images_per_step
from xmodaler_ssattn.safe_load import safe_load

LAST_CHECKPOINT = "last_checkpoint"  # the hosts' file that names the checkpoint to resume from
# Config keys and groups that may differ. All others, including those of foreign classes, must be equal.
MAY_DIFFER = (
    # Paths; the contents are compared by the facts.
    "OUTPUT_DIR", "DATALOADER.ANNO_FOLDER", "DATALOADER.REGIONS", "INFERENCE.VOCAB", "INFERENCE.PICTURES",
    "INFERENCE.VAL_ANNFILE", "INFERENCE.TEST_ANNFILE", "MODEL.WEIGHTS", "MODEL.PARTIAL_WEIGHTS",
    "LOSSES.WORD_ATTENTION.PAIRS",
    # The way of computing.
    "MODEL.DEVICE", "MODEL.CPU_THREADS", "MODEL.CAPTURE_GRAPHS", "MODEL.TF32", "DATALOADER.CACHE",
    "DATALOADER.NUM_WORKERS", "CUDNN_BENCHMARK", "SOLVER.AMP",
    # The product with the number of processes is one of the facts.
    "DATALOADER.TRAIN_BATCH_SIZE",
    # The embedded runtime restores the random states, so that the seed is not used again; upstream starts from it.
    "SEED", "VERSION",
    # The length of the run, and its checkpoints and scores.
    "SOLVER.EPOCH", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINT_STEPS", "SOLVER.CHECKPOINT_MINUTES",
    "SOLVER.KEEP_LAST", "SOLVER.KEEP_EVERY", "SOLVER.DAMAGED_CHECKPOINT", "SOLVER.EVAL_PERIOD",
    "SOLVER.WRITE_PERIOD", "DATASETS.VAL",
    "DATASETS.TEST", "DATALOADER.TEST_BATCH_SIZE", "DECODE_STRATEGY.NAME", "DECODE_STRATEGY.BEAM_SIZE",
    "INFERENCE.NAME", "INFERENCE.METRICS", "INFERENCE.FINAL_METRICS", "INFERENCE.GT_ATTENTION",
    "INFERENCE.SAVE_ATTENTION", "INFERENCE.REGION_RULE", "INFERENCE.REGION_CLASS_POWER",
    "INFERENCE.UNION_OVERLAP", "INFERENCE.REGION_CLASSES", "INFERENCE.VAL_EVAL_START", "INFERENCE.TEST_EVAL_START",
)  # fmt: skip
BATCH_SIZE = "DATALOADER.TRAIN_BATCH_SIZE"
IMAGES_PER_STEP = "images per step (DATALOADER.TRAIN_BATCH_SIZE times processes)"
ITERATIONS = "iterations per epoch"


def check_same_run(stored: Mapping[str, Mapping], now: Mapping[str, Mapping], where: str) -> None:
    """Refuse to resume a different run; log differences that are allowed.

    Args:
        stored, now: {"settings": {key: value}, "facts": {name: value}} of the checkpoint and of this run. Keys
            in only one of them are not compared.
        where: the checkpoint, for the message.
    """
    problems = []
    for key in _changed(stored["settings"], now["settings"]):
        sentence = f"{key}: {stored['settings'][key]!r} in the checkpoint, {now['settings'][key]!r} now"
        if key in MAY_DIFFER:
            logging.getLogger(__name__).info("Resuming with a different %s.", sentence)
        else:
            problems.append(sentence)
    for what in _changed(stored["facts"], now["facts"]):
        problems.append(f"{what}: {stored['facts'][what]} in the checkpoint, {now['facts'][what]} now")
    raise_all(
        problems,
        f"{where}: --resume continues a run with the same settings (see its config.yaml), but this run is different "
        "(for a new run from its weights, give MODEL.WEIGHTS and another OUTPUT_DIR)",
    )


def _changed(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [key for key in stored if key in now and stored[key] != now[key]]


def warn_of_another_model(cfg: Any, checkpoint: Path) -> None:
    """Warn about settings of the model that differ from those of its training and do not change shapes.

    Some are changed on purpose, such as MODEL.SS_ATTENTION.LAMBDA; others, such as ACTIVATION, break the model.
    """
    trained, now = run_of(checkpoint)["settings"], values_of(cfg)
    for key in _changed(trained, now):
        if key.startswith("MODEL.") and key not in MAY_DIFFER and not key.endswith("_SHA256"):
            logging.getLogger(__name__).warning(
                "%s was trained with a different %s: %r, now %r.", checkpoint, key, trained[key], now[key]
            )


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from, or None."""
    pointer = folder / LAST_CHECKPOINT
    if not pointer.is_file():
        return None
    name = read_text(pointer, "The name of the last checkpoint").strip()
    if name not in os.listdir(folder):  # so that it can name nothing outside
        raise UserError(f"{pointer} names {name[:100]!r}, but {folder} does not contain it.")
    return folder / name


def iterations_of(checkpoint: Path) -> int:
    """The number of iterations that a checkpoint's run has done."""

    def iteration(content: Any) -> Any:
        return content.get("iteration") if isinstance(content, dict) else None

    done = safe_load(checkpoint, "The checkpoint", part=iteration)
    if type(done) is not int or done < 0:
        raise UserError(f"The checkpoint: {checkpoint} has no number of iterations; it is not one of a training run.")
    return done + 1


def run_of(checkpoint: Path) -> dict[str, dict]:
    """The settings and facts of a checkpoint's run: {"settings": ..., "facts": ...}.

    For a checkpoint without the hook's state (an old one, or ``model_best.pth``): the settings of ``config.yaml`` in
    its folder, and the batch size as the only fact.
    """
    try:
        state = safe_load(checkpoint, part=lambda content: content["trainer"]["hooks"][SameRun.__qualname__])
    except Exception:  # damaged, of an older format, or without the state: errors are reported when it is loaded
        state = None
    if state is not None:
        return state
    try:
        settings = read_yaml(checkpoint.parent / "config.yaml", "The config of the run")
    except UserError:  # missing, another kind of file, or with upstream's tags
        settings = None
    settings = flatten(settings) if isinstance(settings, dict) else {}
    return {
        "settings": settings,
        "facts": {key: settings[key] for key in (BATCH_SIZE,) if settings.get(key) is not None},
    }


class SameRun(HookBase):
    """Stores the run's settings and facts in its checkpoints, and compares them when one is loaded.

    Register it before ``resume_or_load``.

    Args:
        cfg: the run's config.
        facts: further values that must be equal, {name: plain value}, such as digests of the data.
    """

    def __init__(self, cfg: Any, facts: Mapping[str, Any]) -> None:
        self._settings, self._facts = values_of(cfg), dict(facts)

    def state_dict(self) -> dict[str, dict]:
        loader = self.trainer.train_data_loader
        images = images_per_step(self.trainer.cfg, comm.get_world_size())
        facts = {ITERATIONS: self.trainer.iters_per_epoch, IMAGES_PER_STEP: images}
        if hasattr(loader, "dataset"):
            facts["training images"] = len(loader.dataset)
        return {"settings": self._settings, "facts": {**facts, **self._facts}}

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Called by the host, after the iteration and before the optimiser are restored.

        Raises:
            UserError: it is a different run, or the run is shorter than the checkpoint's training so far.
        """
        check_same_run(state, self.state_dict(), self.trainer.cfg.OUTPUT_DIR)
        trainer = self.trainer
        if trainer.iter + 1 > trainer.max_iter:
            raise UserError(
                f"SOLVER.EPOCH is {trainer.cfg.SOLVER.EPOCH}, but the checkpoint in {trainer.cfg.OUTPUT_DIR} has "
                f"{(trainer.iter + 1) // trainer.iters_per_epoch} completed epochs; there is nothing to resume."
            )
