"""The numbers above the pictures: scores with intervals, the paired comparison, classes, and each image's CIDEr.

The score of record is the one in the results file. What can be counted again from the annotations in seconds (BLEU,
ROUGE-L, CIDEr, grounding) gets an interval over images, as long as the recount gives the very same score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation import bootstrap
from xmodaler_ssattn.evaluation.captions import CaptionScorer, what_can_run
from xmodaler_ssattn.evaluation.forced import attention_accuracy, match_forced
from xmodaler_ssattn.evaluation.grounding import Matches, class_table, generated_scores, match_generated
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.results import gvd_predictions
from xmodaler_ssattn.report.source import Model, Source

# Seconds, not minutes: METEOR and SPICE start programs of their own.
RECOUNTED = ("Bleu", "ROUGE_L", "CIDEr")
REPLICATES = 1000
MOST_IMAGES = 5000
"""Above this many images no intervals are computed unless somebody asks for them."""
SAME = 1e-6


@dataclass
class Numbers:
    """What ``numbers_of`` found, scores as fractions.

    Attributes:
        scores: for each model, score name -> value; NaN for 0/0.
        intervals: for each model, score name -> (low, high), central 95 %.
        comparison: for two models, score name -> ``{"a", "b", "difference", "low", "high", "p"}``.
        classes: rows ``{"class", "annotations", "models": [{"predictions", "precision", "recall", "F1"} or None]}``.
        cider: for each model, kind ("main", "greedy") -> image id -> CIDEr.
        replicates: how many resamples the intervals come from; 0 for none.
    """

    scores: list[dict[str, float]]
    intervals: list[dict[str, tuple[float, float]]]
    comparison: dict[str, dict[str, float]] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)
    cider: list[dict[str, dict[int, float]]] = field(default_factory=list)
    replicates: int = 0


def numbers_of(source: Source, replicates: int | None = None) -> Numbers:
    """Read and recount the scores of all models; what cannot be had is added to ``source.notices``.

    Args:
        replicates: resamples of the images for intervals; None: ``REPLICATES``, or 0 above ``MOST_IMAGES`` images.
    """
    if replicates is None:
        replicates = REPLICATES if len(source.image_ids) <= MOST_IMAGES else 0
        if not replicates:
            source.notices.append(
                f"No intervals: there are more than {MOST_IMAGES} images; ask for them with --bootstrap {REPLICATES}."
            )
    read = [dict(model.results.header.get("scores") or {}) for model in source.models]
    scores = [{k: math.nan if v is None else float(v) for k, v in row.items()} for row in read]
    numbers = Numbers(scores, [{} for _ in scores], cider=[{} for _ in scores], replicates=replicates)
    if source.truths:
        for counter in (_Captions.of(source), _Grounding.of(source)):
            if counter is not None:
                _recount(source, numbers, counter)
                counter.extras(numbers)
    return numbers


def _recount(source: Source, numbers: Numbers, counter: _Captions | _Grounding) -> None:
    other: set[str] = set()
    counted = [counter.replicated(model, counter.images(model), numbers.replicates) for model in source.models]
    for i, (scores, values) in enumerate(counted):
        for name, value in scores.items():
            known = numbers.scores[i].setdefault(name, value)
            if not (math.isclose(known, value, rel_tol=SAME, abs_tol=SAME) or math.isnan(value)):
                other.add(name)
            elif name in values:
                numbers.intervals[i][name] = bootstrap.interval(values[name])
    if other:
        source.notices.append(
            f"The annotations give other values than the results for {', '.join(sorted(other))}, which therefore have "
            "no interval."
        )
    if len(source.models) == 2 and numbers.replicates:
        _compare(source, numbers, counter, counted)


def _compare(source: Source, numbers: Numbers, counter: _Captions | _Grounding, counted: list) -> None:
    """B - A on the images that both have; the same resamples for both. ``counted``: each on all of its own images."""
    first, second = (counter.images(model) for model in source.models)
    if first != second:
        both = set(first) & set(second)
        common = [i for i in first if i in both]
        counted = [counter.replicated(model, common, numbers.replicates) for model in source.models] if common else []
    if not counted:
        return
    (a, a_values), (b, b_values) = counted
    for name in a:
        if name in b and name in a_values and name in b_values:
            spread = bootstrap.difference(a_values[name], b_values[name])
            numbers.comparison[name] = {"a": a[name], "b": b[name], "difference": b[name] - a[name], **spread}


class _Captions:
    """Caption scores from the annotations' raw captions."""

    def __init__(self, source: Source, scorer: CaptionScorer) -> None:
        self._source, self._scorer = source, scorer
        self._kept: dict[tuple[str, tuple[int, ...]], Any] = {}

    @classmethod
    def of(cls, source: Source) -> _Captions | None:
        reasons = {reason for reason in what_can_run(RECOUNTED).values() if reason}
        if reasons:
            source.notices.append(f"No caption scores of single images, no intervals for them: {'; '.join(reasons)}.")
            return None
        references = {
            i: [caption["raw"] for caption in source.truths[i].captions]
            for i in source.image_ids
            if i in source.truths and source.truths[i].captions
        }
        return cls(source, CaptionScorer(references)) if references else None

    def images(self, model: Model) -> list[int]:
        return [i for i in model.images if i in self._source.truths and self._source.truths[i].captions]

    def _scored(self, model: Model, images: Sequence[int]) -> dict[str, Any]:
        key = (model.name, tuple(images))
        if key not in self._kept and images:
            captions = {i: model.images[i].caption for i in images}
            greedy = {i: g for i, c in captions.items() if (g := getattr(c, "greedy", None)) is not None}
            sets = {"": {i: str(c) for i, c in captions.items()}}
            if greedy:
                sets["greedy_"] = {i: str(c) for i, c in greedy.items()}
            self._kept[key] = self._scorer.score_many(sets, RECOUNTED)
        return self._kept.get(key, {})

    def replicated(self, model: Model, images: Sequence[int], replicates: int):
        """(scores, score -> replicates) of the model on these images."""
        scores: dict[str, float] = {}
        values: dict[str, np.ndarray] = {}
        for prefix, result in self._scored(model, images).items():
            scores |= {prefix + name: value for name, value in result.scores.items()}
            if replicates and result.metrics:
                weights = bootstrap.image_weights(len(result.image_ids), replicates)
                found = bootstrap.caption_replicates(result.metrics, weights)
                values |= {prefix + name: value for name, value in found.items()}
        return scores, values

    def extras(self, numbers: Numbers) -> None:
        """CIDEr of every image."""
        for i, model in enumerate(self._source.models):
            for prefix, result in self._scored(model, self.images(model)).items():
                metric = result.metrics.get("CIDEr")
                if metric is not None:
                    kind = "greedy" if prefix else "main"
                    numbers.cider[i][kind] = dict(zip(result.image_ids, map(float, metric.rows)))


