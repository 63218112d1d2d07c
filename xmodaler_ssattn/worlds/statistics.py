"""Statistics of a data set's annotations and regions, to compare a simulated data set with the real one.

An *object* is a coreference chain, which the captions of an image mention. A phrase without a chain (GVD's prepared
file has no chains) is grouped with the phrases of its image with the same class and box. The object's class is that of
most of its phrases (in a tie, the first mentioned), its box is the smallest box around all its boxes. Areas
are shares of the picture, places are fractions of its sides, shares and accuracies are fractions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import area, iou, union_box
from xmodaler_ssattn.packs.store import RegionStore

MIN_IOU = 0.5  # a region reaches a box above this IoU; the metric's threshold
CAPTIONS = 5
HELD_OUT = 5  # every fifth image tests the guess of the class
AREAS = (0.01, 0.05, 0.2, 1)  # the reach of the regions is counted up to each of these areas


@dataclass(frozen=True)
class Objects:
    """The n objects of some images."""

    image: np.ndarray  # (n,) int64, running number of the image
    label: np.ndarray  # (n,) int64, index into ``classes``; -1 without class
    classes: tuple[str, ...]  # the class names that occur
    mentions: np.ndarray  # (n,) int64, number of captions of the image that mention it
    early: np.ndarray  # (n,) float64, mean over these captions of 1 / (1 + objects mentioned before it in the caption)
    boxes: np.ndarray  # (n,) int64, number of its boxes; 0 for a mentioned object without a box
    box: np.ndarray  # (n, 4) float64, x1, y1, x2, y2 around them as fractions of the sides; NaN without box
    pixel: np.ndarray  # (n,) float64, area of one pixel
    totals: Mapping[str, int]  # images, captions, phrases, words, boxes (each once per image)


def collect_objects(images: Iterable[Mapping[str, Any]]) -> Objects:
    """The objects of the images of an annotation file; one pass."""
    rows: list[tuple] = []
    totals = dict.fromkeys(("images", "captions", "phrases", "words", "boxes"), 0)
    labels: dict[str, int] = {}
    for number, image in enumerate(images):
        width, height = image["width"], image["height"]
        names: dict[Any, Counter[str]] = {}  # object -> how often each class
        places: dict[Any, list[int]] = {}  # object -> objects mentioned before it, in each caption that mentions it
        boxes: dict[Any, list] = {}
        for caption in image["captions"]:
            keys = [_object_key(phrase) for phrase in caption["phrases"]]
            for key, phrase in zip(keys, caption["phrases"]):
                if key is not None:
                    boxes.setdefault(key, phrase["boxes"])
                    names.setdefault(key, Counter()).update([phrase["class"]] if phrase["class"] is not None else ())
            for place, key in enumerate(dict.fromkeys(key for key in keys if key is not None)):
                places.setdefault(key, []).append(place)
        for key, before in places.items():
            label = labels.setdefault(names[key].most_common(1)[0][0], len(labels)) if names[key] else -1
            early = sum(1 / (1 + place) for place in before) / len(before)
            x1, y1, x2, y2 = union_box(boxes[key]) if boxes[key] else (math.nan,) * 4
            box = (x1 / width, y1 / height, x2 / width, y2 / height)
            rows.append((number, label, len(before), len(boxes[key]), early, 1 / (width * height), *box))
        totals["images"] += 1
        totals["captions"] += len(image["captions"])
        totals["phrases"] += sum(len(caption["phrases"]) for caption in image["captions"])
        totals["words"] += sum(len(caption["tokens"]) for caption in image["captions"])
        totals["boxes"] += len({tuple(box) for each in boxes.values() for box in each})
    table = np.array(rows, dtype=np.float64).reshape(-1, 10)
    number, label, mentions, count = table[:, :4].astype(np.int64).T
    early, pixel = table[:, 4:6].T
    return Objects(number, label, tuple(labels), mentions, early, count, table[:, 6:], pixel, totals)


def _object_key(phrase: Mapping[str, Any]) -> Any:
    if phrase["chain"] is not None:
        return phrase["chain"]
    return (phrase["class"], tuple(union_box(phrase["boxes"]))) if phrase["boxes"] else None


def annotation_statistics(objects: Objects) -> dict[str, float]:
    """The statistics of a data set's annotations; NaN where they are undefined.

    ``images``; ``captions_per_image``; ``words_per_caption`` (tokens); ``phrases_per_caption`` (marked phrases);
    ``boxes_per_image`` (a box of several objects is counted once); ``objects_per_image``.

    ``without_box``: share of the objects that have no box. All others are about the *known* objects, those with a box
    and a class:

    * ``several_boxes``: share of them that have more than one box.
    * ``median_area``: median area of their box.
    * ``area_by_mentions``: how much of the log area (natural; a box has at least one pixel) is explained by the number
      of captions that mention the object, within a class: the squared correlation of the two after subtracting the
      mean of the object's class from each.
    * ``area_deviation``: standard deviation of the log area that class and number of mentions do not explain.
    * ``area_by_early``: the rise of the log area from ``early`` 0 to 1: its coefficient in the least-squares
      regression of the log area on ``early`` and the number of mentions, within a class.
    * ``off_centre_1`` to ``off_centre_5``: mean horizontal distance of the box's centre from the picture's, in widths,
      of objects that are mentioned by this number of captions.
    * ``class_from_box``: accuracy of guessing the class from the box only, by linear discriminant analysis of (x and y
      of the centre, log width, log height) with the classes' frequencies as prior; the objects of every fifth image are
      guessed from the others. ``commonest_class``: accuracy on the same objects of the class that is commonest in the
      others.
    """
    totals = objects.totals
    known = (objects.boxes > 0) & (objects.label >= 0)
    box, label, mentions = objects.box[known], objects.label[known], objects.mentions[known].astype(np.float64)
    wide, tall = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    log_area = np.log(np.maximum(wide * tall, objects.pixel[known]))
    off = np.abs((box[:, 0] + box[:, 2]) / 2 - 0.5)
    found = {
        "images": float(totals["images"]),
        "captions_per_image": _ratio(totals["captions"], totals["images"]),
        "words_per_caption": _ratio(totals["words"], totals["captions"]),
        "phrases_per_caption": _ratio(totals["phrases"], totals["captions"]),
        "boxes_per_image": _ratio(totals["boxes"], totals["images"]),
        "objects_per_image": _ratio(len(objects.image), totals["images"]),
        "without_box": _mean(objects.boxes == 0),
        "several_boxes": _mean(objects.boxes[known] > 1),
        "median_area": float(np.median(wide * tall)) if len(box) else math.nan,
    }
    found |= _of_area(log_area, mentions, objects.early[known], label)
    for count in range(1, CAPTIONS + 1):
        found[f"off_centre_{count}"] = _mean(off[mentions == count])
    return found | _class_from_box(box, objects.pixel[known], label, objects.image[known] % HELD_OUT == 0)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: np.ndarray | Sequence[int]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _of_area(log_area: np.ndarray, mentions: np.ndarray, early: np.ndarray, label: np.ndarray) -> dict[str, float]:
    names = ("area_by_mentions", "area_deviation", "area_by_early")
    if not len(label):
        return dict.fromkeys(names, math.nan)
    area_in, mentions_in, early_in = (_within(values, label) for values in (log_area, mentions, early))
    _, left = _regress(area_in, mentions_in)
    (_, rise), _ = _regress(area_in, mentions_in, early_in)
    explained = 1 - _ratio(float(np.mean(left**2)), float(np.mean(area_in**2)))
    return dict(zip(names, (explained, float(np.sqrt(np.mean(left**2))), float(rise))))


def _within(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """``values`` less the mean of their class."""
    return values - (np.bincount(label, values) / np.maximum(np.bincount(label), 1))[label]


def _regress(y: np.ndarray, *x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coefficients, residuals) of least squares without a constant."""
    inputs = np.stack(x, axis=1)
    coefficients = np.linalg.lstsq(inputs, y, rcond=None)[0]
    return coefficients, y - inputs @ coefficients


