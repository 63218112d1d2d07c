"""``xmodaler score``: the published metrics on result files of any method, with intervals over images."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.cli.output import visible, warn
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.metrics import file_names

if TYPE_CHECKING:
    from xmodaler_ssattn.evaluation.gvd_format import Reference
    from xmodaler_ssattn.evaluation.scoring import GroundingScorer, Scores

MOST_RESAMPLES = 100_000  # each is a row of weights, one per image


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "score",
        description="Compute the published scores of captions and of grounding, with intervals over images, for our "
        "results files and for the files of any other method.",
        epilog="`xmodaler score WHAT --help` shows the files and options of each.",
    )
    kinds = parser.add_subparsers(title="what to score", metavar="WHAT", required=True)

    grounding = kinds.add_parser(
        "grounding",
        help="whether the boxes of object words are right: F1_all, F1_loc, attention accuracy",
        description="The grounding metric of Grounded Video Description (GVD) on Flickr30k Entities, on GVD's files.",
    )
    _grounding_arguments(grounding, required=True)
    grounding.add_argument("--submission", required=True, metavar="S", help="GVD submission, or a results file of ours")
    grounding.add_argument("--per-class", action="store_true", help="also print the table of classes (gen mode)")
    _common_arguments(grounding)
    grounding.set_defaults(run=run_grounding)

    captions = kinds.add_parser(
        "captions",
        help="how good captions are: BLEU, METEOR, ROUGE-L, CIDEr, SPICE",
        description="Caption metrics through pycocoevalcap, on PTB tokens.",
        epilog="SPICE needs two files that no package has: unpack stanford-corenlp-full-2015-12-09.zip from the "
        "Stanford NLP group's download page and set SSATTN_CORENLP to the folder that contains "
        "stanford-corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar. With network access "
        "`python -m pycocoevalcap.spice.get_stanford_models` downloads them into pycocoevalcap's own folder.",
    )
    _caption_arguments(captions, required=True)
    files = "{image_id: caption}, COCO style results, or a results file of ours"
    captions.add_argument("--predictions", required=True, metavar="P", help=files)
    _common_arguments(captions)
    captions.set_defaults(run=run_captions)

    compare = kinds.add_parser(
        "compare",
        help="how much better one result file is than another, with an interval",
        description="Score A and B on the images that both contain and print B - A with a 95 % interval over images. "
        "Give --references for caption metrics, --reference for grounding, or both.",
    )
    compare.add_argument("a", metavar="A", help="predictions, submission or results file")
    compare.add_argument("b", metavar="B", help="likewise")
    _caption_arguments(compare, required=False)
    _grounding_arguments(compare, required=False)
    _common_arguments(compare, replicates=1000)
    compare.set_defaults(run=run_compare)


def _grounding_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    add = parser.add_argument
    add("--reference", required=required, metavar="R", help="flickr30k_cleaned_class.json, or a file of its format")
    add("--split-ids", metavar="F", help="split_ids_flickr30k_entities.json; default: all images of R")
    add("--split", nargs="+", help="which split(s) of F (default: test)")
    modes = "gen: generated sentences; gt: forced reference captions (default: the submission's eval_mode, else gen)"
    add("--mode", choices=("gen", "gt"), help=modes)
    add(
        "--lemmas",
        metavar="L",
        help="JSON object word -> lemma, or GVD's dic_flickr30k.json; a word that is not in it is its own lemma "
        "(default: the lemmatiser lemminflect)",
    )


def _caption_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    add = parser.add_argument
    add("--references", required=required, metavar="R", help="{image_id: [caption, ...]} or COCO style captions")
    names = f"some of {' '.join(file_names())} (default: all that this machine can compute)"
    add("--metrics", nargs="+", metavar="M", help=names)
    add("--tokenized", action="store_true", help="the texts are tokens already: no PTB tokeniser")
    add("--greedy", action="store_true", help="use the greedy captions of a results file of ours")


def _common_arguments(parser: argparse.ArgumentParser, replicates: int = 0) -> None:
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object, scores as fractions, a 0/0 as null")
    resampled = "95 %% interval from N resamples of the images" + (f" (default {replicates})" if replicates else "")
    add("--bootstrap", type=int, metavar="N", default=replicates, help=resampled)
    add("--seed", type=int, default=0, help="seed of the resampling")


# --- printing -------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """NaN -> None, through lists and dicts, since JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(value: float) -> str:
    return "   n/a" if math.isnan(value) else f"{100 * value:6.2f}"


def _warn_missing(missing: list, total: int, what: str) -> None:
    if missing:
        names = ", ".join(str(image) for image in missing[:10]) + (", ..." if len(missing) > 10 else "")
        warn(f"{len(missing)} of {total} images {what}: {names}")


