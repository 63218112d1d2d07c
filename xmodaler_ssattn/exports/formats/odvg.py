"""Captions with boxes as ODVG, the training format of grounding detectors: one JSON object per line.

The layout is that of Open-GroundingDino (https://github.com/longzw1997/Open-GroundingDino, data_format.md and
datasets/odvg.py) and of MM-Grounding-DINO (https://github.com/open-mmlab/mmdetection, mmdet/datasets/odvg.py)::

    {"filename": "17.jpg", "height": 375, "width": 500,
     "grounding": {"caption": "a dog with a ball",
                   "regions": [{"bbox": [x1, y1, x2, y2], "phrase": "dog", "tokens_positive": [[2, 5]]}]}}

Boxes are pixels; ``tokens_positive`` are characters of the caption, which only MMDetection reads and requires. Both
readers accept one region per box; of an image without regions Open-GroundingDino fails, so these are left out.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.exports.export import Export, Written, add_annotations, add_greedy, add_images, no_boxes
from xmodaler_ssattn.files import write_text

if TYPE_CHECKING:
    from xmodaler_ssattn.evaluation.results import Results


class Odvg(Export):
    """One line per image that has a box; the phrase of a region is its object word."""

    name = "odvg"
    summary = "captions with boxes as ODVG, pseudo-labels to train Grounding DINO"
    description = (
        "Write one JSON object per image and line, as Open-GroundingDino and MMDetection's Grounding DINO read it: the "
        "caption, and for each object word its box and its place in the caption. Images without a box are left out."
    )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out", required=True, metavar="FILE", help="the file to write, e.g. train_vg.jsonl")
        parser.add_argument(
            "--min-weight",
            type=float,
            default=0.0,
            metavar="W",
            help="leave out words whose box has less attention than this (default: 0, all words)",
        )
        add_greedy(parser)
        add_images(parser, default="; for their file names (default: ID.jpg)")
        add_annotations(parser, "for the sizes of images, if the results lack them")

    @classmethod
    def write(cls, results: Results, args: argparse.Namespace) -> Written:
        from xmodaler_ssattn.exports.grounded import captions_of, exported_images, object_words, outside_doubt
        from xmodaler_ssattn.report.source import read_truths

        if not (math.isfinite(args.min_weight) and args.min_weight >= 0):
            raise UserError(f"--min-weight: expected a number >= 0, got {args.min_weight}.")
        captions = captions_of(results, args.greedy, boxes=True)
        truths, _, notices = read_truths(results, args.annotations)
        images = exported_images(results, args.images, truths)
        lines: list[str] = []
        found = regions = outside = turned = 0
        for image in images:
            caption = captions[image.result.image_id]
            words, lost = object_words(caption, results.object_words, image.width, image.height)
            kept = [word for word in words if word.weight >= args.min_weight]
            outside, found, regions = outside + lost, found + len(words), regions + len(kept)
            if not kept:
                continue
            turned += image.turned
            record: dict[str, Any] = {"filename": image.file_name, "height": image.height, "width": image.width}
            record["grounding"] = {
                "caption": str(caption),
                "regions": [
                    {"bbox": list(word.box_px), "phrase": word.text, "tokens_positive": [[word.start, word.end]]}
                    for word in kept
                ],
            }
            lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False))
        if not lines:
            reason = f"no object word has an attention of {args.min_weight:g}" if found else no_boxes(outside)
            raise UserError(f"{args.results}: {reason}, so there is nothing to write.")
        write_text(args.out, "\n".join(lines) + "\n")
        doubts = [*notices, *outside_doubt(outside)]
        if turned:
            doubts.append(
                f"{turned} pictures are stored on their side (EXIF), which Open-GroundingDino does not turn; save them "
                "upright"
            )
        left = f"; {len(images) - len(lines)} images without a box left out" if len(lines) < len(images) else ""
        return Written(f"{regions} boxes of {len(lines)} images written to {args.out}{left}", tuple(doubts))
