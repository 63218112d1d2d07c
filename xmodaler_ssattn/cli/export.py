"""``xmodaler export``: write results in the formats of other tools; the formats are in ``exports/formats``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import Any

from xmodaler_ssattn.cli.output import visible, warn
from xmodaler_ssattn.cli.pictures import folder_of_pictures


def add_parser(subparsers: Any) -> None:
    from xmodaler_ssattn.exports.formats import all_formats

    parser = subparsers.add_parser(
        "export",
        description="Write a results file in the format of another tool: an evaluator, a viewer, or the training of a "
        "detector. Results files are OUTPUT_DIR/results/*.json of training and `xmodaler eval`, and the --json of "
        "`xmodaler caption`.",
        epilog="`xmodaler export FORMAT --help` shows the options of a format.",
    )
    formats = parser.add_subparsers(title="formats", metavar="FORMAT", required=True)
    for name, writer in all_formats().items():
        one = formats.add_parser(name, help=writer.summary, description=writer.description)
        one.add_argument("results", metavar="RESULTS", help="a results file, OUTPUT_DIR/results/*.json")
        writer.add_arguments(one)
        one.set_defaults(run=run, writer=writer)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.evaluation.results import read_results

    results = read_results(args.results)
    with contextlib.ExitStack() as stack:
        if getattr(args, "images", None):
            from xmodaler_ssattn.exports.grounded import photographs

            names = set(photographs(results).values())
            ids = [image.image_id for image in results.images]
            args.images = stack.enter_context(folder_of_pictures(args.images, ids, names))
        done, doubts = args.writer.write(results, args)
    for doubt in doubts:
        warn(f"{args.results}: {doubt.rstrip('.')}.")
    if done:
        print(visible(done), file=sys.stderr)
    return 0
