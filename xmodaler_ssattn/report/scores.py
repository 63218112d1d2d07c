"""The numbers above the pictures: scores with intervals, the paired comparison, classes, and each image's CIDEr.

The scores shown are those of the results file. Scores that can be recomputed from the annotations in seconds (BLEU,
ROUGE-L, CIDEr, grounding) get an interval over images, if the recomputed score is equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xmodaler_ssattn.evaluation.grounding import class_table
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.metrics import what_can_run
from xmodaler_ssattn.evaluation.scoring import (
    ACCURACY,
    GREEDY,
    CaptionScorer,
    GroundingScorer,
    Scores,
    caption_sets,
    compared,
    joined,
)
from xmodaler_ssattn.report.source import Model, Source

# Metrics that take seconds, not minutes: METEOR and SPICE start their own programs.
RECOUNTED = ("Bleu", "ROUGE_L", "CIDEr")
REPLICATES = 1000
MOST_IMAGES = 5000
"""Above this number of images, no intervals are computed by default."""
SAME = 1e-6


@dataclass
class Numbers:
    """The result of ``numbers_of``, scores as fractions.

    comparison: of two models, score name -> {"a", "b", "difference", "low", "high", "p"};
    classes: rows {"class", "annotations", "models": [{"predictions", "precision", "recall", "F1"} or None]}.
    """

    scores: list[dict[str, float]]  # for each model, score name -> value; NaN for 0/0
    intervals: list[dict[str, tuple[float, float]]]  # for each model, score name -> (low, high), central 95 %
    cider: list[dict[str, dict[int, float]]]  # for each model, kind ("main", "greedy") -> image id -> CIDEr
    replicates: int  # the number of resamples for the intervals; 0: no intervals
    comparison: dict[str, dict[str, float]] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)


def numbers_of(source: Source, replicates: int | None = None) -> Numbers:
    """Read and recompute the scores of all models; reasons for missing ones are added to ``source.notices``.

    ``replicates``: resamples of the images for intervals; None: ``REPLICATES``, or 0 above ``MOST_IMAGES`` images.
    """
    if replicates is None:
        replicates = REPLICATES if len(source.image_ids) <= MOST_IMAGES else 0
        if not replicates:
            source.notices.append(
                f"No intervals: there are more than {MOST_IMAGES} images; ask for them with --bootstrap {REPLICATES}."
            )
    read = [dict(model.results.header.get("scores") or {}) for model in source.models]
    scores = [{k: math.nan if v is None else float(v) for k, v in row.items()} for row in read]
    numbers = Numbers(scores, [{} for _ in scores], [{} for _ in scores], replicates)
    if source.truths:
        _recount_captions(source, numbers)
        _recount_grounding(source, numbers)
    return numbers


def _take(source: Source, numbers: Numbers, counted: Sequence[Scores]) -> None:
    """Add recomputed scores and their intervals; a score that differs from the results gets no interval."""
    other: set[str] = set()
    for scores, known, intervals in zip(counted, numbers.scores, numbers.intervals):
        for name, value in scores.values.items():
            old = known.setdefault(name, value)
            if not (math.isclose(old, value, rel_tol=SAME, abs_tol=SAME) or math.isnan(value)):
                other.add(name)
            elif name in scores.intervals:
                intervals[name] = scores.intervals[name]
    if other:
        source.notices.append(
            f"The annotations give other values than the results for {', '.join(sorted(other))}, which therefore have "
            "no interval."
        )


def _recount_captions(source: Source, numbers: Numbers) -> None:
    """Caption scores from the annotations' raw captions, and the CIDEr of every image."""
    reasons = {reason for reason in what_can_run(RECOUNTED).values() if reason}
    if reasons:
        source.notices.append(f"No caption scores of single images, no intervals for them: {'; '.join(reasons)}.")
        return
    references = {
        i: [caption["raw"] for caption in source.truths[i].captions]
        for i in source.image_ids
        if i in source.truths and source.truths[i].captions
    }
    if not references:
        return
    scorer = CaptionScorer(references)

    def scored(model: Model, images: Sequence[int]) -> dict[str, Scores]:
        sets = caption_sets({i: model.images[i].caption for i in images})
        return scorer.score_many(sets, RECOUNTED, replicates=numbers.replicates) if images else {}

    images = [[i for i in model.images if i in references] for model in source.models]
    found = [scored(*pair) for pair in zip(source.models, images)]
    for cider, sets in zip(numbers.cider, found):
        for prefix, scores in sets.items():
            if "CIDEr" in scores.rows:
                rows = map(float, scores.rows["CIDEr"])
                cider["greedy" if prefix == GREEDY else "main"] = dict(zip(scores.images, rows))
    _take(source, numbers, [joined(sets) for sets in found])
    if len(found) == 2 and numbers.replicates:
        if images[0] != images[1]:  # B - A on the common images, with the same resamples for both
            second = set(images[1])
            both = [i for i in images[0] if i in second]
            found = [scored(model, both) for model in source.models]
        numbers.comparison |= compared(*map(joined, found))


def _recount_grounding(source: Source, numbers: Numbers) -> None:
    """Grounding scores and the table of classes from ``grounding_{split}.json`` beside the annotations.

    An image that a model left out counts as missed, as in the published script.
    """
    assert source.annotations is not None  # there are truths
    files = [source.annotations / f"grounding_{split}.json" for split in source.splits]
    absent = [str(path) for path in files if not path.is_file()]
    if absent:
        source.notices.append(f"No table of classes, no intervals for grounding: there is no {', '.join(absent)}.")
        return
    grounded = [any(image.grounded is not None for image in model.images.values()) for model in source.models]
    if not any(grounded):
        return
    records = [record for path in files for record in read_reference(path).images]
    scorer = GroundingScorer(records, Lemmas.of_folder(source.annotations), undefined=0.0)
    counted = [
        scorer.score_results(model.images.values(), model.results.object_words, replicates=numbers.replicates)
        if has_boxes
        else Scores({})
        for model, has_boxes in zip(source.models, grounded)
    ]
    for model, scores in zip(source.models, counted):
        if ACCURACY in scores.failed:
            source.notices.append(f"{model.name}: no attention accuracy: {scores.failed[ACCURACY]}")
    _take(source, numbers, counted)
    if len(counted) == 2 and numbers.replicates:
        numbers.comparison |= compared(*counted)
    numbers.classes = _classes(counted)


def _classes(counted: Sequence[Scores]) -> list[dict[str, Any]]:
    """The rows of ``Numbers.classes``: the classes of all models, most often annotated first."""
    tables = [
        {} if scores.matches is None else {row["class"]: row for row in class_table(scores.matches)}
        for scores in counted
    ]
    annotations: dict[str, int] = {}
    for table in tables:
        for name, row in table.items():
            annotations[name] = max(annotations.get(name, 0), row["annotations"])
    keys = ("predictions", "precision", "recall", "F1")
    return [
        {
            "class": name,
            "annotations": count,
            "models": [{key: table[name][key] for key in keys} if name in table else None for table in tables],
        }
        for name, count in sorted(annotations.items(), key=lambda item: (-item[1], item[0]))
    ]
