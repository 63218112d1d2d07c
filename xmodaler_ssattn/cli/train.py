"""``xmodaler train``: the host's own trainer on a config, with the flags of X-modaler's train_net.py."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.cli.options import add_config_options, positive
from xmodaler_ssattn.cli.output import accept_all_characters
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import atomic_path
from xmodaler_ssattn.shipped import find, listing
from xmodaler_ssattn.stopping import polite_stops, stopping_at_once

if TYPE_CHECKING:
    from xmodaler_ssattn.processes import Place

DATASET = "Flickr30kEntitiesDataset"
CONFIG_HELP = (
    "a yaml config, or the name of one of the package's, such as flickr30k_entities/ss_attn.yaml "
    "(`xmodaler train --help` lists them)"
)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        description="Train with X-modaler's trainer. The data of the sample scenes are drawn on first use.",
        epilog=listing().replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser, *, training: bool = True) -> None:
    """Add the flags of X-modaler's train_net.py, --data and --device; without ``training`` only those to evaluate."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help=CONFIG_HELP)
    parser.add_argument("--data", metavar="DIR", help="folder written by `xmodaler prepare`; sets all data paths")
    parser.add_argument("--device", help="cpu or cuda; default: cuda when there is one")
    if training:
        parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
        parser.add_argument(
            "--move-aside",
            action="store_true",
            help="rename the folder of an earlier run in OUTPUT_DIR, start a new one",
        )
        parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS (or the last checkpoint)")
    else:
        parser.set_defaults(resume=False, move_aside=False, eval_only=True)
    parser.add_argument("--num-gpus", type=positive, default=1, help="GPUs per machine")
    parser.add_argument("--num-machines", type=positive, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="rank of this machine")
    # One port per user, as in X-modaler, so that an orphaned run is noticed as a port in use.
    port = 2**15 + 2**14 + (os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="for several processes")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn import host
    from xmodaler_ssattn.engine.launched import place_of
    from xmodaler_ssattn.processes import joined

    place = place_of(os.environ)
    if place is not None:
        args.num_gpus, args.num_machines = place.local_size, place.size // place.local_size
        args.machine_rank = place.rank // place.local_size
        args.resume |= place.restarted and not args.eval_only
    with joined(place, host.comm):
        return run_in_place(args, place)


def run_in_place(args: argparse.Namespace, place: Place | None) -> int:
    """Check and prepare the run, then train or evaluate; in one process of several when ``place`` is given."""
    from xmodaler_ssattn import host
    from xmodaler_ssattn.cli.configuring import load_config
    from xmodaler_ssattn.cli.identity import data_facts, record_identity
    from xmodaler_ssattn.engine.launched import first_alone

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
        if place is not None:
            run_host(args, cfg, facts)
            return 0
        host.launch(
            run_host,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args, cfg, facts),
        )
    return 0


def check_flags(args: argparse.Namespace, cfg: Any) -> None:
    """Refuse flags and keys that contradict each other."""
    from xmodaler_ssattn import host

    if cfg.DATALOADER.GLOBAL_BATCH and host.NAME == host.UPSTREAM:
        raise UserError(
            "DATALOADER.GLOBAL_BATCH True needs the embedded runtime (unset XMODALER_HOME, or set "
            "XMODALER_SSATTN_HOST=embedded). For X-modaler, divide TRAIN_BATCH_SIZE by the number of processes."
        )
    if args.eval_only and not (args.resume or cfg.MODEL.WEIGHTS):
        raise UserError("--eval-only needs MODEL.WEIGHTS FILE, or --resume for the last checkpoint.")
    if not args.eval_only and "SelfCriticalLoss" in cfg.LOSSES.NAMES and cfg.ENGINE.NAME != "SelfCriticalTrainer":
        raise UserError(
            f"LOSSES.NAMES contains SelfCriticalLoss, but ENGINE.NAME is {cfg.ENGINE.NAME}: sampled captions "
            "and their rewards come only from SelfCriticalTrainer; the *_rl.yaml configs set both."
        )


