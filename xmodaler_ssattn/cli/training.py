"""One training or evaluation of ``xmodaler train``, from the checks before it to its end, in one process or several."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from xmodaler_ssattn import host
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.data_files import changed_data, check_files, data_facts, prepare_sample, record_identity
from xmodaler_ssattn.cli.output import accept_all_characters
from xmodaler_ssattn.cli.overlays import overlay_hook
from xmodaler_ssattn.configuring import values_of
from xmodaler_ssattn.engine.best import best_hook
from xmodaler_ssattn.engine.finite import OnlyFinite
from xmodaler_ssattn.engine.kept import KeepCheckpoints, choose_intact
from xmodaler_ssattn.engine.launched import first_alone
from xmodaler_ssattn.engine.one_run import EndWhenAsked, cut_metrics, make_room, only_run_in
from xmodaler_ssattn.engine.resume import (
    BATCH_SIZE,
    IMAGES_PER_STEP,
    SameRun,
    check_same_run,
    iterations_of,
    last_checkpoint,
    run_of,
)
from xmodaler_ssattn.engine.weights import accept_weights
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import atomic_path
from xmodaler_ssattn.modeling.word_list import check_words
from xmodaler_ssattn.partners import is_kind_of, losses_of
from xmodaler_ssattn.processes import Place, images_per_step
from xmodaler_ssattn.safe_load import read_checkpoint
from xmodaler_ssattn.shipped import find
from xmodaler_ssattn.stopping import polite_stops, stopping_at_once

logger = logging.getLogger(__name__)


def run_in_place(args: argparse.Namespace, place: Place | None) -> int:
    """Check and prepare the run, then train or evaluate; in one process of several when ``place`` is given."""
    first = not (place.rank if place is not None else args.machine_rank)
    with contextlib.ExitStack() as stack:
        with first_alone(place):
            if first:
                print(host.describe(), flush=True)
            cfg = load_config(args.config_file, args.opts, data=args.data, device=args.device)
            args.config_file = str(find(args.config_file, "The config file"))  # both hosts copy it into the log
            if first:
                print(f"Device: {cfg.MODEL.DEVICE}. Output: {cfg.OUTPUT_DIR}", flush=True)
            with polite_stops(), stopping_at_once():
                prepare_sample(cfg, given=args.data is not None)
            check_files(cfg)
            if first:
                raise_all(changed_data(cfg)[0], "Data files have changed")
            record_identity(cfg, args.config_file)
            check_flags(args, cfg)
            facts = {} if args.eval_only else data_facts(cfg)
            stack.enter_context(polite_stops())
            if first and not args.eval_only:
                with stopping_at_once():
                    prepare_folder(args, cfg, facts, stack)
        work = (args, cfg, facts)
        if place is not None:
            run_host(*work)
        else:
            host.launch(run_host, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, work)
    return 0


def check_flags(args: argparse.Namespace, cfg: Any) -> None:
    """Refuse flags and keys that contradict each other."""
    if cfg.DATALOADER.GLOBAL_BATCH and host.NAME == host.UPSTREAM:
        raise UserError(
            "DATALOADER.GLOBAL_BATCH True needs the embedded runtime (unset XMODALER_HOME, or set "
            "XMODALER_SSATTN_HOST=embedded). For X-modaler, divide TRAIN_BATCH_SIZE by the number of processes."
        )
    if args.eval_only and not (args.resume or cfg.MODEL.WEIGHTS):
        raise UserError("--eval-only needs MODEL.WEIGHTS FILE, or --resume for the last checkpoint.")
    sampled = is_kind_of(host.ENGINE_REGISTRY, cfg.ENGINE.NAME, "SelfCriticalTrainer")
    if not args.eval_only and losses_of(cfg, "SelfCriticalLoss") and not sampled:
        raise UserError(
            f"LOSSES.NAMES contains SelfCriticalLoss, but ENGINE.NAME is {cfg.ENGINE.NAME}: sampled captions "
            "and their rewards come only from SelfCriticalTrainer; the *_rl.yaml configs set both."
        )


def prepare_folder(args: argparse.Namespace, cfg: Any, facts: Mapping[str, Any], stack: contextlib.ExitStack) -> None:
    """Take OUTPUT_DIR for this run until ``stack`` is closed, and let it hold only what this run continues."""
    folder = Path(cfg.OUTPUT_DIR)
    if not args.resume:
        with only_run_in(folder):
            moved = make_room(folder, move_aside=args.move_aside)
        if moved is not None:
            print(f"The earlier run is now in {moved}.", flush=True)
    stack.enter_context(only_run_in(folder))
    if args.resume:
        choose_intact(folder, cfg.SOLVER.DAMAGED_CHECKPOINT)
        check_resume(cfg, args.num_gpus * args.num_machines, facts)
    checkpoint = last_checkpoint(folder)
    cut_metrics(folder, 0 if checkpoint is None else iterations_of(checkpoint))


def check_resume(cfg: Any, processes: int, facts: Mapping[str, Any]) -> None:
    """Refuse to resume a different run, before any file in its folder changes; see ``engine/resume.py``."""
    if (checkpoint := last_checkpoint(Path(cfg.OUTPUT_DIR))) is None:
        return
    stored = run_of(checkpoint)
    where = f"The last checkpoint in {cfg.OUTPUT_DIR}"
    check_words(stored["settings"].get("MODEL.VOCABULARY_SHA256", ""), cfg.MODEL.VOCABULARY_SHA256, where)
    sizes = {IMAGES_PER_STEP: images_per_step(cfg, processes), BATCH_SIZE: cfg.DATALOADER.TRAIN_BATCH_SIZE}
    check_same_run(stored, {"settings": values_of(cfg), "facts": {**facts, **sizes}}, where)


def run_host(args: argparse.Namespace, cfg: Any, facts: Mapping[str, Any]) -> dict[str, float]:
    """One process of a run: set up the host, build its trainer, train or evaluate.

    It is part of this package, so that a spawned process imports the package and registers our classes.

    Args:
        facts: see ``engine/resume.py``.

    Returns:
        with ``--eval-only`` the scores of val and test; else an empty dict (they are in metrics.json).
    """
    accept_all_characters()  # a spawned process has not been through the command line's entry point
    with loader_errors():
        with stopping_at_once():
            trainer = ready_trainer(args, cfg, facts)
            if args.eval_only:
                return evaluate_splits(trainer)
        with polite_stops():
            trainer.train()
    return {}


def ready_trainer(args: argparse.Namespace, cfg: Any, facts: Mapping[str, Any]) -> Any:
    """The host's trainer with its weights and our hooks."""
    cfg.freeze()
    if cfg.MODEL.CPU_THREADS > 0:
        torch.set_num_threads(cfg.MODEL.CPU_THREADS)
    with unchanged(Path(cfg.OUTPUT_DIR, "config.yaml")) if args.eval_only else contextlib.nullcontext():
        host.default_setup(cfg, args)
    share_log_handlers()
    logger.info(host.describe(), extra={"file_only": True})
    trainer = host.build_engine(cfg)
    trainer.checkpointer._load_file = read_checkpoint  # upstream would run the code in a file
    resuming = args.resume and trainer.checkpointer.has_checkpoint()
    if args.resume and not resuming:
        logger.warning("--resume: no checkpoint in %s yet; starting a new run.", cfg.OUTPUT_DIR)
    if args.eval_only or not resuming:
        weights = trainer.checkpointer.get_checkpoint_file() if resuming else cfg.MODEL.WEIGHTS
        if args.eval_only and not weights:
            raise UserError(f"--eval-only --resume: there is no checkpoint in {cfg.OUTPUT_DIR} to evaluate.")
        if weights:
            accept_weights(trainer, weights, partial=cfg.MODEL.PARTIAL_WEIGHTS and not args.eval_only)
    if args.eval_only:  # only the weights are used: the batch size, schedule and losses of their run do not matter
        trainer.checkpointer.load(weights, checkpointables=[])
        return trainer
    trainer.register_hooks([SameRun(cfg, facts)])
    trainer.resume_or_load(resume=args.resume)
    solver = cfg.SOLVER
    kept = KeepCheckpoints(Path(cfg.OUTPUT_DIR), solver.KEEP_LAST, solver.KEEP_EVERY, best=bool(solver.KEEP_BEST))
    trainer.register_hooks([OnlyFinite(), overlay_hook(cfg), best_hook(cfg), kept])  # both hosts skip None
    if host.NAME == host.UPSTREAM:  # the embedded runtime saves before it ends
        trainer.register_hooks([EndWhenAsked()])
    return trainer


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Restore a file after the block; X-modaler writes the config of an evaluation over that of the training."""
    before = path.read_bytes() if path.is_file() else None
    try:
        yield
    finally:
        if before is not None and path.read_bytes() != before:
            with atomic_path(path) as temporary:
                temporary.write_bytes(before)


@contextlib.contextmanager
def loader_errors() -> Iterator[None]:
    """One sentence for a process that loads data and was ended, in most cases for memory."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"A process that loads data was ended ({str(error).rstrip('.')}). Often the memory is full: lower "
            "DATALOADER.NUM_WORKERS (0 loads in the training process) or DATALOADER.TRAIN_BATCH_SIZE; --resume "
            "continues from the last checkpoint."
        ) from error


def evaluate_splits(trainer: Any) -> dict[str, float]:
    """The scores of the trainer's model on the splits that the config has."""
    scores: dict[str, float] = {}
    for split in ("val", "test"):
        loader, evaluator = getattr(trainer, f"{split}_data_loader"), getattr(trainer, f"{split}_evaluator")
        if loader is not None:
            scores.update(trainer.test(trainer.cfg, trainer.model, loader, evaluator, epoch=-1) or {})
    for name, value in scores.items():
        print(f"{name:28s} {value:.4f}")
    return scores


def share_log_handlers() -> None:
    """Send our log lines to the host's handlers: terminal and log file."""
    ours, hosts = logging.getLogger("xmodaler_ssattn"), logging.getLogger("xmodaler")
    for handler in hosts.handlers:
        if handler not in ours.handlers:
            ours.addHandler(handler)
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler(sys.stdout))
    ours.setLevel(logging.INFO)
    ours.propagate = False
