"""The grounding metric of Grounded Video Description (GVD) on Flickr30k Entities, as plain functions.

Source of every rule: ``eval_grd_flickr30k_entities.py`` of GVD's Flickr30k branch (Zhou et al., CVPR 2019).
Records go in, numbers come out; nothing here reads a file or starts a process.

Records (the formats of GVD's own files):

* reference: a list of ``{"image_id": int, "captions": [caption, ...]}`` with
  ``caption = {"tokens": [str], "process_idx": [int], "process_clss": [str], "process_bnd_box": [[x1, y1, x2, y2]]}``;
  the three ``process_*`` lists are parallel, with one entry (one box) per annotated object word.
* predictions: ``{str(image_id): [sentence, ...]}`` with
  ``sentence = {"clss": [str], "idx_in_sent": [int], "bbox": [[x1, y1, x2, y2]]}``: one generated sentence per image,
  or, under teacher forcing, one sentence per reference caption.

All boxes are x1, y1, x2, y2 in pixels of the original image.

The evaluator appends 0s and 1s to one list per class. Here each of these is one row of ``Entries``, and every score is
a weighted count over the rows. Weights of 1 give the published metric; the weights of a resample of the images give one
bootstrap replicate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou_gvd

MODES = ("all", "loc")
GENERATED_SCORES = (
    *(f"{part}_{mode}" for mode in MODES for part in ("F1", "precision", "recall")),
    *(f"F1_{mode}_per_sentence" for mode in MODES),
    "classes_named",
)
"""The names of the scores that ``generated_scores`` returns."""


def record_of(words: Iterable[tuple[str, int, Sequence[float]]]) -> dict[str, list]:
    """The record of one predicted sentence from (class, position, box) of its object words."""
    found = list(words)
    return {key: [word[i] for word in found] for i, key in enumerate(("clss", "idx_in_sent", "bbox"))}


@dataclass(frozen=True)
class Entries:
    """The 0s and 1s that the evaluator collects, one row each; all arrays have the same length n."""

    image: np.ndarray  # (n,) int64, row of the image in the reference
    pair: np.ndarray  # (n,) int64, running number of the (image, caption) pair
    label: np.ndarray  # (n,) int64, index into ``Matches.classes``
    hit: np.ndarray  # (n,) bool, the value that is appended
    loc: np.ndarray  # (n,) bool, whether mode "loc" appends it too; mode "all" appends every row


@dataclass(frozen=True)
class Matches:
    """The counts from which the scores of generated sentences are computed."""

    classes: tuple[str, ...]  # that occur in the reference or in a prediction
    image_ids: tuple[int, ...]  # the reference's images, in its order
    pair_image: np.ndarray  # (pairs,) int64, the image's row for each (image, caption) pair
    predicted: np.ndarray  # (images,) bool, whether the predictions contain the image
    annotated: np.ndarray  # (m, 2) int64, (image row, label) per annotated word of a predicted image: the set V
    named: np.ndarray  # (m, 2) int64, (image row, label) per predicted class and image
    precision: Entries
    recall: Entries


class _EntryList:
    """Collects entries; all boxes are compared at once at the end, which makes the metric fast."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, bool, bool]] = []  # image, pair, label, compared, loc
        self._predicted: list[Sequence[float]] = []
        self._reference: list[Sequence[float]] = []

    def compare(
        self, image: int, pair: int, label: int, predicted_px: Sequence[float], reference_px: Sequence[float]
    ) -> None:
        self._rows.append((image, pair, label, True, True))
        self._predicted.append(predicted_px)
        self._reference.append(reference_px)

    def miss(self, image: int, pair: int, label: int, *, loc: bool) -> None:
        self._rows.append((image, pair, label, False, loc))

    def done(self) -> Entries:
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 5)
        hit = rows[:, 3] == 1
        hit[hit] = iou_gvd(self._predicted, self._reference) > IOU_THRESHOLD
        return Entries(rows[:, 0], rows[:, 1], rows[:, 2], hit, rows[:, 4] == 1)