def _show(scores: Scores, args: argparse.Namespace) -> None:
    if args.json:
        printed: dict[str, Any] = dict(scores.values)
        if scores.replicates:
            printed["bootstrap"] = {"replicates": args.bootstrap, "level": 0.95, **scores.intervals}
        print(json.dumps(_plain(printed)))
        return
    intervals, width = scores.intervals, max(map(len, scores.values))
    for name, value in scores.values.items():
        spread = f"   [{_percent(intervals[name][0])}, {_percent(intervals[name][1])}]" if name in intervals else ""
        print(f"{name:{width}s} {_percent(value)}{spread}")
    print("(in percent" + (f"; 95 % interval of {args.bootstrap} resamples of the images)" if intervals else ")"))


def _resampling(args: argparse.Namespace, num_images: int) -> dict[str, int]:
    """The resampling arguments of the scorers."""
    if args.bootstrap and num_images == 1:
        warn("an interval over images has no width when there is one image; score more images.")
    if not 0 <= args.bootstrap <= MOST_RESAMPLES:
        raise UserError(
            f"--bootstrap: expected a number of resamples from 0 to {MOST_RESAMPLES}, got {args.bootstrap}."
        )
    if args.seed < 0:
        raise UserError(f"--seed: expected an integer >= 0, got {args.seed}.")
    return {"replicates": args.bootstrap, "seed": args.seed}


# --- grounding ------------------------------------------------------------------------------------------------------


def _grounding_scorer(args: argparse.Namespace) -> tuple[Reference, GroundingScorer]:
    from xmodaler_ssattn.evaluation.gvd_format import read_reference, read_split_ids
    from xmodaler_ssattn.evaluation.lemmas import Lemmas, own_lemma, read_lemma_table
    from xmodaler_ssattn.evaluation.scoring import GroundingScorer

    if args.split and not args.split_ids:
        raise UserError(
            f"--split {' '.join(args.split)}: give the file that lists the split's images with --split-ids."
        )
    keep = read_split_ids(args.split_ids, args.split or ["test"]) if args.split_ids else None
    reference = read_reference(args.reference, keep)
    lemmas = Lemmas(read_lemma_table(args.lemmas), own_lemma) if args.lemmas else Lemmas()
    return reference, GroundingScorer(reference.images, lemmas)


def _score_submissions(
    paths: list[str], reference: Reference, scorer: GroundingScorer, args: argparse.Namespace
) -> Iterator[Scores]:
    from xmodaler_ssattn.evaluation.doubts import grounding_doubts
    from xmodaler_ssattn.evaluation.gvd_format import read_submission

    resampling = _resampling(args, len(reference.images))
    for path in paths:
        predictions, missing, mode = read_submission(path, args.mode, reference)
        _warn_missing(missing, len(reference.images), f"are missing from {path}; scored as the published script does")
        for doubt in grounding_doubts(reference.images, predictions, mode):
            warn(f"{path}: {doubt}.")
        scores = scorer.score(predictions, mode, **resampling)
        yield scores.renamed({"attention_accuracy": "gt_accuracy"})  # the name of the published script


def _print_classes(matches: Any) -> None:
    from xmodaler_ssattn.evaluation.grounding import class_table

    print(f"\n{'class':20s} {'predicted':>9s} {'annotated':>9s} {'precision':>9s} {'recall':>9s} {'F1':>9s}")
    for row in class_table(matches):
        values = "".join(f"{_percent(row[key]):>10s}" for key in ("precision", "recall", "F1"))
        print(f"{visible(row['class']):20s} {row['predictions']:9d} {row['annotations']:9d}{values}")


def run_grounding(args: argparse.Namespace) -> int:
    reference, scorer = _grounding_scorer(args)
    (scores,) = _score_submissions([args.submission], reference, scorer, args)
    lemmas = scorer.lemmas
    if scores.matches is not None and lemmas.fell_back:
        fallback = "their own lemma (not in the table)" if args.lemmas else "given to lemminflect"
        print(f"Lemmas: {100 * lemmas.fallback_share:.1f} % of the words looked up were {fallback}.", file=sys.stderr)
    _show(scores, args)
    if args.per_class and scores.matches is not None and not args.json:
        _print_classes(scores.matches)
    return 0


# --- captions -------------------------------------------------------------------------------------------------------


def _wanted(args: argparse.Namespace) -> tuple[str, ...]:
    """The metrics to compute: those of --metrics, or by default all that can run; a warning names the others."""
    from xmodaler_ssattn.evaluation.metrics import metric_names, what_can_run

    wanted = metric_names(args.metrics)
    reasons = what_can_run(wanted, tokenized=args.tokenized)
    absent = {name: reason for name, reason in reasons.items() if reason}
    if len(absent) == len(wanted):
        on_tokens = [name for name, reason in what_can_run(wanted, tokenized=True).items() if not reason]
        hint = f" {', '.join(on_tokens)} can if the texts are tokens already: give --tokenized." if on_tokens else ""
        raise UserError("No score was computed. " + _reasons("cannot be computed", absent) + hint)
    if absent and not args.metrics:
        warn(_reasons("left out", absent))
        return tuple(name for name in wanted if name not in absent)
    return wanted


