"""``xmodaler check``: verify everything that a run needs before it starts, and list all problems at once."""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.cli.options import add_config_options
from xmodaler_ssattn.cli.output import visible
from xmodaler_ssattn.cli.train import CONFIG_HELP
from xmodaler_ssattn.configuring import pairs_of
from xmodaler_ssattn.errors import UserError, numbered

if TYPE_CHECKING:
    from xmodaler_ssattn.data.mapper import Flickr30kEntitiesDataset
    from xmodaler_ssattn.packs.checks import Inspection

STAGES = ("train", "val", "test")
SAMPLE_IMAGES = 200  # spread over the whole file; all images with --all
BYTES_PER_WEIGHT = 12  # the weight and Adam's two averages, float32


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "check",
        description="Check files, ids, vocabulary, widths, boxes, Java and disk space for a config. The exit code is 2 "
        "when something would stop or spoil the run.",
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", help=CONFIG_HELP)
    add("--regions", metavar="FILE", help="check only this region file, without a config")
    known = "with --regions: compare with known regions of the same pictures, to check a detector's weights"
    add("--against", metavar="FILE", help=known)
    add("--data", metavar="DIR", help="folder written by `xmodaler prepare`; sets all data paths")
    add("--device", help="cpu or cuda; default: cuda when there is one")
    add("--all", action="store_true", help=f"read the features of all images, not of {SAMPLE_IMAGES}")
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.regions:
        return run_regions(args)
    if args.against:
        raise UserError("check --against compares region files: give --regions FILE.")
    if not args.config_file:
        pairs_of(args.opts)  # names a misspelt option
        raise UserError("check: give --config-file FILE, or --regions FILE to check only a region file.")
    from xmodaler_ssattn import host
    from xmodaler_ssattn.cli.configuring import load_config
    from xmodaler_ssattn.packs.checks import Inspection

    print(host.describe(), flush=True)
    cfg = load_config(args.config_file, args.opts, data=args.data, device=args.device)
    check = Inspection()
    folder = Path(cfg.DATALOADER.ANNO_FOLDER)
    if cfg.DATALOADER.get("SAMPLE_SCENES", 0) and not folder.exists():
        check.fact(f"The sample scenes will be drawn into {folder} when training starts.")
    else:
        check_data(cfg, check, read_all=args.all)
    check_metrics(cfg, check)
    check_model_and_disk(cfg, check)
    print(visible(text(check)))
    return 2 if check.problems else 0


