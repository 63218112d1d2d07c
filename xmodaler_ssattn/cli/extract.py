"""``xmodaler extract``: photographs -> one file of region features."""

from __future__ import annotations

import argparse
import os
from typing import Any

from xmodaler_ssattn.cli.output import visible, warn
from xmodaler_ssattn.errors import UserError

SOME_FAILED = 3  # the exit code when some pictures are missing from the file

TEXT = """\
Runs a detector over pictures and writes their regions into one HDF5 file. The same command resumes a stopped run.
Pictures that fail are listed at the end, with exit code 3; after you fix them, the same command adds them to the file.

--images is a folder, a zip or tar archive (.tar.gz, .tar.bz2, .tar.xz), a parquet file, or a folder of parquet files.
Nothing is unpacked to the disk. Parquet: the pictures are in the column image, as in the Hugging Face copies of
Flickr30k.

The image id is the number at the end of the file name (123.jpg, COCO_val2014_000000000139.jpg). For other names, and
for names with several numbers (img_12_3.jpg), give --ids FILE: a JSON object name -> id. If it does not exist, it is
written with 1, 2, 3, ... and kept from then on. In parquet files the names are in the column filename; img_id in the
Flickr30k copies is only a running number. --id-column takes another column of names or numbers.

Several machines: --shard 1/4 ... --shard 4/4, each with its own --out; then
  xmodaler extract --images PATH --join part1.h5 part2.h5 part3.h5 part4.h5 --out regions.h5
With --images, a picture that is in no part is an error.
"""


def add_parser(subparsers: Any) -> None:
    from xmodaler_ssattn.cli.detectors import add_detector_arguments

    parser = subparsers.add_parser("extract", description=TEXT, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", metavar="PATH", help="pictures (JPEG, PNG, WebP, TIFF, ...): a folder, zip, tar or parquet")
    add(
        "--weights",
        metavar="PATH",
        help="the detector's weights, from their authors; the folder of an object detector of Hugging Face "
        "transformers; or region_maker.npz of the sample scenes",
    )
    add("--out", required=True, metavar="FILE", help="the HDF5 file; training looks for ANNO_FOLDER/regions.h5")
    add("--recursive", action="store_true", help="also the pictures in subfolders")
    add("--ids", metavar="FILE", help="JSON name -> id, read or written; names are relative to --images")
    add("--id-column", metavar="NAME", help="parquet: the column that gives the ids (default: filename)")
    add("--shard", metavar="I/N", help="only this part of the pictures, e.g. 2/4")
    add("--join", nargs="+", metavar="FILE", help="join finished files into one, instead of extracting")
    add_detector_arguments(parser)
    add("--float16", action="store_true", help="store features and class probabilities in half precision")
    add("--vocabulary", metavar="FILE", help="the detector's class list; its sha256 is recorded")
    add("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.join:
        return run_join(args)
    missing = [name for name in ("--images", "--weights") if getattr(args, name[2:]) is None]
    if missing:
        raise UserError(f"extract: give {' and '.join(missing)} (or --join FILES, to join finished files).")
    from xmodaler_ssattn.cli.detectors import open_detector
    from xmodaler_ssattn.detectors.extract import extract_regions
    from xmodaler_ssattn.detectors.folder import take_shard
    from xmodaler_ssattn.detectors.sources import Chosen
    from xmodaler_ssattn.packs.convert import sha256_or_empty
    from xmodaler_ssattn.packs.region_classes import described_names
    from xmodaler_ssattn.packs.region_file import read_header

    source, ids = _source_and_ids(args)
    chosen = take_shard(list(ids), args.shard) if args.shard else list(ids)
    described = {"vocabulary_sha256": sha256_or_empty(args.vocabulary)}
    if os.path.exists(args.out) and not args.overwrite:
        read_header(args.out)  # refuses another kind of file before the detector is loaded
    shard = f" Shard {args.shard}: {len(chosen):,} of them." if args.shard else ""
    note = f"; {source.note}" if source.note else ""
    print(visible(f"{len(source.names):,} pictures in {source.where}{note}.{shard}"), flush=True)
    detector, most = open_detector(args.weights, args)
    print(f"Detector: {detector.source}; {args.weights}, sha256 {detector.weights_sha256}", flush=True)
    names = getattr(detector, "class_names", None)
    if names is not None:
        if args.vocabulary:
            raise UserError("--vocabulary: this detector has the names of its classes itself.")
        described = described_names(names)
    report = extract_regions(
        detector,
        Chosen(source, {image_id: ids[image_id] for image_id in chosen}),
        args.out,
        num_regions=most,
        batch=args.batch,
        float16=args.float16,
        vocabulary_sha256=described.pop("vocabulary_sha256"),
        attributes={
            **described,
            "min_max_boxes": args.min_max_boxes or f"{most},{most}",
            # So that no picture is stored twice: under the number in its name and under an id from a list.
            "image_ids": "from a list" if args.ids else "from the names",
        },
        overwrite=args.overwrite,
    )
    print(
        f"{report.images:,} images with up to {most} regions of {detector.feature_dim} numbers and "
        f"{detector.num_classes + 1} class probabilities (background first)."
    )
    if names is not None:
        print(
            "The configs expect other widths; train with MODEL.VISUAL_EMBED.IN_DIM "
            f"{detector.feature_dim} MODEL.SS_ATTENTION.NUM_CLASSES {detector.num_classes + 1}"
        )
    if strangers := getattr(detector, "strangers", 0):
        warn(
            f"{strangers:,} pictures are not drawn scenes, and {args.weights} was trained only on those; their regions "
            "are meaningless. Photographs need a Bottom-Up network."
        )
    if report.resumed:
        print(f"{report.resumed:,} of them are from an earlier run.")
    print(f"Written to {report.path}. Check it: xmodaler check --regions {report.path}")
    return list_failed(report.failed, len(chosen))


def _source_and_ids(args: argparse.Namespace) -> tuple[Any, dict[int, str]]:
    """The pictures of --images, and id -> name of each."""
    from xmodaler_ssattn.detectors.folder import ids_from_file, ids_from_names
    from xmodaler_ssattn.detectors.sources import open_source

    source = open_source(args.images, recursive=args.recursive, id_column=args.id_column)
    return source, ids_from_file(source.names, args.ids) if args.ids else ids_from_names(source.names)


def run_join(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.detectors.join import join_regions

    if args.weights or args.shard:
        raise UserError("--join joins finished files; --weights and --shard cannot be given with it.")
    expected = list(_source_and_ids(args)[1]) if args.images else []
    count = join_regions(args.join, args.out, overwrite=args.overwrite, expected=expected)
    print(f"{count:,} images of {len(args.join)} files written to {args.out}.")
    return 0


def list_failed(failed: list[str], total: int) -> int:
    """Print every picture that failed and the reason; return the exit code."""
    if not failed:
        return 0
    print(f"{len(failed):,} of {total:,} pictures failed:")
    for number, reason in enumerate(failed, 1):
        print(visible(f"  {number}. {reason}"))
    return SOME_FAILED