def _reasons(what: str, absent: dict[str, str]) -> str:
    """Each reason once, with the metrics to which it applies."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in absent.items():
        by_reason.setdefault(reason.rstrip("."), []).append(name)
    return " ".join(f"{', '.join(names)} {what}: {reason}." for reason, names in by_reason.items())


def _score_captions(
    references: dict[str, list[str]], captions: list[dict[str, str]], args: argparse.Namespace, paths: tuple = ()
) -> list[Scores]:
    """The scores of one or more sets of captions of the same images; warnings begin with the set's path, if given."""
    from xmodaler_ssattn.evaluation.scoring import CaptionScorer

    scorer, metrics = CaptionScorer(references, tokenized=args.tokenized), _wanted(args)
    scorer.warm_up(metrics)
    resampling = _resampling(args, len(captions[0]))
    found = list(scorer.score_many(dict(enumerate(captions)), metrics, **resampling).values())
    for number, scores in enumerate(found):
        for doubt in scores.doubts:
            warn(f"{paths[number]}: {doubt}." if paths else f"{doubt}.")
    return found


def _warn_failed(failed: dict[str, str]) -> int:
    """The exit code: 1 when a metric that was asked for could not be computed."""
    for name, reason in failed.items():
        warn(f"{name} could not be computed: {reason}")
    return 1 if failed else 0


def run_captions(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.evaluation.caption_files import keep_common, read_predictions, read_reference_captions

    references = read_reference_captions(args.references)
    predictions, missing = keep_common(references, read_predictions(args.predictions, greedy=args.greedy))
    _warn_missing(missing, len(references), "have references but no prediction and are not scored")
    (scores,) = _score_captions(references, [predictions], args)
    code = _warn_failed(scores.failed)
    if scores.values:
        _show(scores, args)
    return code


# --- compare --------------------------------------------------------------------------------------------------------


def run_compare(args: argparse.Namespace) -> int:
    if not (args.references or args.reference):
        raise UserError("compare: give --references (caption metrics), --reference (grounding), or both.")
    if args.bootstrap < 1:
        raise UserError("compare: --bootstrap must be at least 1; the difference is judged by resampling the images.")
    rows: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    if args.references:
        found, failed = _compare_captions(args)
        rows |= found
    if args.reference:
        rows |= _compare_grounding(args)
    if args.json:
        print(json.dumps(_plain({"replicates": args.bootstrap, "level": 0.95, "scores": rows})))
    elif rows:
        width = max(map(len, rows))
        print(f"{'':{width}s} {'A':>6s} {'B':>6s} {'B - A':>7s}   95 % interval        p")
        for name, row in rows.items():
            difference = f"{_percent(row['difference']):>7s}   [{_percent(row['low'])}, {_percent(row['high'])}]"
            p = " n/a" if math.isnan(row["p"]) else f"{row['p']:.3f}"
            print(f"{name:{width}s} {_percent(row['a'])} {_percent(row['b'])} {difference}   {p}")
        print(f"(in percent; the same {args.bootstrap} resamples of the images for A and B)")
    return _warn_failed(failed)


def _compare_captions(args: argparse.Namespace) -> tuple[dict, dict[str, str]]:
    """(rows of ``scoring.compared``, metric -> why it could not be computed)."""
    from xmodaler_ssattn.evaluation.caption_files import keep_common, read_predictions, read_reference_captions
    from xmodaler_ssattn.evaluation.scoring import compared

    references = read_reference_captions(args.references)
    a, b = (keep_common(references, read_predictions(path, greedy=args.greedy))[0] for path in (args.a, args.b))
    common = [image for image in references if image in a and image in b]
    if not common:
        raise UserError(f"compare: {args.a} and {args.b} have no image in common.")
    left_out = [image for image in {**a, **b} if image not in a or image not in b]
    _warn_missing(left_out, len({**a, **b}), "are in only one of A and B and are not compared")
    captions = [{image: of[image] for image in common} for of in (a, b)]
    of_a, of_b = _score_captions(references, captions, args, (args.a, args.b))
    return compared(of_a, of_b), of_a.failed | of_b.failed


def _compare_grounding(args: argparse.Namespace) -> dict:
    """Rows of ``scoring.compared``."""
    from xmodaler_ssattn.evaluation.scoring import compared

    reference, scorer = _grounding_scorer(args)
    a, b = _score_submissions([args.a, args.b], reference, scorer, args)
    if a.values.keys() != b.values.keys():
        raise UserError(
            f"compare: one of {args.a} and {args.b} has generated sentences, the other has forced reference captions "
            "(see their eval_mode); compare two files of the same mode."
        )
    return compared(a, b)
