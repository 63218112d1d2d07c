"""A submission for the evaluator of Grounded Video Description, see ``evaluation.results.gvd_submission``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from xmodaler_ssattn.exports.export import NO_OBJECTS, Export, Written, add_out_file, write_or_print

if TYPE_CHECKING:
    from xmodaler_ssattn.evaluation.results import Results


class Gvd(Export):
    """``{"results": {image_id: [{"clss", "idx_in_sent", "bbox"}]}, "eval_mode", ...}``, boxes xyxy pixels."""

    name = "gvd"
    summary = "a submission for Grounded Video Description's evaluator"
    description = (
        "Write a submission that GVD's eval_grd_flickr30k_entities.py reads; grounding uses the greedy captions where "
        "the results contain them."
    )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_out_file(parser)
        parser.add_argument(
            "--mode",
            choices=("gen", "gt"),
            default="gen",
            help="gen: the generated captions; gt: the reference captions (results of INFERENCE.GT_ATTENTION True)",
        )

    @classmethod
    def write(cls, results: Results, args: argparse.Namespace) -> Written:
        from xmodaler_ssattn.evaluation.results import gvd_submission

        submission = gvd_submission(results, args.mode)
        named = any(sentence["clss"] for sentences in submission["results"].values() for sentence in sentences)
        doubts = () if named else (f"{NO_OBJECTS}, so there is nothing to score",)
        return Written(write_or_print(submission, args.out, f"{len(submission['results'])} images"), doubts)
