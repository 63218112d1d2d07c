"""Scoring in one place: from captions and groundings with their references to ``Scores``.

The evaluator of a training run, ``xmodaler score``, ``reproduce/`` and ``report/`` all use this file. Its two scorers
keep everything that does not change between calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.bootstrap import difference, image_weights, interval
from xmodaler_ssattn.evaluation.doubts import caption_doubts
from xmodaler_ssattn.evaluation.forced import ForcedMatches, attention_accuracy, match_forced
from xmodaler_ssattn.evaluation.grounding import Matches, generated_replicates, generated_scores, match_generated
from xmodaler_ssattn.evaluation.java import JavaError
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.metrics import Metric, all_metrics, metric_names, what_can_run
from xmodaler_ssattn.evaluation.ptb import PtbTokenizer, one_line
from xmodaler_ssattn.evaluation.results import ImageResult, gvd_predictions
from xmodaler_ssattn.progress import doing

GREEDY = "greedy_"
"""Prefix of the scores of greedy captions, where an image has another main caption."""
ACCURACY = "attention_accuracy"


@dataclass(frozen=True)
class Scores:
    """Scores, with the data for intervals and comparisons."""

    values: dict[str, float]  # name -> score, as a fraction
    images: tuple[Any, ...] = ()  # the scored images, in the order of the resampling
    replicates: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (n,) scores of n resamples, if any
    failed: dict[str, str] = field(default_factory=dict)  # metric -> the reason why it could not be computed
    doubts: tuple[str, ...] = ()  # signs that the scores are wrong (see ``doubts``), sentences without a full stop
    rows: dict[str, np.ndarray] = field(default_factory=dict)  # caption metric -> see ``Metric.rows``
    matches: Matches | None = None  # of generated sentences
    forced: ForcedMatches | None = None  # of the attention accuracy

    def renamed(self, names: Mapping[str, str]) -> Scores:
        """The same scores, some under other names: old -> new."""
        values = {names.get(name, name): value for name, value in self.values.items()}
        replicates = {names.get(name, name): value for name, value in self.replicates.items()}
        return replace(self, values=values, replicates=replicates)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Name -> (low, high) of the central 95 % of the replicates."""
        return {name: interval(values) for name, values in self.replicates.items()}


def joined(sets: Mapping[str, Scores]) -> Scores:
    """One ``Scores`` of several sets of captions; the key of a set is the prefix of its names. Images: the first set's.

    >>> joined({"": Scores({"CIDEr": 0.5}), "greedy_": Scores({"CIDEr": 0.4})}).values
    {'CIDEr': 0.5, 'greedy_CIDEr': 0.4}
    """

    def prefixed(part: str) -> dict[str, Any]:
        return {prefix + name: value for prefix, s in sets.items() for name, value in getattr(s, part).items()}

    failed = {metric: reason for s in sets.values() for metric, reason in s.failed.items()}
    doubts = tuple(
        ("greedy captions: " if prefix == GREEDY else "") + doubt for prefix, s in sets.items() for doubt in s.doubts
    )
    images = next((s.images for s in sets.values()), ())
    return Scores(prefixed("values"), images, prefixed("replicates"), failed, doubts, prefixed("rows"))


def compared(a: Scores, b: Scores) -> dict[str, dict[str, float]]:
    """The paired difference of each common score, over the same resamples of the same images.

    Returns:
        name -> ``{"a", "b", "difference", "low", "high", "p"}`` with difference = b - a, see ``bootstrap.difference``.
    """
    return {
        name: {"a": value, "b": b.values[name], "difference": b.values[name] - value}
        | difference(a.replicates[name], b.replicates[name])
        for name, value in a.values.items()
        if name in b.values and name in a.replicates and name in b.replicates
    }


# --- captions -------------------------------------------------------------------------------------------------------


def caption_sets(captions: Mapping[Any, str]) -> dict[str, dict[Any, str]]:
    """The main captions under "" and, for captions with a greedy one, the greedy captions under ``GREEDY``.

    >>> caption_sets({1: "a dog"})
    {'': {1: 'a dog'}}
    """
    sets = {"": {image: str(caption) for image, caption in captions.items()}}
    greedy = {image: getattr(caption, "greedy", None) for image, caption in captions.items()}
    if found := {image: str(caption) for image, caption in greedy.items() if caption is not None}:
        sets[GREEDY] = found
    return sets