class _Grounding:
    """Grounding scores from ``grounding_{split}.json`` beside the annotations."""

    def __init__(self, source: Source, records: Sequence[Mapping[str, Any]], lemmas: Lemmas) -> None:
        self._source, self._records, self._lemmas = source, records, lemmas

    @classmethod
    def of(cls, source: Source) -> _Grounding | None:
        files = [source.annotations / f"grounding_{split}.json" for split in source.splits]
        absent = [str(path) for path in files if not path.is_file()]
        if absent:
            source.notices.append(f"No table of classes, no intervals for grounding: there is no {', '.join(absent)}.")
            return None
        if not any(image.grounded is not None for model in source.models for image in model.images.values()):
            return None
        records = [record for path in files for record in read_reference(path).images]
        return cls(source, records, Lemmas.of_folder(source.annotations))

    def images(self, model: Model) -> list[int]:
        """All of the reference: an image that the model left out counts as missed, as in the published script."""
        if not any(image.grounded is not None for image in model.images.values()):
            return []
        return [int(record["image_id"]) for record in self._records]

    def _matches(self, model: Model, images: Sequence[int]) -> Matches:
        wanted = set(images)
        records = [record for record in self._records if int(record["image_id"]) in wanted]
        grounded = [image for image in model.images.values() if image.grounded is not None]
        return match_generated(records, gvd_predictions(grounded, model.results.object_words), self._lemmas)

    def replicated(self, model: Model, images: Sequence[int], replicates: int):
        """(scores, score -> replicates) of the model on these images."""
        if not images:
            return {}, {}
        matches = self._matches(model, images)
        scores = generated_scores(matches, undefined=0.0)
        weights = bootstrap.image_weights(len(images), replicates) if replicates else None
        values = {} if weights is None else bootstrap.grounding_replicates(matches, weights)
        forced = [image for image in model.images.values() if image.forced]
        if forced:
            try:
                wanted = set(images)
                records = [record for record in self._records if int(record["image_id"]) in wanted]
                answers = match_forced(records, gvd_predictions(forced, model.results.object_words, mode="gt"))
            except UserError as error:
                self._source.notices.append(f"{model.name}: no attention accuracy: {error}")
            else:
                scores["attention_accuracy"] = attention_accuracy(answers, undefined=0.0)
                if weights is not None:
                    values["attention_accuracy"] = bootstrap.forced_replicates(answers, weights)["gt_accuracy"]
        return scores, values

    def extras(self, numbers: Numbers) -> None:
        """The table of classes."""
        tables = []
        for model in self._source.models:
            images = self.images(model)
            rows = class_table(self._matches(model, images)) if images else []
            tables.append({row["class"]: row for row in rows})
        annotations: dict[str, int] = {}
        for table in tables:
            for name, row in table.items():
                annotations[name] = max(annotations.get(name, 0), row["annotations"])
        keys = ("predictions", "precision", "recall", "F1")
        numbers.classes = [
            {
                "class": name,
                "annotations": count,
                "models": [{key: table[name][key] for key in keys} if name in table else None for table in tables],
            }
            for name, count in sorted(annotations.items(), key=lambda item: (-item[1], item[0]))
        ]