def prepare_folder(args: argparse.Namespace, cfg: Any, facts: Mapping[str, Any], stack: contextlib.ExitStack) -> None:
    """Take OUTPUT_DIR for this run until ``stack`` is closed, and let it hold only what this run continues.

    Raises:
        UserError: another run uses the folder; it holds a run that is not to be resumed, or one that cannot be.
    """
    from xmodaler_ssattn.engine.kept import choose_intact
    from xmodaler_ssattn.engine.one_run import cut_metrics, make_room, only_run_in
    from xmodaler_ssattn.engine.resume import iterations_of, last_checkpoint

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
    from xmodaler_ssattn.configuring import values_of
    from xmodaler_ssattn.engine.resume import IMAGES_PER_STEP, check_same_run, last_checkpoint, run_of
    from xmodaler_ssattn.modeling.word_list import check_words
    from xmodaler_ssattn.processes import images_per_step

    checkpoint = last_checkpoint(Path(cfg.OUTPUT_DIR))
    if checkpoint is None:
        return
    stored = run_of(checkpoint)
    where = f"The last checkpoint in {cfg.OUTPUT_DIR}"
    check_words(stored["settings"].get("MODEL.VOCABULARY_SHA256", ""), cfg.MODEL.VOCABULARY_SHA256, where)
    batch = cfg.DATALOADER.TRAIN_BATCH_SIZE
    now = {**facts, IMAGES_PER_STEP: images_per_step(cfg, processes), "DATALOADER.TRAIN_BATCH_SIZE": batch}
    check_same_run(stored, {"settings": values_of(cfg), "facts": now}, where)