class CaptionScorer:
    """Scores captions against fixed references.

    A metric that cannot be computed (no Java, no SPICE models, a process that died) is left out with its reason; the
    others are still computed.

    Args:
        references: image -> its reference captions, at least one each.
        tokenized: captions and references are token strings already and are not tokenised.
        metrics: metric objects to use instead of new ones, by name.

    Raises:
        UserError: an image without references.
    """

    def __init__(
        self,
        references: Mapping[Any, Sequence[str]],
        *,
        tokenized: bool = False,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        empty = [str(image) for image, captions in references.items() if not captions]
        if empty:
            raise UserError(f"References: no caption for image {', '.join(empty[:10])}.")
        self._references = {image: tuple(captions) for image, captions in references.items()}
        self._tokenized = tokenized
        self._tokenizer = PtbTokenizer()
        self._metrics = dict(metrics or {})

    def _metric(self, name: str) -> Metric:
        if name not in self._metrics:
            self._metrics[name] = all_metrics()[name]()
        return self._metrics[name]

    def warm_up(self, metrics: Iterable[str] | None = None) -> None:
        """Start, in the background, the programs of the metrics that can run; returns at once."""
        slow = [name for name in metric_names(metrics) if all_metrics()[name].starts_slowly]
        for name, reason in what_can_run(slow).items():
            if reason is None:
                self._metric(name).start()

    def score(self, captions: Mapping[Any, str], metrics: Iterable[str] | None = None, **resampling: int) -> Scores:
        """Score one caption per image; images without a caption are left out. Arguments as ``score_many``."""
        return self.score_many({"": captions}, metrics, **resampling)[""]

    @doing("Scoring the captions")
    def score_many(
        self,
        sets: Mapping[Any, Mapping[Any, str]],
        metrics: Iterable[str] | None = None,
        *,
        replicates: int = 0,
        seed: int = 0,
    ) -> dict[Any, Scores]:
        """Score several sets of captions, e.g. main and greedy, with one start of each program.

        A metric that fails for one set is not tried for the next.

        Args:
            sets: name of a set -> image -> caption.
            metrics: names as ``metric_names`` takes them; None: all.
            replicates: the number of resamples of the images of each set.
            seed: of the resampling.

        Raises:
            UserError: an image has a caption but no references, a metric is unknown, or there is no caption.
        """
        names = metric_names(metrics)
        for captions in sets.values():
            unknown = [str(image) for image in captions if image not in self._references]
            if unknown:
                raise UserError(f"Captions: no references for image {', '.join(unknown[:10])} ({len(unknown)} in all).")
            if not captions:
                raise UserError("Captions: there are none to score.")
        failed = {name: reason for name, reason in what_can_run(names, tokenized=self._tokenized).items() if reason}
        # In the order of the references, as in pycocoevalcap, whatever the order of the captions.
        images = {key: tuple(i for i in self._references if i in captions) for key, captions in sets.items()}
        try:
            tokens = self._tokens([(sets[key][i], self._references[i]) for key in sets for i in images[key]])
        except JavaError as error:
            failed = dict.fromkeys(names, str(error)) | failed
            return {key: Scores({}, images[key], failed=dict(failed)) for key in sets}
        for name in names:
            if name not in failed:
                try:
                    self._metric(name).prepare(*zip(*tokens))
                except JavaError as error:
                    failed[name] = str(error)
        rest = iter(tokens)
        return {
            key: self._score_set(names, images[key], [next(rest) for _ in images[key]], failed, replicates, seed)
            for key in sets
        }

    def _tokens(self, pairs: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[str, list[str]]]:
        """(caption, its references) as token strings."""
        flat = [text for caption, refs in pairs for text in (caption, *refs)]
        tokens = iter([one_line(text) for text in flat] if self._tokenized else self._tokenizer.tokenize(flat))
        return [(next(tokens), [next(tokens) for _ in refs]) for _, refs in pairs]

    def _score_set(
        self,
        names: Sequence[str],
        images: tuple[Any, ...],
        tokens: Sequence[tuple[str, list[str]]],
        failed: dict[str, str],
        replicates: int,
        seed: int,
    ) -> Scores:
        """The scores of one set; failed metrics are added to ``failed``."""
        captions, references = [caption for caption, _ in tokens], [refs for _, refs in tokens]
        once, weights = np.ones((1, len(images))), image_weights(len(images), replicates, seed)
        found: dict[str, tuple[np.ndarray, dict, dict]] = {}
        for name in sorted(names, key=lambda name: all_metrics()[name].starts_slowly):
            if name not in failed:
                try:
                    metric = self._metric(name)
                    counts = metric.rows(captions, references)
                    resampled = metric.values(counts, weights) if replicates else {}
                    found[name] = counts, metric.values(counts, once), resampled
                except JavaError as error:
                    failed[name] = str(error)
        rows = {name: found[name][0] for name in names if name in found}
        doubts = caption_doubts(dict(zip(images, captions)), dict(zip(images, references)), tuple(rows))
        doubts += [
            f"{name} has no score for {undefined} of {len(images)} captions, and so none for the corpus"
            for name, counts in rows.items()
            if (undefined := int(np.isnan(counts).any(axis=tuple(range(1, counts.ndim))).sum()))
        ]
        values = {score: float(value[0]) for name in rows for score, value in found[name][1].items()}
        sampled = {score: value for name in rows for score, value in found[name][2].items()}
        return Scores(values, images, sampled, dict(failed), tuple(doubts), rows)


# --- grounding ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroundingScorer:
    """Scores groundings against one reference."""

    reference: Sequence[Mapping[str, Any]]  # the images, see ``grounding``
    lemmas: Lemmas
    undefined: float = math.nan  # the value of a score that is 0/0; in the replicates it is always NaN

    @doing("Scoring the boxes")
    def score(
        self, predictions: Mapping[str, Sequence], mode: str = "gen", *, replicates: int = 0, seed: int = 0
    ) -> Scores:
        """Score predictions in GVD's form, see ``grounding``.

        Args:
            mode: "gen" for generated sentences (``GENERATED_SCORES``), "gt" for forced reference captions
                (``ACCURACY``).
            replicates, seed: as for captions; the images are all of the reference.

        Raises:
            UserError: in mode "gt", an image has a different number of sentences than of reference captions.
        """
        images = tuple(record["image_id"] for record in self.reference)
        weights = image_weights(len(images), replicates, seed)
        if mode == "gen":
            matches = match_generated(self.reference, predictions, self.lemmas)
            values = generated_scores(matches, undefined=self.undefined)
            sampled = generated_replicates(matches, weights) if replicates else {}
            return Scores(values, images, sampled, matches=matches)
        forced = match_forced(self.reference, predictions)
        values = {ACCURACY: attention_accuracy(forced, undefined=self.undefined)}
        sampled = {ACCURACY: np.array([attention_accuracy(forced, image_weights=row) for row in weights])}
        return Scores(values, images, sampled if replicates else {}, forced=forced)

    def score_results(
        self, results: Iterable[ImageResult], object_words: Mapping[str, str], *, replicates: int = 0, seed: int = 0
    ) -> Scores:
        """Score the grounded captions of results, and their forced reference captions where there are any.

        Images without a grounded caption count as missing, as in the published script. If the forced captions do not
        fit the reference, the reason is in ``failed``.

        Args:
            object_words: word -> class, for the words of these captions.
        """
        results = list(results)
        grounded = [result for result in results if result.grounded is not None]
        scores = self.score(gvd_predictions(grounded, object_words), replicates=replicates, seed=seed)
        answered = [result for result in results if result.forced]
        if not answered:
            return scores
        try:
            forced = self.score(gvd_predictions(answered, object_words, "gt"), "gt", replicates=replicates, seed=seed)
        except UserError as error:
            return replace(scores, failed={ACCURACY: str(error)})
        values, sampled = scores.values | forced.values, scores.replicates | forced.replicates
        return replace(scores, values=values, replicates=sampled, forced=forced.forced)