def _class_from_box(box: np.ndarray, pixel: np.ndarray, label: np.ndarray, test: np.ndarray) -> dict[str, float]:
    if not test.any() or test.all():
        return {"class_from_box": math.nan, "commonest_class": math.nan}
    sides = np.maximum(box[:, 2:] - box[:, :2], np.sqrt(pixel)[:, None])
    inputs = np.concatenate([(box[:, :2] + box[:, 2:]) / 2, np.log(sides)], axis=1)
    guessed = linear_discriminant(inputs[~test], label[~test], inputs[test])
    commonest = np.bincount(label[~test]).argmax()
    return {"class_from_box": _mean(guessed == label[test]), "commonest_class": _mean(label[test] == commonest)}


def linear_discriminant(inputs: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Linear discriminant analysis: normal classes of one covariance S, shares of the classes as prior.

        guess(x) = argmax over classes c of  log share_c + m_c S^-1 x - m_c S^-1 m_c / 2

    (n, F) and (n,) int, to learn from, others (m, F) -> (m,) the labels guessed for them.
    """
    names, label = np.unique(labels, return_inverse=True)
    count = np.bincount(label).astype(np.float64)
    mean = np.stack([np.bincount(label, column) for column in inputs.T], axis=1) / count[:, None]
    rest = inputs - mean[label]
    # With the pseudo-inverse, an input that never varies within a class is ignored.
    towards = mean @ np.linalg.pinv(rest.T @ rest / len(rest), hermitian=True)
    scores = others @ towards.T + np.log(count / count.sum()) - np.sum(towards * mean, axis=1) / 2
    return names[scores.argmax(axis=1)]


def region_statistics(images: Iterable[Mapping[str, Any]], store: RegionStore) -> dict[str, float]:
    """Coverage of the boxes by the regions of their images: IoU (without the added pixel) above ``MIN_IOU``.

    ``regions_per_image``; ``reach``: share of the annotated boxes (each once per image) that a region reaches;
    ``reach_to_0.01`` ... ``reach_to_1``: the same for boxes with an area up to this limit and above the previous one;
    ``reach_of_words``: share of the phrases with a class and a box whose box (several become their union) is reached;
    ``positives_per_word``: mean number of regions that reach such a box, over all these phrases.
    """
    reached, areas, positives, counts = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)], []
    for image in images:
        regions_px = store.boxes_px(image["image_id"])
        counts.append(len(regions_px))
        phrases = [phrase for caption in image["captions"] for phrase in caption["phrases"] if phrase["boxes"]]
        annotated = np.array(sorted({tuple(box) for phrase in phrases for box in phrase["boxes"]}))
        words = np.array([union_box(phrase["boxes"]) for phrase in phrases if phrase["class"] is not None])
        reached.append(iou(annotated, regions_px).max(axis=1) > MIN_IOU)
        areas.append(area(annotated) / (image["width"] * image["height"]))
        positives.append((iou(words, regions_px) > MIN_IOU).sum(axis=1))
    hit, sizes, found = map(np.concatenate, (reached, areas, positives))
    interval = np.searchsorted(AREAS, sizes)  # each limit belongs to the interval below it
    return {
        "regions_per_image": _mean(counts),
        "reach": _mean(hit),
        **{f"reach_to_{high:g}": _mean(hit[interval == number]) for number, high in enumerate(AREAS)},
        "reach_of_words": _mean(found > 0),
        "positives_per_word": _mean(found),
    }