def run_host(args: argparse.Namespace, cfg: Any, facts: Mapping[str, Any] = MappingProxyType({})) -> dict[str, float]:
    """One process of a run: set up the host, build its trainer, train or evaluate.

    It is part of this package, so that a spawned process imports the package and registers our classes.

    Args:
        facts: values, beyond the config, that must be equal when the run is resumed; see ``engine/resume.py``.

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
    import torch

    from xmodaler_ssattn import host
    from xmodaler_ssattn.cli.overlays import overlay_hook
    from xmodaler_ssattn.engine.best import best_hook
    from xmodaler_ssattn.engine.finite import OnlyFinite
    from xmodaler_ssattn.engine.kept import keeping_hook
    from xmodaler_ssattn.engine.one_run import EndWhenAsked
    from xmodaler_ssattn.engine.resume import SameRun
    from xmodaler_ssattn.safe_load import read_checkpoint

    cfg.freeze()
    if cfg.MODEL.CPU_THREADS > 0:
        torch.set_num_threads(cfg.MODEL.CPU_THREADS)
    with unchanged(Path(cfg.OUTPUT_DIR, "config.yaml")) if args.eval_only else contextlib.nullcontext():
        host.default_setup(cfg, args)
    share_log_handlers()
    logging.getLogger(__name__).info(host.describe(), extra={"file_only": True})
    trainer = host.build_engine(cfg)
    trainer.checkpointer._load_file = read_checkpoint  # upstream would run the code in a file
    resuming = args.resume and trainer.checkpointer.has_checkpoint()
    if args.resume and not resuming:
        logging.getLogger(__name__).warning("--resume: no checkpoint in %s yet; starting a new run.", cfg.OUTPUT_DIR)
    if args.eval_only or not resuming:
        weights = trainer.checkpointer.get_checkpoint_file() if resuming else cfg.MODEL.WEIGHTS
        if args.eval_only and not weights:
            raise UserError(f"--eval-only --resume: there is no checkpoint in {cfg.OUTPUT_DIR} to evaluate.")
        if weights:
            _accept_weights(trainer, weights, partial=cfg.MODEL.PARTIAL_WEIGHTS and not args.eval_only)
    if args.eval_only:  # only the weights are used: the batch size, schedule and losses of their run do not matter
        trainer.checkpointer.load(weights, checkpointables=[])
        return trainer
    trainer.register_hooks([SameRun(cfg, facts)])
    trainer.resume_or_load(resume=args.resume)
    ours = [OnlyFinite(), overlay_hook(cfg), best_hook(cfg), keeping_hook(cfg)]
    if host.NAME == host.UPSTREAM:  # the embedded runtime saves before it ends
        ours.append(EndWhenAsked())
    trainer.register_hooks([hook for hook in ours if hook is not None])
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


def _accept_weights(trainer: Any, path: str, *, partial: bool) -> None:
    """Refuse weights that do not fit; log which are missing and how their model differed."""
    from xmodaler_ssattn import host
    from xmodaler_ssattn.engine.resume import warn_of_another_model

    logging.getLogger(__name__).info("Weights: %s", path)
    fresh = check_weights(path, host.comm.unwrap_model(trainer.model), partial=partial)
    if fresh:
        logging.getLogger(__name__).info(
            "%s lacks %d weights, which keep their initial values: %s", path, len(fresh), ", ".join(fresh)
        )
    warn_of_another_model(trainer.cfg, Path(path))


def check_files(cfg: Any) -> None:
    """Name all missing files of our data set at once; their contents are checked when they are read.

    Raises:
        UserError: the missing files, with their config keys.
    """
    annotations, regions = "`xmodaler prepare annotations`", "`xmodaler prepare regions`"
    problems = []
    for stage in ("TRAIN", "VAL", "TEST"):
        if cfg.DATASETS[stage] != DATASET:
            continue
        wanted = [
            ("INFERENCE.VOCAB", cfg.INFERENCE.VOCAB, annotations),
            ("DATALOADER.REGIONS", cfg.DATALOADER.REGIONS, regions),
            ("DATALOADER.ANNO_FOLDER", Path(cfg.DATALOADER.ANNO_FOLDER) / f"{stage.lower()}.json", annotations),
        ]
        if stage != "TRAIN":
            key = f"{stage}_ANNFILE"
            wanted.append((f"INFERENCE.{key}", cfg.INFERENCE[key], annotations))
        problems += [
            f"{key}: the file {path} does not exist; {command} writes it."
            for key, path, command in wanted
            if not Path(path).is_file()
        ]
    raise_all(dict.fromkeys(problems), "Data files are missing (--data DIR sets all paths at once)")


def changed_data(cfg: Any) -> tuple[list[str], bool]:
    """One sentence for each data file that has changed since it was written, and whether the region file is intact.

    Reads all of them once, about 1 s per GB.
    """
    from xmodaler_ssattn.data.checksums import changed_files
    from xmodaler_ssattn.packs.trust import check_region_file

    if DATASET not in (cfg.DATASETS.TRAIN, cfg.DATASETS.VAL, cfg.DATASETS.TEST):
        return [], True
    problems = changed_files(cfg.DATALOADER.ANNO_FOLDER)
    try:
        check_region_file(cfg.DATALOADER.REGIONS)
    except UserError as error:
        return [*problems, str(error)], False
    return problems, True


def check_weights(path: str, model: Any, *, partial: bool = False) -> list[str]:
    """Refuse weights that do not fit the model; the hosts would load those that fit and leave the rest random.

    Args:
        partial: the file may lack weights of the model; a stock Up-Down model lacks those of the SS attention.

    Returns:
        the names of the weights that the file lacks; empty unless ``partial``.

    Raises:
        UserError: the file is not a checkpoint, was trained with another word list, or has the names or shapes of
            another model; the message counts them.
    """
    import torch

    from xmodaler_ssattn.modeling.word_list import STATE, check_words, from_state
    from xmodaler_ssattn.safe_load import safe_load, weights_of

    stored = safe_load(path, "MODEL.WEIGHTS", part=weights_of)
    if not isinstance(stored, dict) or not all(isinstance(weight, torch.Tensor) for weight in stored.values()):
        raise UserError(f'MODEL.WEIGHTS: {path} has no weights by name; a checkpoint has them under "model".')
    wanted = model.state_dict()
    for name, module in model.named_modules():  # parts that only losses read
        for prefix in (f"{name}.{part}.".lstrip(".") for part in getattr(module, "OF_LOSSES", ())):
            wanted, stored = (
                {key: weight for key, weight in weights.items() if not key.startswith(prefix)}
                for weights in (wanted, stored)
            )
    own, trained = wanted.pop(STATE, None), stored.pop(STATE, None)
    if own is not None and trained is not None:
        check_words(from_state(trained), from_state(own), f"MODEL.WEIGHTS {path}")
    problems = []
    fresh = sorted(wanted.keys() - stored.keys())
    if partial and len(fresh) == len(wanted):
        problems.append("it contains none of the model's weights")
    for what, names in (("lacks", [] if partial else fresh), ("has unknown", stored.keys() - wanted.keys())):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            problems.append(f"it {what} {len(names)} weights: {shown}")
    for name in sorted(wanted.keys() & stored.keys()):
        if stored[name].shape != wanted[name].shape:
            problems.append(f"{name} is {tuple(stored[name].shape)}, expected {tuple(wanted[name].shape)}")
    raise_all(problems, f"MODEL.WEIGHTS: {path} does not fit this config's model")
    return fresh if partial else []


def evaluate_splits(trainer: Any, splits: tuple[str, ...] = ("val", "test")) -> dict[str, float]:
    """The scores of the trainer's model on the splits that the config has."""
    scores: dict[str, float] = {}
    for split in splits:
        loader = getattr(trainer, f"{split}_data_loader")
        if loader is None:
            continue
        evaluator = getattr(trainer, f"{split}_evaluator")
        scores.update(trainer.test(trainer.cfg, trainer.model, loader, evaluator, epoch=-1) or {})
    for name, value in scores.items():
        print(f"{name:28s} {value:.4f}")
    return scores


