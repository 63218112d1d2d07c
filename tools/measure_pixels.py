"""Statistics of the features of a region file: similarity by overlap, norms, zeros, confidence of the detector.

    python tools/measure_pixels.py --lxmert train2014_obj36.tsv      real regions, columns of LXMERT
    python tools/measure_pixels.py --regions data/simulated/regions.h5 [--images 200]

Prints the numbers next to those of the 360 real Bottom-Up regions with which the simulation is calibrated. LXMERT's
columns have only the probability of the best class and not the whole distribution, so nothing else of c is compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmodaler_ssattn.cli.output import exit_code_of
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import write_json
from xmodaler_ssattn.packs.formats.lxmert_tsv import LxmertTsv
from xmodaler_ssattn.packs.store import Regions, RegionStore
from xmodaler_ssattn.worlds.pixels import BOTTOM_UP, describe


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--regions", metavar="FILE", help="a region file of this project")
    source.add_argument("--lxmert", metavar="FILE", nargs="+", help="tsv files with the columns of LXMERT")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="maximum number of images (default: 200)")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    return parser


def read_lxmert(paths: list[str], most: int) -> list[Regions]:
    pack = LxmertTsv(paths)
    if pack.problems:
        raise UserError("\n".join(pack.problems))
    found = []
    for image_id in pack.ids()[:most]:
        image = pack.read(image_id)
        probs = np.stack([1 - image.scores, image.scores], axis=1)  # of the best class and of all others
        found.append(Regions(image_id, image.width, image.height, image.boxes_px, image.features, probs))
    return found


def read_regions(path: str, most: int) -> list[Regions]:
    store = RegionStore(path)
    return [store.read(image_id) for image_id in store.ids[:most].tolist()]


def run(args: argparse.Namespace) -> None:
    if args.images < 1:
        raise UserError(f"--images must be at least 1, got {args.images}.")
    images = read_lxmert(args.lxmert, args.images) if args.lxmert else read_regions(args.regions, args.images)
    if not images:
        raise UserError("There is no image to measure.")
    found = describe(images)
    print("| | here | Bottom-Up, 360 real regions |\n|---|---|---|")
    for name, value in found.items():
        real = BOTTOM_UP[name]
        if isinstance(value, dict):
            for key in value:
                print(f"| {name} {key} | {value[key]} | {real[key]} |")
        else:
            print(f"| {name} | {value} | {real} |")
    if args.json:
        write_json(Path(args.json), found, indent=1)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return exit_code_of(lambda: run(args), program="measure_pixels")


if __name__ == "__main__":
    sys.exit(main())
