"""``xmodaler report``: a page to look at captions, boxes and attention, the curves of a run, and figures for papers."""

from __future__ import annotations

import argparse
from pathlib import Path

from xmodaler_ssattn.errors import UserError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "report",
        help="a page of captions, boxes, attention and curves; figures for papers",
        description="Builds a page from results files. It needs no server and no network: open OUT/index.html. Boxes "
        "come from any results file; shading needs one that was made with INFERENCE.SAVE_ATTENTION True.",
    )
    parser.add_argument("results", nargs="*", metavar="RESULTS", help="results files, OUTPUT_DIR/results/*.json")
    parser.add_argument("--out", default="page", metavar="DIR", help="folder of the page (default: page)")
    parser.add_argument("--images", metavar="DIR", help="pictures, named by image id; without it boxes on blank frames")
    parser.add_argument(
        "--annotations",
        metavar="DIR",
        help="folder of `xmodaler prepare`: references, ground-truth boxes, right and wrong, intervals, classes",
    )
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="the models' names (default: from paths)")
    parser.add_argument("--run", nargs="+", default=[], metavar="OUTPUT_DIR", help="also draw the curves of these runs")
    parser.add_argument("--title", default="Grounded captions", help="the page's title")
    parser.add_argument("--bootstrap", type=int, metavar="N", help="resamples for intervals; 0: none (default: 1000)")
    parser.add_argument(
        "--refer", action="store_true", help="point to the pictures where they are instead of adding them to the page"
    )
    parser.add_argument(
        "--figure", metavar="PREFIX", help="write PREFIX.png, PREFIX.pdf and PREFIX.svg: models side by side, no page"
    )
    parser.add_argument(
        "--figure-images",
        nargs="+",
        type=int,
        metavar="ID",
        help="images of the figure, top to bottom (default: three where the last model is right and the first is not)",
    )
    parser.set_defaults(run_command=run)
    parser.set_defaults(run=run)
