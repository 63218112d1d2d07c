"""Measure the information in the regions of a data set with linear probes, without a captioner.

    python tools/probe_regions.py --data data/flickr30k_entities [--images 5000] [--json OUT]

Prints how often a linear layer on V, p, c predicts the class of an annotated object, and how well (AUC) it separates
the regions that captions mention from the others; on test images, with settings chosen on val. Use it to judge a region
file before training, or to find what a simulated data set reveals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmodaler_ssattn.cli.output import exit_code_of
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import write_json
from xmodaler_ssattn.worlds.probe import STEPS, probe_folder


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="folder written by `xmodaler prepare`")
    add("--regions", metavar="FILE", help="region file, instead of DIR/regions.h5")
    text = "maximum number of images per split (default: 5000); memory is about N x 10 x (D + C) x 4 bytes"
    add("--images", type=int, default=5000, metavar="N", help=text)
    add("--steps", type=int, default=STEPS, metavar="N", help=f"training steps of each probe (default: {STEPS})")
    add("--json", metavar="FILE", help="also write the numbers there")
    return parser


def run(args: argparse.Namespace) -> None:
    for name in ("images", "steps"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}.")
    found = probe_folder(args.data, args.regions, args.images, args.steps, lambda text: print(text, flush=True))
    print("\nWhich object is it? Accuracy in percent.\n")
    print_table(found["class"])
    print("\nIs it talked about? AUC in percent (50: no better than chance).\n")
    print_table(found["talked_about"])
    if args.json:
        write_json(Path(args.json), found, indent=1)


def print_table(found: dict[str, float]) -> None:
    for name, value in found.items():
        print(f"| {name} | {100 * value:.1f} |")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return exit_code_of(lambda: run(args), program="probe_regions")


if __name__ == "__main__":
    sys.exit(main())
