"""``xmodaler prepare``: one command each for annotations, feature packs, a detector's classifier and npz folders."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.cli.output import visible
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.progress import doing

if TYPE_CHECKING:
    from xmodaler_ssattn.packs.pack import Pack

ANNOTATIONS_TEXT = """\
Reads Sentences/ID.txt and Annotations/ID.xml of Flickr30k Entities, or GVD's own files when they are given, and
writes {train,val,test}.json, vocabulary.txt, captions_*.json and grounding_*.json into one folder.
"""
REGIONS_TEXT = """\
Converts a pack of region features into one HDF5 file. To resume a stopped run, start the same command again.

formats and their inputs:
{formats}

A tsv may be compressed (gzip, bzip2, xz, zip). Files of a folder may be named 139.npz, 139.jpg.npz or
COCO_val2014_000000000139.jpg.npz and be in subfolders. A file that does not follow the format is refused by name.
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("prepare", description="Make the files that training reads.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_annotations, _add_regions, _add_classifier, _add_match, _add_npz):
        add(commands)


# --- annotations ---------------------------------------------------------------------------------------
def _add_annotations(commands: Any) -> None:
    parser = commands.add_parser(
        "annotations",
        help="official files -> annotations and vocabulary",
        description=ANNOTATIONS_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--entities", metavar="DIR", help="folder with Sentences/ and Annotations/")
    add(
        "--split-ids",
        metavar="PATH",
        help="split_ids_flickr30k_entities.json, or a folder with train.txt, val.txt, "
        "test.txt; default with --split-scheme plummer: the lists in --entities",
    )
    add("--out", metavar="DIR", required=True, help="folder to write")
    add(
        "--split-scheme",
        choices=("karpathy", "plummer"),
        default="karpathy",
        help="whose splits these are; sets the expected counts (default: karpathy, which GVD uses)",
    )
    add("--official", metavar="FILE", help="GVD's flickr30k_cleaned_class.json, instead of --entities")
    add("--dictionary", metavar="FILE", help="GVD's dic_flickr30k.json, for its vocabulary and lemmas")
    add("--require-official", action="store_true", help="refuse everything that is not GVD-identical")
    add("--classes", metavar="FILE", help="class names, one per line (default: the 480 of Flickr30k Entities)")
    add(
        "--unrelated",
        metavar="FILE",
        help="the data set's UNRELATED_CAPTIONS: leave them out of the training split "
        "(val and test keep them, so that scores stay comparable)",
    )
    add("--compare-splits", metavar="PATH", help="other splits, as --split-ids, to warn about overlaps with")
    add("--skip-bad", action="store_true", help="leave out what cannot be used and list it in left_out.json")
    add("--workers", type=int, help="processes (default: one per core for large sets)")
    parser.set_defaults(run=run_annotations)


def run_annotations(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.classes import read_classes
    from xmodaler_ssattn.data.expected import described
    from xmodaler_ssattn.data.prepare import prepare_annotations
    from xmodaler_ssattn.data.splits import read_splits, read_unrelated
    from xmodaler_ssattn.evaluation.lemmas import noun_lemma

    entities = Path(args.entities) if args.entities else None
    if entities is None and args.official is None:
        raise UserError("Give --entities DIR (with Sentences/ and Annotations/), or --official FILE.")
    split_ids = args.split_ids or (str(entities) if entities and args.split_scheme == "plummer" else None)
    if split_ids is None:
        raise UserError(
            "Give --split-ids FILE: GVD's split_ids_flickr30k_entities.json, or a folder with train.txt, "
            "val.txt and test.txt."
        )
    splits = read_splits(split_ids)
    classes = read_classes(args.classes) if args.classes else None
    _warn_unreachable(classes or ())
    _warn_overlaps(splits, args.compare_splits, entities, split_ids)
    report = prepare_annotations(
        args.out,
        splits,
        lemma=noun_lemma,
        sentences_dir=entities / "Sentences" if entities else None,
        annotations_dir=entities / "Annotations" if entities else None,
        classes=classes,
        official=args.official,
        dictionary=args.dictionary,
        require_official=args.require_official,
        unrelated=read_unrelated(args.unrelated) if args.unrelated else None,
        skip_bad=args.skip_bad,
        workers=args.workers,
    )
    print(visible(described(report, args.split_scheme)))
    return 0


def _warn_unreachable(classes: Sequence[str]) -> None:
    from xmodaler_ssattn.classes import bare_word

    if lost := [name for name in classes if bare_word(name) != name or len(name.split()) > 1]:
        shown = ", ".join(map(repr, lost[:10])) + (", ..." if len(lost) > 10 else "")
        logging.getLogger(__name__).warning(
            "%d of %d class names cannot match a word of a caption, because a class is one word in lower case: %s.",
            len(lost), len(classes), shown,
        )  # fmt: skip


def _warn_overlaps(splits: dict[str, list[int]], other: str | None, entities: Path | None, ours: str) -> None:
    from xmodaler_ssattn.data.splits import overlap_warnings, read_splits

    if other is None and entities is not None and (entities / "train.txt").is_file() and Path(ours) != entities:
        other = str(entities)
    if other is None:
        return
    for warning in overlap_warnings(splits, read_splits(other), other):
        logging.getLogger(__name__).warning("%s", warning)


# --- regions -------------------------------------------------------------------------------------------
def _add_regions(commands: Any) -> None:
    from xmodaler_ssattn.packs.formats import all_formats

    formats = all_formats()
    lines = [f"  {name:<13} {reader.usage:<60} {reader.summary}".rstrip() for name, reader in formats.items()]
    parser = commands.add_parser(
        "regions",
        help="a feature pack -> one HDF5 file",
        description=REGIONS_TEXT.format(formats="\n".join(lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--format", required=True, choices=tuple(formats))
    add("--input", required=True, nargs="+", metavar="PATH")
    for name, text in _format_options(formats).items():
        add(f"--{name}", metavar="PATH", help=text)
    add("--out", required=True, metavar="FILE", help="the HDF5 file; training looks for ANNO_FOLDER/regions.h5")
    add(
        "--annotations",
        metavar="DIR",
        help="folder of `xmodaler prepare annotations`: convert only its images, list those that the pack lacks, and "
        "use or check its image sizes",
    )
    add("--image-sizes", metavar="FILE", help='JSON {"image id": [width, height]}, for packs without sizes')
    add("--max-regions", type=int, default=36, metavar="K", help="keep the K best per image (default: 36); 0: all")
    add("--min-score", type=float, metavar="S", help="drop regions with a score of S or less, but never the best one")
    add("--cut-by-order", action="store_true", help="where a pack has no scores, keep its first K regions")
    add("--sort", action="store_true", help="order regions by descending score (default: as in the pack)")
    add(
        "--classifier",
        metavar="FILE",
        help="npz with weight (C x D) and bias (C): recompute class probabilities where the pack has none",
    )
    add("--background", choices=("first", "last", "none"), help="where the background is in the pack's probabilities")
    add("--float16", action="store_true", help="store features and class probabilities in half precision")
    add("--vocabulary", metavar="FILE", help="the detector's class list; its sha256 is recorded")
    add("--weights", metavar="FILE", help="the detector's weights; their sha256 is recorded")
    add("--skip-bad", action="store_true", help="leave out images that cannot be used and list them beside the file")
    add("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run_regions)


def _format_options(formats: Mapping[str, type[Pack]]) -> dict[str, str]:
    """Option that only some formats have -> its help, which names these formats."""
    names = dict.fromkeys(name for reader in formats.values() for name in reader.options)
    users = {name: [reader for reader in formats.values() if name in reader.options] for name in names}
    return {
        name: f"for {', '.join(reader.name for reader in readers)}: {readers[0].options[name]}"
        for name, readers in users.items()
    }


def run_regions(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.data.annotations import image_sizes
    from xmodaler_ssattn.packs.classifier import Classifier
    from xmodaler_ssattn.packs.convert import convert_regions, read_sizes, sha256_or_empty
    from xmodaler_ssattn.packs.select import Rules

    if args.max_regions < 0:
        raise UserError(f"--max-regions must be 0 or more, got {args.max_regions}.")
    if args.min_score is not None and not 0 <= args.min_score < 1:
        raise UserError(f"--min-score must be from 0 to below 1, like the scores, got {args.min_score:g}.")
    pack = _open_pack(args)
    dataset = image_sizes(args.annotations) if args.annotations else None
    sizes = _all_sizes(dataset or {}, read_sizes(args.image_sizes) if args.image_sizes else {})
    dtype = "float16" if args.float16 else "float32"
    rules = Rules(
        limit=args.max_regions or None,
        min_score=args.min_score,
        cut_by_order=args.cut_by_order,
        sort=args.sort,
        background=args.background,
        classifier=Classifier(args.classifier) if args.classifier else None,
    )
    report = convert_regions(
        pack,
        args.out,
        rules,
        wanted=list(dataset) if dataset is not None else None,
        sizes=sizes,
        feature_dtype=dtype,
        probs_dtype=dtype,
        vocabulary_sha256=sha256_or_empty(args.vocabulary),
        weights_sha256=sha256_or_empty(args.weights),
        skip_bad=args.skip_bad,
        overwrite=args.overwrite,
    )
    probs = f"{report.num_classes} class probabilities (background first)."
    if not report.num_classes:
        probs = (
            "without class probabilities: a config with SEMANTIC_INPUT c will be refused. With the detector's "
            "classifier they can be added: "
            f"xmodaler prepare regions --format regions --input {report.path} --classifier FILE --out NEW"
        )
    print(f"{report.images:,} images with up to {report.num_regions} regions of {report.feature_dim} numbers, {probs}")
    if report.resumed:
        print(f"{report.resumed:,} of them are from an earlier run.")
    if report.cut_images:
        print(f"{report.cut_images:,} images had more regions; the file records which were kept.")
    if report.unused:
        print(f"{report.unused:,} images of the pack are not in the data set and were left out.")
    if report.left_out:
        print(f"{len(report.left_out):,} problems were skipped: {report.path}.left_out.json")
    print(f"Written to {report.path}.")
    return 0


def _all_sizes(annotated: dict[int, tuple[int, int]], given: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """The sizes of --annotations and --image-sizes; they must agree."""
    problems = [
        f"image {image_id} is {annotated[image_id]} by --annotations and {size} by --image-sizes"
        for image_id, size in given.items()
        if annotated.get(image_id, size) != size
    ]
    raise_all(problems, "The image sizes (width, height) contradict each other")
    return {**annotated, **given}


def _open_pack(args: argparse.Namespace) -> Pack:
    from xmodaler_ssattn.packs.formats import all_formats
    from xmodaler_ssattn.packs.sniff import other_format

    if hint := other_format(args.format, args.input):
        raise UserError(hint)
    formats = all_formats()
    reader = formats[args.format]
    if len(args.input) != 1 and not reader.several:
        raise UserError(f"--format {args.format} takes one --input, got {len(args.input)}.")
    given = {name: getattr(args, name) for name in _format_options(formats) if getattr(args, name) is not None}
    if missing := [f"--{name}" for name in reader.options if name not in given]:
        raise UserError(f"--format {args.format} also needs {' and '.join(missing)}.")
    if needless := [f"--{name}" for name in given if name not in reader.options]:
        raise UserError(f"--format {args.format} does not use {', '.join(needless)}.")
    return reader(args.input if reader.several else args.input[0], **given)


# --- classifier ----------------------------------------------------------------------------------------
def _add_classifier(commands: Any) -> None:
    parser = commands.add_parser(
        "classifier",
        help="a detector's weights -> the small file that `prepare regions --classifier` takes",
        description="Write the last layer of a Bottom-Up detector (1601 x 2048 and bias, 13 MB). With it the class "
        "probabilities of a feature pack of the same detector can be recomputed from its features.",
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="the detector's weights, from their authors")
    parser.add_argument("--out", default="classifier.npz", metavar="FILE", help="the file (default: classifier.npz)")
    parser.set_defaults(run=run_classifier)


def run_classifier(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.detectors.loading import export_classifier

    made = export_classifier(args.weights, args.out)
    print(f"Weights: {args.weights} ({made.dialect}), sha256 {made.weights_sha256}")
    size = f"{made.num_classes:,} classes, background first, of features of {made.feature_dim:,} numbers"
    print(f"{size}: written to {args.out}.")
    return 0


# --- match ---------------------------------------------------------------------------------------------
def _add_match(commands: Any) -> None:
    parser = commands.add_parser(
        "match",
        help="captions and regions -> which regions each noun means (POS-SCAN)",
        description="Train POS-SCAN's matcher of words and regions on the training captions, without boxes, and write "
        "its attention for configs such as flickr30k_entities/pos_scan.yaml.",
    )
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="folder that `xmodaler prepare` wrote")
    add("--regions", metavar="FILE", help="the region file (default: regions.h5 in --data)")
    add("--out", metavar="FILE", help="the file of word pairs (default: match.json in --data); the matcher: .pth")
    add("--epochs", type=int, default=30, help="default: 30, SCAN's")
    add("--max-regions", type=int, default=36, help="first regions per image, DATALOADER.MAX_FEAT_NUM (default: 36)")
    add(
        "--size", type=int, default=1024, help="numbers in which words and regions are compared (default: 1024, SCAN's)"
    )
    add("--device", help="cpu or cuda; default: cuda when there is one")
    add("--seed", type=int, default=0)
    parser.set_defaults(run=run_match)


def run_match(args: argparse.Namespace) -> int:
    problems = [
        f"--{name.replace('_', '-')}: expected at least 1, got {getattr(args, name)}."
        for name in ("epochs", "max_regions", "size")
        if getattr(args, name) < 1
    ]
    folder = Path(args.data)
    regions = Path(args.regions) if args.regions else folder / "regions.h5"
    for path, command in ((folder / "train.json", "annotations"), (regions, "regions")):
        if not path.is_file():
            problems.append(f"the file {path} does not exist; `xmodaler prepare {command}` writes it.")
    raise_all(problems, "The matcher cannot be trained")
    out = Path(args.out) if args.out else folder / "match.json"
    with doing("Loading PyTorch"):
        import torch

        from xmodaler_ssattn.methods.pos_scan import write_targets
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    sizes = {"limit": args.max_regions, "size": args.size}
    history = write_targets(folder, regions, out, epochs=args.epochs, device=device, seed=args.seed, **sizes)
    print(
        f"The matcher's loss was {history[0]:.4f} in the first and {history[-1]:.4f} in the last epoch. Its word pairs "
        f"are in {visible(str(out))}, it is in {visible(str(out.with_suffix('.pth')))}."
    )
    return 0


# --- npz -----------------------------------------------------------------------------------------------
def _add_npz(commands: Any) -> None:
    parser = commands.add_parser(
        "npz",
        help="the HDF5 file -> X-modaler's npz folder",
        description="Write ID.npz files that X-modaler's own datasets read (FEATS_FOLDER).",
    )
    parser.add_argument("--regions", required=True, metavar="FILE", help="the HDF5 file")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.set_defaults(run=run_npz)


def run_npz(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.packs.formats.xmodaler_npz import export_npz
    from xmodaler_ssattn.packs.store import RegionStore

    count = export_npz(RegionStore(args.regions), args.out)
    print(
        f"{count:,} files written to {args.out}. X-modaler's datasets prepend a mean region and read the first "
        "MAX_FEAT_NUM - 1 of these."
    )
    return 0
