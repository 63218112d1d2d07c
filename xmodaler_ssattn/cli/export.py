"""``xmodaler export``: write results in the formats of other tools."""

from __future__ import annotations

import argparse
import json
import sys


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("export")
    formats = parser.add_subparsers(title="formats", metavar="FORMAT", required=True)
    gvd = formats.add_parser(
        "gvd",
        help="a submission for Grounded Video Description's evaluator",
        description="Write a submission that GVD's eval_grd_flickr30k_entities.py reads; grounding uses the greedy "
        "captions where the results contain them.",
    )
    gvd.add_argument("results", metavar="RESULTS", help="a results file, e.g. OUTPUT_DIR/results/test_epoch_50.json")
    gvd.add_argument("--out", metavar="FILE", help="where to write; default: standard output")
    gvd.add_argument(
        "--mode",
        choices=("gen", "gt"),
        default="gen",
        help="gen: the generated captions; gt: the reference captions (results of INFERENCE.GT_ATTENTION True)",
    )
    gvd.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.evaluation.results import gvd_submission, read_results
    from xmodaler_ssattn.files import write_json

    submission = gvd_submission(read_results(args.results), args.mode)
    if not any(sentence["clss"] for sentences in submission["results"].values() for sentence in sentences):
        print(
            f"xmodaler: warning: {args.results}: no sentence names an object, so there is nothing to score. Results "
            "contain object words if they were evaluated with grounding_{val,test}.json in DATALOADER.ANNO_FOLDER.",
            file=sys.stderr,
        )
    if args.out:
        write_json(args.out, submission)
        print(f"{len(submission['results'])} images written to {args.out}", file=sys.stderr)
    else:
        print(json.dumps(submission, allow_nan=False))
    return 0
