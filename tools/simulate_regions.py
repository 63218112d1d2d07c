"""Make a data set whose captions are real and whose regions are simulated, around real boxes or from captions only.

    python tools/simulate_regions.py --annotations data/flickr30k_entities --out data/simulated --images 5000
    python tools/simulate_regions.py --captions captions.json.gz --out data/simulated --images 5000 --feature-dim 512
    xmodaler train --config-file configs/flickr30k_entities/ss_attn.yaml --data data/simulated MODEL.VOCAB_SIZE ...

--annotations takes a folder that `xmodaler prepare annotations` made from the official files: captions, phrases and
boxes are real; the detector's errors, unmentioned objects, features and class probabilities are simulated. The folder
gets the chosen part of the annotations, regions.h5 and simulated.json.

--captions also simulates the boxes. The captions file is JSON, plain or gzip: {"image id": {"split": "train",
"captions": [five texts]}, ...}. The folder gets the official layout of Flickr30k Entities (without pictures), the
annotations prepared from it, regions.h5 and simulated.json.

Each assumption of the generative model is an option, and is recorded in simulated.json.

The leak test, on a data set made with --shuffled: a trained model that is evaluated with the regions of other images
must lose its scores, since only the regions should identify an image.

    xmodaler eval --weights W --config-file C --data DIR ... DATALOADER.REGIONS DIR/regions_shuffled.h5 OUTPUT_DIR OTHER
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

# The matrices of an image are small: more threads would wait for each other, and might change the order of sums.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.cli.output import exit_code_of
from xmodaler_ssattn.data.splits import read_splits
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.lemmas import noun_lemma
from xmodaler_ssattn.worlds.simulated import (
    AnnotationsAssumptions,
    AnnotationsSource,
    CaptionsAssumptions,
    CaptionsSource,
    Settings,
    simulate,
)

SCALED = 500  # val and test images when --images is given


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--annotations", metavar="DIR", help="folder of `xmodaler prepare annotations`, with real boxes")
    add("--captions", metavar="FILE", help="the captions file, to simulate also the boxes")
    add("--out", required=True, metavar="DIR", help="folder to make")
    text = "with --captions: object classes, one per line (default: the 480 of Flickr30k Entities)"
    add("--classes", metavar="FILE", help=text)
    add("--split-ids", metavar="FILE", help="split_ids_flickr30k_entities.json (default: the splits of the input)")
    add("--images", type=int, metavar="N", help="training images (default: all, with all of val and test)")
    add("--val-images", type=int, metavar="N", help=f"default with --images: {SCALED}, or N if that is less; else all")
    add("--test-images", type=int, metavar="N", help="the same")
    add("--feature-dim", type=int, default=2048, metavar="D", help="size of a region feature (default: 2048)")
    add("--regions", type=int, default=36, metavar="K", help="regions per image (default: 36)")
    text = "class probabilities, with the background (default: 1601)"
    add("--num-classes", type=int, default=1601, metavar="C", help=text)
    text = "of features and class probabilities in the file (default: float16)"
    add("--dtype", choices=("float16", "float32"), default="float16", help=text)
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=1, help="processes; the result is the same (default: 1)")
    add("--shuffled", action="store_true", help="also write regions_shuffled.h5, for the leak test")
    _add_assumptions(parser)
    return parser


WORLDS = {"--captions": CaptionsAssumptions, "--annotations": AnnotationsAssumptions}
FIELDS = {option: {field.name: field for field in dataclasses.fields(world)} for option, world in WORLDS.items()}


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _add_assumptions(parser: argparse.ArgumentParser) -> None:
    """Add an option for each assumption, with the default of the chosen world."""
    captions, annotations = FIELDS.values()
    for title, names in (
        ("assumptions of both worlds", [name for name in captions if name in annotations]),
        ("assumptions of the world of --captions", [name for name in captions if name not in annotations]),
        ("assumptions of the world of --annotations", [name for name in annotations if name not in captions]),
    ):
        group = parser.add_argument_group(title)
        for name in names:
            field = annotations.get(name) or captions[name]
            defaults = {option: fields[name].default for option, fields in FIELDS.items() if name in fields}
            text = ", ".join(f"{option} {value}" for option, value in defaults.items())
            default = text if len(set(defaults.values())) > 1 else field.default
            group.add_argument(
                flag(name),
                type=type(field.default),
                choices=field.metadata.get("choices"),
                default=argparse.SUPPRESS,
                metavar=None if "choices" in field.metadata else "X",
                help=f"{field.metadata['reason'].replace('%', '%%')} (default: {default})",
            )


def assumptions_of(args: argparse.Namespace, option: str) -> Any:
    """The assumptions of the world of `option` with the given values.

    Raises:
        UserError: an option of only the other world is given, or a value is outside its range.
    """
    others = sorted({name for fields in FIELDS.values() for name in fields} - FIELDS[option].keys())
    given = [flag(name) for name in others if hasattr(args, name)]
    if given:
        raise UserError(f"{', '.join(given)} cannot be used with {option}: that world does not have this assumption.")
    return WORLDS[option](**{name: getattr(args, name) for name in FIELDS[option] if hasattr(args, name)})


def counts_of(args: argparse.Namespace) -> tuple[int, int, int] | None:
    """Images of train, val and test; None for all."""
    if args.images is None:
        if args.val_images is not None or args.test_images is not None:
            raise UserError("--val-images and --test-images need --images N.")
        return None
    scaled = min(SCALED, args.images)
    val, test = (scaled if count is None else count for count in (args.val_images, args.test_images))
    return args.images, val, test


def run(args: argparse.Namespace) -> None:
    if (args.captions is None) == (args.annotations is None):
        raise UserError("Give either --annotations DIR (real boxes) or --captions FILE (boxes are also simulated).")
    if args.annotations is not None and args.classes is not None:
        raise UserError("--classes cannot be used with --annotations, which contain their classes.")
    splits = read_splits(args.split_ids) if args.split_ids else None
    sizes = (args.regions, args.feature_dim, args.num_classes)
    settings = Settings(args.seed, counts_of(args), *sizes, args.dtype, args.shuffled)
    source: AnnotationsSource | CaptionsSource
    if args.annotations is not None:
        what, assumptions = "Captions, phrases and boxes are real, regions", assumptions_of(args, "--annotations")
        source = AnnotationsSource(args.annotations, noun_lemma, assumptions, splits)
    else:
        what, assumptions = "Boxes and features", assumptions_of(args, "--captions")
        source = CaptionsSource(args.captions, read_classes(args.classes), noun_lemma, assumptions, splits)
    manifest, made = simulate(source, args.out, settings, workers=args.workers)
    found = ", ".join(f"{split} {counts['images']:,}" for split, counts in manifest["counts"].items())
    print(
        f"{'Made' if made else 'It exists already:'} {args.out}: images {found}; a region reaches (IoU > 0.5) "
        f"{100 * (manifest['reach'] or 0):.1f} % of the boxes.\n{what} are simulated. Train with\n"
        f"  --data {args.out} MODEL.VOCAB_SIZE {manifest['vocabulary_size']} MODEL.SS_ATTENTION.NUM_CLASSES "
        f"{manifest['num_classes']} MODEL.VISUAL_EMBED.IN_DIM {manifest['feature_dim']} "
        f"DATALOADER.MAX_FEAT_NUM {manifest['num_regions']}"
    )


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return exit_code_of(lambda: run(args), program="simulate_regions")


if __name__ == "__main__":
    sys.exit(main())
