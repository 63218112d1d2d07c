"""Floors and ceilings of attention: rules that choose a box for an object word without a model.

Each rule gives a box for every annotated word of the reference captions. They are scored exactly as a model's boxes:

* ``attention_accuracy``: the mean over classes of the share of words whose box is right, over all reference captions,
  as for a model under teacher forcing; ``word_accuracy``: the mean over words.
* ``F1_all``, ``F1_loc`` and both per sentence: with the first reference caption of each image as the submission.

The first four rules use only the boxes, the detector rules also use the class of the word, and the last two use the
annotated box.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, area, iou_gvd
from xmodaler_ssattn.evaluation.forced import accuracy_by_place, attention_accuracy, match_forced
from xmodaler_ssattn.evaluation.grounding import GENERATED_SCORES, generated_scores, match_generated, record_of

RANDOM, CENTRAL, WHOLE, LARGEST = "random region", "most central region", "whole picture", "largest region"
DETECTOR, LARGEST_DETECTED = "detector alone", "largest region x detector"
PERFECT, ANNOTATED = "perfect attention", "annotated boxes"
RULES = (RANDOM, CENTRAL, WHOLE, LARGEST, DETECTOR, LARGEST_DETECTED, PERFECT, ANNOTATED)
CEILINGS = (PERFECT, ANNOTATED)
WITHOUT_REGIONS = (WHOLE, ANNOTATED)
WITH_CLASSES = (DETECTOR, LARGEST_DETECTED)


@dataclass(frozen=True)
class ImageBoxes:
    """The input of the rules for one image."""

    width: float  # pixels of the original image
    height: float
    boxes_px: np.ndarray  # (K, 4), xyxy pixels
    class_probs: np.ndarray | None = None  # (K, C), background first; None when the regions have none


def choose(
    rule: str, image: ImageBoxes, columns: Sequence[int], box_px: Sequence[float], random: np.random.Generator
) -> Sequence[float] | None:
    """The box that a rule chooses for an annotated word, or None.

    * "random region": one of the regions, with equal probability.
    * "most central region": the region whose centre is nearest to the picture's, in fractions of the sides.
    * "whole picture": from its first to its last pixel.
    * "largest region": the largest area.
    * "detector alone": the largest class probability of the word's class (summed over its columns); nothing when no
      column names the class or the regions have no class probabilities.
    * "largest region x detector": the largest product of the two.
    * "perfect attention": the region with the largest overlap with the annotated box.
    * "annotated boxes": the annotated box.

    Args:
        columns: the columns of the class probabilities that name the word's class.
        box_px: the annotated box.

    Ties go to the lowest index.
    """
    if rule == WHOLE:
        return [0, 0, image.width - 1, image.height - 1]
    if rule == ANNOTATED:
        return box_px
    regions = np.asarray(image.boxes_px, dtype=np.float64).reshape(-1, 4)
    if not len(regions):
        return None
    if rule == RANDOM:
        return regions[random.integers(len(regions))]
    if rule == CENTRAL:
        x, y = (regions[:, 0] + regions[:, 2]) / 2 / image.width, (regions[:, 1] + regions[:, 3]) / 2 / image.height
        return regions[np.hypot(x - 0.5, y - 0.5).argmin()]
    if rule == LARGEST:
        return regions[area(regions).argmax()]
    if rule == PERFECT:
        return regions[iou_gvd(regions, box_px).argmax()]
    if rule not in WITH_CLASSES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}.")
    if image.class_probs is None or not len(columns):
        return None
    score = np.asarray(image.class_probs, dtype=np.float64)[:, list(columns)].sum(axis=1)
    return regions[(score * area(regions) if rule == LARGEST_DETECTED else score).argmax()]


Predictions = dict[str, list[dict[str, list]]]


def predictions_of(
    rules: Sequence[str],
    reference: Sequence[Mapping[str, Any]],
    image_of: Callable[[int], ImageBoxes],
    columns: Mapping[str, Sequence[int]],
) -> dict[str, Predictions]:
    """Rule -> its boxes, in the form of GVD's predictions: one sentence per reference caption.

    Args:
        reference: see ``grounding``.
        image_of: image id -> its boxes; called once per image.
        columns: class -> columns of the class probabilities that name it.
    """
    found: dict[str, Predictions] = {rule: {} for rule in rules}
    for record in reference:
        image = image_of(int(record["image_id"]))
        for rule in rules:
            random = np.random.default_rng(zlib.crc32(str(int(record["image_id"])).encode()))
            sentences = []
            for caption in record["captions"]:
                words = zip(caption["process_clss"], caption["process_idx"], caption["process_bnd_box"])
                said = (
                    (name, position, [float(value) for value in chosen])
                    for name, position, box in words
                    if (chosen := choose(rule, image, columns.get(name, ()), box, random)) is not None
                )
                sentences.append(record_of(said))
            found[rule][str(record["image_id"])] = sentences
    return found


def share_of_right_regions(reference: Sequence[Mapping[str, Any]], image_of: Callable[[int], ImageBoxes]) -> np.ndarray:
    """(n,) float64: the probability that a random region is right, per annotated word in the order of
    ``match_forced``."""
    shares: list[float] = []
    for record in reference:
        regions = np.asarray(image_of(int(record["image_id"])).boxes_px, dtype=np.float32).reshape(-1, 4)
        for box in (box for caption in record["captions"] for box in caption["process_bnd_box"]):
            shares.append(float(np.mean(iou_gvd(regions, box) > IOU_THRESHOLD)) if len(regions) else 0.0)
    return np.array(shares)


def floors_and_ceilings(
    reference: Sequence[Mapping[str, Any]],
    image_of: Callable[[int], ImageBoxes],
    lemma: Callable[[str], str],
    columns: Mapping[str, Sequence[int]],
    rules: Sequence[str] = RULES,
) -> dict[str, dict[str, Any]]:
    """Every rule, scored.

    Args:
        reference: see ``grounding``.
        image_of: image id -> its boxes.
        lemma: word -> lemma, as the scores of a model use it.
        columns: class -> columns of the class probabilities that name it.
        rules: names; ``WITHOUT_REGIONS`` need no regions, ``WITH_CLASSES`` class probabilities and ``columns``.

    Returns:
        rule -> the scores of ``generated_scores`` (fractions; a 0/0 is 0), ``attention_accuracy``, ``word_accuracy``
        and ``places`` (``accuracy_by_place``). The accuracies of the random region are its expectation; its F1 is
        that of one sample per word, the same each time.
    """
    found = {}
    for rule, predictions in predictions_of(rules, reference, image_of, columns).items():
        matches = match_forced(reference, predictions)
        if rule == RANDOM:  # shares of hits instead of hits: the averages are then expectations
            matches = replace(matches, hit=share_of_right_regions(reference, image_of))
        scores = generated_scores(match_generated(reference, predictions, lemma), undefined=0.0)
        places = accuracy_by_place(matches)
        found[rule] = {
            **{name: scores[name] for name in GENERATED_SCORES},
            "attention_accuracy": attention_accuracy(matches, undefined=0.0),
            "word_accuracy": places["all"]["accuracy"] if places else 0.0,
            "places": places,
        }
    return found