def _first_boxes(caption: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """class -> box of its entry with the smallest word position in the caption."""
    first: dict[str, tuple[int, Sequence[float]]] = {}
    for position, name, box in zip(caption["process_idx"], caption["process_clss"], caption["process_bnd_box"]):
        if name not in first or position < first[name][0]:
            first[name] = (position, box)
    return {name: box for name, (_, box) in first.items()}


def _lemmas_of_other_words(caption: Mapping[str, Any], lemma: Callable[[str], str]) -> set[str]:
    annotated = set(caption["process_idx"])
    return {lemma(word) for i, word in enumerate(caption["tokens"]) if word != "" and i not in annotated}


def match_generated(
    reference: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    lemma: Callable[[str], str],
) -> Matches:
    """Compare each image's one generated sentence with each of its reference captions (GVD's ``grd_eval``).

    For precision, each predicted (class, box), duplicates included:

    * class annotated in this caption: hit when the overlap with the box of its first annotated word is > 0.5;
    * else its lemma is the lemma of another word of the caption: skipped (mentioned, but not annotated);
    * else: a miss in mode "all" (an object that the caption does not mention), nothing in mode "loc".

    For recall, each annotated word: a miss in both modes when the image has no prediction; else compared with the
    FIRST predicted box of that class; else a miss in mode "all", nothing in mode "loc".

    Args:
        reference, predictions: see the module's docstring. Only the first sentence of an image is used, and
            ``idx_in_sent`` is not. Images that the reference lacks are ignored.
        lemma: word -> lemma.
    """
    labels: dict[str, int] = {}
    precision, recall = _EntryList(), _EntryList()
    annotated, named = [], []
    pair_image: list[int] = []
    predicted = np.zeros(len(reference), dtype=bool)
    for image, record in enumerate(reference):
        sentences = predictions.get(str(record["image_id"]))
        predicted[image] = sentences is not None
        names, boxes = (sentences[0]["clss"], sentences[0]["bbox"]) if sentences is not None else ((), ())
        first_predicted: dict[str, Sequence[float]] = {}
        for name, box in zip(names, boxes):
            first_predicted.setdefault(name, box)
        named += [(image, labels.setdefault(name, len(labels))) for name in first_predicted]
        for caption in record["captions"]:
            pair = len(pair_image)
            pair_image.append(image)
            for name, box in zip(caption["process_clss"], caption["process_bnd_box"]):
                label = labels.setdefault(name, len(labels))
                if sentences is None:
                    recall.miss(image, pair, label, loc=True)
                    continue
                annotated.append((image, label))
                if name in first_predicted:
                    recall.compare(image, pair, label, first_predicted[name], box)
                else:
                    recall.miss(image, pair, label, loc=False)
            first = _first_boxes(caption)
            others: set[str] | None = None
            for name, box in zip(names, boxes):
                label = labels.setdefault(name, len(labels))
                if name in first:
                    precision.compare(image, pair, label, box, first[name])
                    continue
                if others is None:
                    others = _lemmas_of_other_words(caption, lemma)
                if lemma(name) not in others:
                    precision.miss(image, pair, label, loc=False)
    return Matches(
        classes=tuple(labels),
        image_ids=tuple(record["image_id"] for record in reference),
        pair_image=np.array(pair_image, dtype=np.int64),
        predicted=predicted,
        annotated=np.array(annotated, dtype=np.int64).reshape(-1, 2),
        named=np.array(named, dtype=np.int64).reshape(-1, 2),
        precision=precision.done(),
        recall=recall.done(),
    )


def f1(precision: float, recall: float, undefined: float = math.nan) -> float:
    """2pr / (p + r); ``undefined`` when both are 0 (GVD's script gives NaN there)."""
    if math.isnan(precision) or math.isnan(recall):
        return undefined
    return 2.0 * precision * recall / (precision + recall) if precision + recall > 0 else undefined


class _Tally:
    """The entries of one list in one mode, summed per image and class, so that a resample needs only two short sums."""

    def __init__(self, entries: Entries, mode: str, num_classes: int) -> None:
        keep = entries.loc if mode == "loc" else np.ones(len(entries.loc), dtype=bool)
        self._classes = num_classes
        cells, cell = np.unique(entries.image[keep] * num_classes + entries.label[keep], return_inverse=True)
        self._image, self._label = np.divmod(cells, max(num_classes, 1))
        self._total = np.bincount(cell, minlength=len(cells))
        self._hits = np.bincount(cell, entries.hit[keep], minlength=len(cells))

    def by_class(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(classes,) hits and (classes,) entries, each image multiplied by its weight."""
        weight = weights[self._image]
        hits = np.bincount(self._label, weight * self._hits, minlength=self._classes)
        return hits, np.bincount(self._label, weight * self._total, minlength=self._classes)

    def average(self, weights: np.ndarray, vocabulary: int, undefined: float) -> float:
        """(1/|V|) sum over classes of the mean of their entries; a class without entries contributes 0."""
        if vocabulary == 0:
            return undefined
        hits, total = self.by_class(weights)
        return float(np.sum(hits[total > 0] / total[total > 0]) / vocabulary)


def _pair_scores(matches: Matches, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """(pairs,) F1 of each (image, caption) pair and (pairs,) whether it counts; see ``generated_scores``."""
    size = len(matches.pair_image)

    def mean(entries: Entries) -> tuple[np.ndarray, np.ndarray]:
        keep = entries.loc if mode == "loc" else slice(None)
        total = np.bincount(entries.pair[keep], minlength=size)
        hits = np.bincount(entries.pair[keep], entries.hit[keep], minlength=size)
        return np.divide(hits, total, out=np.zeros(size), where=total > 0), total > 0

    (p, _), (r, counted) = mean(matches.precision), mean(matches.recall)
    score = np.divide(2 * p * r, p + r, out=np.zeros(size), where=p + r > 0)
    return score, matches.predicted[matches.pair_image] & counted


def generated_scores(matches: Matches, *, undefined: float = math.nan) -> dict[str, float]:
    """The scores of generated sentences, as fractions (papers print them times 100).

    ``precision_*`` = (1/|V|) sum over classes of the class's mean hit, with V the classes annotated in the images that
    have a prediction; ``recall_*`` likewise; ``F1_*`` = 2pr/(p + r) of these two averages (not an average over
    classes). |V| is the divisor in both modes, so a class that is never predicted lowers F1_loc too.

    ``F1_*_per_sentence`` follows ActivityNet-Entities (``scripts/eval_grd_anet_entities.py``), which scores one
    sentence against one caption. Flickr30k has five captions per image and there is no published variant for it; we
    define its unit as the (image, caption) pair: for each pair of an image with a prediction, p is the mean of the
    pair's precision entries (0 when there is none), r the mean of its recall entries, F1 = 2pr/(p + r), or 0 when both
    are 0. A pair without recall entries is skipped: its caption has no annotated word or, in mode "loc", none of its
    annotated classes is predicted. The score is the mean over the remaining pairs.

    ``classes_named`` is the share of V that the captions name at least once, in any image: an upper bound of
    ``precision_all`` and ``recall_all`` that no attention can pass.

    Args:
        matches: from ``match_generated``.
        undefined: the value of a 0/0. GVD's script gives NaN; the log of a trainer needs 0.

    Returns:
        the scores named in ``GENERATED_SCORES``.

    One image, one caption about a man and a dog; the model names the man, with the right box, and a cat:

    >>> man, dog = [0, 0, 9, 9], [50, 50, 89, 89]
    >>> caption = {"tokens": ["man", "with", "dog"], "process_idx": [0, 2], "process_clss": ["man", "dog"],
    ...            "process_bnd_box": [man, dog]}
    >>> said = {"clss": ["man", "cat"], "idx_in_sent": [0, 2], "bbox": [man, dog]}
    >>> scores = generated_scores(match_generated([{"image_id": 1, "captions": [caption]}], {"1": [said]}, str))
    >>> [scores[name] for name in ("precision_all", "recall_all", "F1_all", "F1_loc", "classes_named")]
    [0.5, 0.5, 0.5, 0.5, 0.5]
    """
    once = np.ones((1, len(matches.image_ids)))
    return {name: float(values[0]) for name, values in generated_replicates(matches, once, undefined=undefined).items()}


def generated_replicates(
    matches: Matches, weights: np.ndarray, *, undefined: float = math.nan
) -> dict[str, np.ndarray]:
    """``generated_scores`` for each row of image weights.

    Args:
        weights: (m, images) float64, the weight of each image of the reference.

    Returns:
        name -> (m,) float64.
    """
    num_classes = len(matches.classes)
    pairs = np.unique(matches.annotated, axis=0)
    tallies = {
        mode: [_Tally(entries, mode, num_classes) for entries in (matches.precision, matches.recall)] for mode in MODES
    }
    per_pair = {mode: _pair_scores(matches, mode) for mode in MODES}
    rows = []
    for row in weights:
        vocabulary = len(np.unique(pairs[row[pairs[:, 0]] > 0, 1]))
        named = len(np.intersect1d(*(pair[row[pair[:, 0]] > 0, 1] for pair in (pairs, matches.named))))
        scores = {"classes_named": named / vocabulary if vocabulary else undefined}
        for mode in MODES:
            p, r = (tally.average(row, vocabulary, undefined) for tally in tallies[mode])
            scores |= {f"F1_{mode}": f1(p, r, undefined), f"precision_{mode}": p, f"recall_{mode}": r}
            score, counted = per_pair[mode]
            weight = row[matches.pair_image] * counted
            mean = float(np.sum(score * weight) / weight.sum()) if weight.sum() > 0 else undefined
            scores[f"F1_{mode}_per_sentence"] = mean
        rows.append(scores)
    return {name: np.array([scores[name] for scores in rows]) for name in GENERATED_SCORES}


def class_table(matches: Matches) -> list[dict[str, Any]]:
    """One row per class of the entries in mode "all", most often annotated first (ties by name).

    Returns:
        Rows ``{"class", "in_vocabulary", "predictions", "annotations", "precision", "recall", "F1"}``:
        ``predictions`` and ``annotations`` count the entries of the class's precision and recall list, the three
        scores are NaN where their list is empty (the average of ``generated_scores`` takes 0 for these).
    """
    once, size = np.ones(len(matches.image_ids)), len(matches.classes)
    hits_p, total_p = _Tally(matches.precision, "all", size).by_class(once)
    hits_r, total_r = _Tally(matches.recall, "all", size).by_class(once)
    vocabulary = set(matches.annotated[:, 1].tolist())
    rows = []
    for label, name in enumerate(matches.classes):
        p = hits_p[label] / total_p[label] if total_p[label] else math.nan
        r = hits_r[label] / total_r[label] if total_r[label] else math.nan
        rows.append({
            "class": name, "in_vocabulary": label in vocabulary, "predictions": int(total_p[label]),
            "annotations": int(total_r[label]), "precision": float(p), "recall": float(r), "F1": f1(p, r),
        })  # fmt: skip
    return sorted(rows, key=lambda row: (-row["annotations"], row["class"]))