def run_regions(args: argparse.Namespace) -> int:
    """Check a region file only: its header, all boxes, and the features of some or all images."""
    from xmodaler_ssattn.packs.checks import Inspection, inspect_against, inspect_boxes, inspect_numbers
    from xmodaler_ssattn.packs.region_classes import names_in
    from xmodaler_ssattn.packs.store import RegionStore
    from xmodaler_ssattn.packs.trust import check_region_file

    options = {"config_file": "--config-file", "data": "--data", "device": "--device", "opts": "KEY VALUE"}
    given = [option for name, option in options.items() if getattr(args, name)]
    if given:
        raise UserError(f"check --regions checks only one file; it does not use {', '.join(given)}.")
    check = Inspection()
    sealed = check_region_file(args.regions)
    store = RegionStore(args.regions)
    probs = "no class probabilities" if store.num_classes is None else f"{store.num_classes} class probabilities"
    check.fact(f"{store.path}: up to {store.num_regions} regions per image, {store.feature_dim} numbers, {probs}")
    check.fact(f"source: {store.attributes.get('source')}; order: {store.attributes.get('order')}")
    if names := names_in(store.attributes):
        check.fact(f"the {len(names)} classes have names: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    check.fact("its sha256 is right" if sealed else "it has no sha256: another program or an earlier version wrote it")
    ids = store.ids.tolist()
    check.add(inspect_boxes(store, ids, None))
    check.add(inspect_numbers(store, _some(ids, args.all), store.num_classes is not None))
    if args.against:
        check_region_file(args.against)
        check.add(inspect_against(store, RegionStore(args.against)))
    print(visible(text(check, "The file can be used.")))
    return 2 if check.problems else 0


def text(check: Inspection, good: str = "The run has everything that it needs.") -> str:
    """The report; ``good`` is its last line when there is no problem."""
    lines = [f"  ok    {fact}" for fact in check.facts]
    lines += [f"  note  {warning}" for warning in check.warnings]
    lines += [numbered(check.problems, shown=100)] if check.problems else []
    count = len(check.problems)
    lines.append(good if not count else f"{count} problem{'s' if count > 1 else ''} to fix before training.")
    return "\n".join(lines)


# --- data ------------------------------------------------------------------------------------------------
def _some(image_ids: list[int], read_all: bool) -> list[int]:
    """All images, or some that are spread over the file."""
    return image_ids[:: 1 if read_all else max(len(image_ids) // SAMPLE_IMAGES, 1)]


def check_data(cfg: Any, check: Inspection, *, read_all: bool = False) -> None:
    """Check files, ids, vocabulary, widths, boxes, numbers and references, and report what the regions can reach."""
    from xmodaler_ssattn.cli.data_files import DATASET, changed_data
    from xmodaler_ssattn.host import DATASETS_REGISTRY
    from xmodaler_ssattn.packs.checks import inspect_boxes, inspect_numbers

    changed, regions_are_intact = changed_data(cfg)
    check.problem(*changed)
    if not regions_are_intact:
        return  # opening it could end this process
    ids: dict[str, list[int]] = {}
    for stage in STAGES:
        name = cfg.DATASETS[stage.upper()]
        if name != DATASET:
            if name:
                check.warn(f"DATASETS.{stage.upper()} is {name}, which is not checked here.")
            continue
        try:
            dataset = DATASETS_REGISTRY.get(DATASET)(cfg, stage)
        except UserError as error:
            check.problem(str(error))
            continue
        records, problems = dataset.collect()
        check.problem(*problems)
        ids[stage] = [record["image_id"] for record in records]
        if stage != "train":
            _check_references(cfg, stage, ids[stage], dataset, check)
        if not records:
            continue
        check.fact(f"{stage}: {len(records):,} usable images in {dataset.annotation_file}")
        probs, some = dataset.inputs.num_classes is not None, _some(ids[stage], read_all)
        check.add(inspect_boxes(dataset.store, ids[stage], dataset.inputs.max_regions), f"{stage}: ")
        check.add(inspect_numbers(dataset.store, some, probs), f"{stage}: ")
        if stage == "train":
            _check_targets(records, dataset, check)
    for one, two in itertools.combinations(STAGES, 2):
        shared = sorted(set(ids.get(one, ())) & set(ids.get(two, ())))
        if shared:
            check.problem(f"{len(shared)} images are in both {one} and {two}: {shared[:10]}")


def _check_targets(records: list[dict[str, Any]], dataset: Flickr30kEntitiesDataset, check: Inspection) -> None:
    total = sum(len(record["captions"]) for record in records)
    check.fact(
        f"train: {100 * dataset.cut_captions / total:.1f} % of {total:,} captions have more than "
        f"{dataset.max_seq_len} words (MODEL.MAX_SEQ_LEN) and are cut"
    )
    if dataset.pair_rule is not None and all("pairs" in record for record in records):
        pairs = [part for record in records for part in record["pairs"]]
        words = sum(len({int(word) for word in part[:, 0]}) for part in pairs)
        if words:
            total_pairs = sum(map(len, pairs))
            check.fact(f"train: {words:,} words are supervised, with {total_pairs / words:.1f} regions on average")
    if dataset.targets is None:
        return
    reached = [bool(row.any()) for record in records for row in record["sigma"]]
    with_boxes = sum(float(record["has_boxes"].sum()) for record in records)
    if not with_boxes:
        check.problem(
            f"{dataset.annotation_file}: no ground-truth box, so GroundingLoss has nothing to learn; "
            "remove it from LOSSES.NAMES, or prepare the annotations with boxes"
        )
        return
    check.fact(
        f"train: {100 * sum(reached) / len(reached):.1f} % of the targets ({dataset.targets}) have a positive region, "
        f"{100 * with_boxes / len(reached):.1f} % have a box"
    )


def _check_references(
    cfg: Any, stage: str, ids: list[int], dataset: Flickr30kEntitiesDataset, check: Inspection
) -> None:
    """Caption references must contain every image; grounding references give the upper limit of grounding scores."""
    from xmodaler_ssattn.evaluation.caption_files import read_reference_captions
    from xmodaler_ssattn.evaluation.forced import reachable_share
    from xmodaler_ssattn.evaluation.gvd_format import read_reference
    from xmodaler_ssattn.files import read_json

    key = f"INFERENCE.{stage.upper()}_ANNFILE"
    try:
        references = read_reference_captions(cfg.INFERENCE[key.removeprefix("INFERENCE.")])
        absent = [image_id for image_id in ids if str(image_id) not in references]
        if absent:
            check.problem(f"{key}: {len(absent)} images of the split have no reference captions, e.g. {absent[:10]}")
        surplus = len(references) - (len(ids) - len(absent))
        if surplus and ids:
            check.warn(f"{key}: {surplus} images with references are not in the split; they will not be scored.")
    except UserError as error:
        check.problem(f"{key}: {error}")
    path = Path(cfg.DATALOADER.ANNO_FOLDER) / f"grounding_{stage}.json"
    if not path.is_file():
        check.warn(f"There is no {path}: grounding will not be scored on {stage}.")
        return
    try:
        reference = read_reference(path)
    except UserError as error:
        check.problem(str(error))
        return
    drawn = cfg.DATALOADER.get("SAMPLE_SCENES", 0)
    if not drawn and not read_json(path, "Grounding reference").get("gvd_identical", True):
        check.warn(
            "The grounding references follow the fallback rule, not GVD's file: scores are not comparable with "
            "published ones (`xmodaler prepare annotations --official FILE --dictionary FILE`)."
        )
    if not ids:
        return
    regions = {str(image_id): dataset.store.boxes_px(image_id, dataset.inputs.max_regions) for image_id in ids}
    judged = [record for record in reference.images if str(record["image_id"]) in regions]
    share = reachable_share(judged, regions, undefined=0.0)
    check.fact(
        f"{stage}: {100 * share:.1f} % of the annotated boxes have a region with IoU > 0.5: the upper limit of the "
        "grounding recall"
    )


# --- machine ----------------------------------------------------------------------------------------------
def check_metrics(cfg: Any, check: Inspection) -> None:
    """Check Java and the metrics' files; a metric that cannot be computed will be left out of the scores."""
    from xmodaler_ssattn.evaluation.metrics import what_can_run

    names = [name for name in (*cfg.INFERENCE.METRICS, *cfg.INFERENCE.FINAL_METRICS) if name != "F1"]
    try:
        for metric, reason in what_can_run(names).items():
            if reason:
                check.warn(f"{metric} will be left out: {reason}")
            else:
                check.fact(f"{metric} can be computed")
    except UserError as error:
        check.problem(f"INFERENCE.METRICS and FINAL_METRICS: {error}")


def check_model_and_disk(cfg: Any, check: Inspection) -> None:
    """Build the model once, and compare the size of its checkpoints with the free disk space."""
    from xmodaler_ssattn.data.vocabulary import read_vocabulary
    from xmodaler_ssattn.host import build_model

    on_cpu = cfg.clone()
    on_cpu.defrost()
    on_cpu.MODEL.DEVICE = "cpu"
    try:
        # The decoder checks the vocabulary too; a wrong size is in the list already.
        on_cpu.MODEL.VOCAB_SIZE = read_vocabulary(cfg.INFERENCE.VOCAB).model_size
    except UserError as error:
        check.problem(str(error))
        return
    try:
        model = build_model(on_cpu)
    except (KeyError, ValueError, AssertionError) as error:
        check.problem(f"The model cannot be built from this config: {error}")
        return
    weights = sum(parameter.numel() for parameter in model.parameters())
    folder = Path(cfg.OUTPUT_DIR).absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        check.problem(f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written: no permission in {folder}")
    count = max(cfg.SOLVER.EPOCH // cfg.SOLVER.CHECKPOINT_PERIOD, 1)
    if last := cfg.SOLVER.KEEP_LAST:  # one more while it is written
        milestones = count // cfg.SOLVER.KEEP_EVERY if cfg.SOLVER.KEEP_EVERY else 0
        count = min(count, last + 1) + milestones
    count += 2  # model_final and model_best
    needed, free = count * weights * BYTES_PER_WEIGHT, shutil.disk_usage(folder).free
    sizes = (
        f"{count} checkpoints of {weights * BYTES_PER_WEIGHT / 1e6:,.0f} MB need {needed / 1e9:.1f} GB, "
        f"{folder} has {free / 1e9:.1f} GB free"
    )
    if needed > free:
        check.problem(f"{sizes}; set SOLVER.CHECKPOINT_PERIOD higher, or OUTPUT_DIR to another disk")
    else:
        check.fact(f"{weights / 1e6:.1f} million weights; {sizes}")
