"""``xmodaler report``: a page of captions, boxes and attention, the curves of runs, and figures for papers."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from xmodaler_ssattn.cli.output import visible
from xmodaler_ssattn.errors import UserError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        description="Builds a page from results files. It needs no server and no network: open OUT/index.html. Any "
        "results file has boxes; shading by attention needs one that was made with INFERENCE.SAVE_ATTENTION True.",
    )
    add = parser.add_argument
    add("results", nargs="*", metavar="RESULTS", help="results files, OUTPUT_DIR/results/*.json")
    add("--out", default="page", metavar="DIR", help="folder of the page (default: page)")
    add(
        "--images",
        metavar="PATH",
        help="pictures, named by image id: a folder, zip, tar or parquet (default: boxes on blank frames)",
    )
    add(
        "--annotations",
        metavar="DIR",
        help="folder written by `xmodaler prepare`; adds references, ground-truth boxes, verdicts, intervals, classes",
    )
    add("--names", nargs="+", default=[], metavar="NAME", help="the models' names (default: from paths)")
    curves = "also draw the curves of these runs"
    add("--run", nargs="+", default=[], dest="runs", metavar="OUTPUT_DIR", help=curves)
    add("--title", default="Grounded captions", help="the page's title")
    add("--bootstrap", type=int, metavar="N", help="resamples for intervals; 0: none (default: 1000)")
    add("--refer", action="store_true", help="link to the pictures instead of copying them into the page")
    add("--figure", metavar="PREFIX", help="write the models side by side into PREFIX.png, .pdf and .svg, no page")
    add(
        "--figure-images",
        nargs="+",
        type=int,
        metavar="ID",
        help="images of the figure, top to bottom (default: three where the last model is right and the first is not)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.cli.pictures import folder_of_pictures
    from xmodaler_ssattn.report.curves import read_run
    from xmodaler_ssattn.report.figure import choose_images, save_figure
    from xmodaler_ssattn.report.page import write_page
    from xmodaler_ssattn.report.pictures import find_pictures
    from xmodaler_ssattn.report.source import read_source

    if args.figure and not args.results:
        raise UserError("--figure: give the results files of the models to show.")
    if not args.results and not args.runs:
        raise UserError("report: give results files, --run OUTPUT_DIR, or both.")
    if args.bootstrap is not None and args.bootstrap < 0:
        raise UserError(f"--bootstrap: expected a number of resamples >= 0, got {args.bootstrap}.")
    source = read_source(args.results, args.names if args.results else (), args.annotations)
    chosen = choose_images(source, args.figure_images) if args.figure else source.image_ids
    with nullcontext() if args.images is None else folder_of_pictures(args.images, chosen) as images:
        if args.figure:
            pictures = {} if images is None else find_pictures(images, chosen)
            for path in save_figure(Path(args.figure), source, chosen, pictures):
                print(f"Wrote {path.resolve()}")
            return 0
        if args.refer and images is not None and images != Path(args.images):
            raise UserError(f"--refer: the page cannot link to pictures inside {args.images}; unpack them first.")
        names = args.names if len(args.names) == len(args.runs) else run_names(args.runs)
        page = write_page(
            Path(args.out),
            source,
            images=images,
            refer=args.refer,
            runs=[read_run(folder, name) for folder, name in zip(args.runs, names)],
            title=args.title,
            replicates=args.bootstrap,
        )
    for notice in source.notices:
        print(visible(f"note: {notice}"))
    print(f"Open {page.resolve()}")
    return 0


def run_names(folders: list[str]) -> list[str]:
    """The folders' own names, or their whole paths when two are the same."""
    short = [Path(folder).resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else list(folders)
