"""Captions as COCO caption results.

The layout is that of https://cocodataset.org/#format-results (Image Captioning): a list of
``{"image_id": 1, "caption": "a man"}``, which ``pycocotools.coco.COCO.loadRes`` reads.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from xmodaler_ssattn.exports.export import Export, Written, add_greedy, add_out_file, write_or_print

if TYPE_CHECKING:
    from xmodaler_ssattn.evaluation.results import Results


class Coco(Export):
    """``[{"image_id", "caption"}, ...]``; an empty caption stays, so that every image is scored."""

    name = "coco"
    summary = "captions as COCO caption results, for pycocoevalcap and all that read them"
    description = 'Write the captions as COCO caption results, [{"image_id": 1, "caption": "a man"}, ...].'

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_out_file(parser)
        add_greedy(parser)

    @classmethod
    def write(cls, results: Results, args: argparse.Namespace) -> Written:
        from xmodaler_ssattn.exports.grounded import captions_of

        captions = captions_of(results, args.greedy)
        records = [{"image_id": image_id, "caption": str(caption)} for image_id, caption in captions.items()]
        return Written(write_or_print(records, args.out, f"{len(records)} captions"))
