"""Print the statistics of data sets side by side, before any training.

    python tools/describe_data.py --data data/flickr30k_entities [data/simulated ...] [--images 5000] [--json OUT]

Prints, for folders written by `xmodaler prepare` with or without a region file: the sizes and places of the boxes, how
much of them follows from the captions, and how well regions reach them. --probes adds the linear probes of
`tools/probe_regions.py`. --floors test adds floors and ceilings of the grounding scores: the scores of the largest
region, the whole picture, chance, only the detector, perfect attention, or a reference caption with its own boxes. All
numbers are defined in xmodaler_ssattn/worlds/statistics.py and xmodaler_ssattn/evaluation/floors.py.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmodaler_ssattn.cli.output import exit_code_of
from xmodaler_ssattn.data.annotations import SPLITS, file_name, gvd_reference, open_annotations
from xmodaler_ssattn.data.splits import image_rank
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.floors import WHOLE, ImageBoxes, predictions_of
from xmodaler_ssattn.evaluation.forced import attention_accuracy, match_forced
from xmodaler_ssattn.files import write_json
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.reproduce.floors import read_floors
from xmodaler_ssattn.worlds.probe import STEPS, probe_folder
from xmodaler_ssattn.worlds.statistics import annotation_statistics, collect_objects, region_statistics

# statistic -> (label, whether in percent, digits)
ROWS = {
    "images": ("images", False, 0),
    "captions_per_image": ("captions per image", False, 2),
    "words_per_caption": ("words per caption", False, 2),
    "phrases_per_caption": ("phrases per caption", False, 2),
    "objects_per_image": ("objects (chains) per image", False, 2),
    "boxes_per_image": ("boxes per image", False, 2),
    "without_box": ("objects without any box", True, 1),
    "several_boxes": ("objects with several boxes", True, 1),
    "median_area": ("median area of an object's box, share of the picture", False, 3),
    "area_by_mentions": ("log area explained by the number of mentions, within a class", True, 1),
    "area_deviation": ("deviation of log area that class and mentions leave", False, 2),
    "area_by_early": ("rise of log area with early mention (0 to 1)", False, 2),
    **{f"off_centre_{n}": (f"distance from the centre, widths, {n} mention{'s' * (n > 1)}", False, 3)
       for n in range(1, 6)},
    "class_from_box": ("class guessed from only the box", True, 1),
    "commonest_class": ("class guessed as the commonest", True, 1),
    "whole_picture": ("attention accuracy of the whole picture", True, 1),
    "regions_per_image": ("regions per image", False, 1),
    "reach": ("boxes that a region reaches (IoU > 0.5)", True, 1),
    "reach_to_0.01": ("- of an area up to 0.01", True, 1),
    "reach_to_0.05": ("- up to 0.05", True, 1),
    "reach_to_0.2": ("- up to 0.2", True, 1),
    "reach_to_1": ("- above 0.2", True, 1),
    "reach_of_words": ("annotated words whose box a region reaches", True, 1),
    "positives_per_word": ("regions that reach an annotated word's box", False, 2),
}  # fmt: skip
FLOORS = {"attention_accuracy": "acc", "word_accuracy": "acc by word", "F1_all": "F1_all", "F1_loc": "F1_loc",
          "F1_all_per_sentence": "F1_all/s", "F1_loc_per_sentence": "F1_loc/s"}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    text = "folders written by `xmodaler prepare`, or simulated"
    add("--data", required=True, nargs="+", metavar="DIR", help=text)
    add("--split", default="train", choices=SPLITS, help="split for the statistics (default: train)")
    text = "images of the split, chosen as tools/simulate_regions.py --images N does; 0: all (default: 5000)"
    add("--images", type=int, default=5000, metavar="N", help=text)
    add("--seed", type=int, default=0, metavar="N", help="seed of that choice (default: 0)")
    add("--regions", metavar="FILE", help="region file, instead of DIR/regions.h5 (for a single DIR)")
    add("--floors", metavar="SPLIT", choices=("val", "test"), help="also floors and ceilings")
    text = "names of the class probabilities after the background, one per line"
    add("--class-names", metavar="FILE", help=text)
    add("--probes", action="store_true", help="also the linear probes; takes minutes")
    add("--steps", type=int, default=STEPS, metavar="N", help=f"training steps of each probe (default: {STEPS})")
    add("--json", metavar="FILE", help="also write the numbers there")
    return parser


def statistics(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """The statistics of a folder, including its regions if there are any."""
    _, images = open_annotations(folder / file_name(args.split), args.split)
    if args.images:
        images = heapq.nsmallest(args.images, images, key=lambda image: image_rank(args.seed, image["image_id"]))
    images = sorted(images, key=lambda image: image["image_id"])
    found = annotation_statistics(collect_objects(images))
    sizes = {image["image_id"]: (image["width"], image["height"]) for image in images}
    reference = [gvd_reference(image) for image in images]
    said = predictions_of((WHOLE,), reference, lambda image_id: ImageBoxes(*sizes[image_id], ()), {})
    found["whole_picture"] = attention_accuracy(match_forced(reference, said[WHOLE]))
    regions = Path(args.regions or folder / "regions.h5")
    if args.regions or regions.is_file():
        found |= region_statistics(images, RegionStore(regions))
    return found


def run(args: argparse.Namespace) -> None:
    for name, least in (("images", 0), ("steps", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} must be at least {least}, got {getattr(args, name)}.")
    if args.regions and len(args.data) > 1:
        raise UserError("--regions can be used only with a single folder of --data.")
    found: dict[str, dict[str, Any]] = {}
    for folder in args.data:
        entry = found[folder] = {"statistics": statistics(Path(folder), args)}
        if args.floors:
            entry["floors"] = read_floors(folder, args.floors, regions=args.regions, class_names=args.class_names)
        if args.probes:
            entry["probes"] = probe_folder(folder, args.regions, args.images or 1 << 30, args.steps)
    print_all(found)
    if args.json:
        write_json(Path(args.json), _plain(found), indent=1)


def print_all(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the statistics side by side, the floors of each folder, and the probes side by side."""
    statistics = {folder: entry["statistics"] for folder, entry in found.items()}
    rows = {name: row for name, row in ROWS.items() if any(name in values for values in statistics.values())}
    print_table(["", *found], {
        title: [number(values.get(name), percent, digits) for values in statistics.values()]
        for name, (title, percent, digits) in rows.items()
    })  # fmt: skip
    for folder, entry in found.items():
        if "floors" not in entry:
            continue
        print(
            f"\nFloors and ceilings of {folder}, in percent: acc on all reference captions, F1 of a person's caption "
            "with such boxes.\n"
        )
        rules = entry["floors"]["rules"].items()
        print_table(["", *FLOORS.values()], {rule: [number(scores[name]) for name in FLOORS] for rule, scores in rules})
        for note in entry["floors"]["notes"]:
            print(f"\n{note}")
    for kind, title in (("class", "Probes: which object is it? Accuracy"), ("talked_about", "Is it talked about? AUC")):
        probes = {folder: entry["probes"][kind] for folder, entry in found.items() if "probes" in entry}
        if probes:
            print(f"\n{title} in percent.\n")
            names = dict.fromkeys(name for values in probes.values() for name in values)
            rows = {name: [number(values.get(name)) for values in probes.values()] for name in names}
            print_table(["", *probes], rows)


def number(value: float | None, percent: bool = True, digits: int = 1) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:.{digits}f} %" if percent else f"{value:,.{digits}f}"


def print_table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    for row in (head, ["---", *["---:"] * (len(head) - 1)], *([title, *cells] for title, cells in rows.items())):
        print(f"| {' | '.join(row)} |")


def _plain(value: Any) -> Any:
    """NaN -> None, through dicts."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if value != value else value


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return exit_code_of(lambda: run(args), program="describe_data")


if __name__ == "__main__":
    sys.exit(main())
