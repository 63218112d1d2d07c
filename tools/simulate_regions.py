"""Make a data set from captions alone: the texts are real, boxes, features and class probabilities are simulated.

    python tools/simulate_regions.py --captions captions.json.gz --out data/simulated --images 5000 --feature-dim 512
    xmodaler train --config-file configs/flickr30k_entities/ss_attn.yaml --data data/simulated MODEL.VOCAB_SIZE ...

The captions file is JSON, plain or gzip: {"image id": {"split": "train", "captions": [five texts]}, ...}. The folder
gets the official layout of Flickr30k Entities (without pictures), the annotations prepared from it, regions.h5 and
simulated.json, which holds every parameter. Each assumption of the generative model is an option of its own.

The leak test, on a data set made with --shuffled: a trained model evaluated with the regions of other images must lose
its scores, since nothing but regions should tell it which image it sees.

    xmodaler eval --weights W --config-file C --data DIR ... DATALOADER.REGIONS DIR/regions_shuffled.h5 OUTPUT_DIR OTHER
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmodaler_ssattn.data.classes import read_classes
from xmodaler_ssattn.data.splits import read_splits
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.lemmas import noun_lemma
from xmodaler_ssattn.simulated import Assumptions, Settings, simulate

SCALED = 500  # val and test images when --images is given


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--captions", required=True, metavar="FILE", help="the captions file")
    add("--out", required=True, metavar="DIR", help="folder to make")
    add("--classes", metavar="FILE", help="object classes, one a line (default: the 480 of Flickr30k Entities)")
    add("--split-ids", metavar="FILE", help="split_ids_flickr30k_entities.json (default: the captions file's splits)")
    add("--images", type=int, metavar="N", help="training images (default: all, with all of val and test)")
    add("--val-images", type=int, metavar="N", help=f"default with --images: {SCALED}, or N if that is less; else all")
    add("--test-images", type=int, metavar="N", help="the same")
    add("--feature-dim", type=int, default=2048, metavar="D", help="size of a region feature (default: 2048)")
    add("--regions", type=int, default=36, metavar="K", help="regions of an image (default: 36)")
    add(
        "--num-classes",
        type=int,
        default=1601,
        metavar="C",
        help="class probabilities, with the background (default: 1601)",
    )
    add(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of features and class probabilities in the file (default: float16)",
    )
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=1, help="processes; the result is the same (default: 1)")
    add("--shuffled", action="store_true", help="also write regions_shuffled.h5, the leak test's")
    group = parser.add_argument_group("assumptions of the generative model")
    for field in dataclasses.fields(Assumptions):
        kind = int if isinstance(field.default, int) else float
        reason = field.metadata["reason"].replace("%", "%%")
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=field.default,
            metavar="X",
            help=f"{reason} (default: {field.default})",
        )
    return parser


def run(args: argparse.Namespace) -> None:
    classes = read_classes(args.classes)
    splits = read_splits(args.split_ids) if args.split_ids else None
    counts = None
    if args.images is not None:
        scaled = min(SCALED, args.images)
        counts = (
            args.images,
            scaled if args.val_images is None else args.val_images,
            scaled if args.test_images is None else args.test_images,
        )
    elif args.val_images is not None or args.test_images is not None:
        raise UserError("--val-images and --test-images need --images N.")
    assumptions = Assumptions(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Assumptions)})
    settings = Settings(args.seed, counts, args.regions, args.feature_dim, args.num_classes, args.dtype, args.shuffled)
    manifest, made = simulate(
        args.captions, args.out, settings, assumptions, classes, noun_lemma, splits=splits, workers=args.workers
    )
    found = ", ".join(f"{split} {counts['images']:,}" for split, counts in manifest["counts"].items())
    print(
        f"{'Made' if made else 'It was there already:'} {args.out}: images {found}; a region reaches (IoU > 0.5) "
        f"{100 * manifest['reach']:.1f} % of the boxes.\nBoxes and features are simulated. Train with\n"
        f"  --data {args.out} MODEL.VOCAB_SIZE {manifest['vocabulary_size']} MODEL.SS_ATTENTION.NUM_CLASSES "
        f"{manifest['num_classes']} MODEL.VISUAL_EMBED.IN_DIM {manifest['feature_dim']} "
        f"DATALOADER.MAX_FEAT_NUM {manifest['num_regions']}"
    )


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        run(args)
    except UserError as error:
        print(f"simulate_regions: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