def prepare_sample(cfg: Any, *, given: bool = False) -> None:
    """Draw the sample scenes if the config is one of theirs and they do not exist yet.

    The numbers of words and object classes depend on the number of scenes, so MODEL.VOCAB_SIZE and
    MODEL.SS_ATTENTION.NUM_CLASSES are set from the drawn data.

    Args:
        given: the user named the folder: scenes in it are used as they are, whatever their number.
    """
    if not cfg.DATALOADER.SAMPLE_SCENES:
        return
    from xmodaler_ssattn.worlds.drawn import draw_dataset
    from xmodaler_ssattn.worlds.drawn.drawn_dataset import MANIFEST
    from xmodaler_ssattn.worlds.making import read_manifest

    folder = Path(cfg.DATALOADER.ANNO_FOLDER)
    if given and (manifest_file := folder / MANIFEST).is_file():
        manifest = read_manifest(manifest_file)
        count = manifest["parameters"]["num_images"]
        if count != cfg.DATALOADER.SAMPLE_SCENES:
            print(f"--data: the {count} scenes in {folder} are used, not {cfg.DATALOADER.SAMPLE_SCENES}.", flush=True)
            cfg.DATALOADER.SAMPLE_SCENES = count
    else:
        if not folder.exists():
            wanted = cfg.DATALOADER.SAMPLE_SCENES
            print(f"The sample scenes do not exist yet: drawing {wanted} into {folder}.", flush=True)
        feature_dim = cfg.MODEL.VISUAL_EMBED.IN_DIM
        manifest, _ = draw_dataset(folder, num_images=cfg.DATALOADER.SAMPLE_SCENES, feature_dim=feature_dim)
    cfg.MODEL.VOCAB_SIZE = manifest["vocabulary_size"]
    cfg.MODEL.SS_ATTENTION.NUM_CLASSES = manifest["num_classes"]


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
