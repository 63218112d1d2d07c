"""Convert an image of a pack to an image of the region file: checked, cut, background first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.classifier import Classifier
from xmodaler_ssattn.packs.pack import Pack, PackedImage, PackError, check_scores
from xmodaler_ssattn.packs.region_file import check_order, check_size
from xmodaler_ssattn.packs.safe_arrays import unlike_measurements

# Extractors clip to W - 1 or to W and round; a larger excess means a wrong size or a wrong unit.
BORDER_TOLERANCE_PX = 1.0
FRACTION = 1.001  # the largest coordinate of boxes in fractions of the picture
SUM_TOLERANCE = 0.02  # half precision and the order of summation leave this much


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules for converting images."""

    limit: int | None = 36  # the maximum number of regions per image; None: no limit
    min_score: float | None = None  # drop regions of this score or less, but never the best one; None: keep all
    cut_by_order: bool = False  # if a pack has no scores, keep the first ``limit`` regions
    sort: bool = False  # order the regions by descending score, instead of as in the source
    background: str | None = None  # its column in the pack's class probabilities: "first", "last" or "none"
    classifier: Classifier | None = None  # recomputes class probabilities if the pack has none


@dataclasses.dataclass
class Converted:
    """An image for the region file: the arguments of ``RegionWriter.write``, and ``background``, "first" or "none"."""

    width: int
    height: int
    boxes_px: np.ndarray
    features: np.ndarray
    class_probs: np.ndarray | None
    source_boxes: int
    where: str
    background: str


def read_converted(pack: Pack, image_id: int, rules: Rules, sizes: Mapping[int, tuple[int, int]]) -> Converted:
    """Read one image of a pack, check it, and select its regions.

    Args:
        sizes: image id -> width and height; they may lack the image.

    Raises:
        PackError: the image cannot be read, its arrays do not belong together, a box leaves the image, its size
            contradicts ``sizes`` or is unknown, it must be cut and has no scores, or there is any other exception.
    """
    packed = pack.read(image_id)
    try:
        return _convert(packed, rules, sizes.get(image_id))
    except UserError:
        raise
    except Exception as error:
        raise PackError(f"{packed.where}: it cannot be converted ({type(error).__name__}: {error}).") from error


def _convert(image: PackedImage, rules: Rules, size: tuple[int, int] | None) -> Converted:
    where, count = image.where, len(image.features)
    width, height = _size(image, size)
    features = _floats(image.features, "features", where)
    boxes = _floats(image.boxes_px, "boxes", where, integers=True).astype(np.float32, copy=False)
    if features.ndim != 2 or features.size == 0:
        raise PackError(f"{where}: features of shape {features.shape}, expected (n, D), both at least 1.")
    if boxes.shape != (count, 4):
        raise PackError(f"{where}: boxes of shape {boxes.shape} for {count} features, expected ({count}, 4).")
    _check_boxes(boxes, width, height, where)
    if not features.any():
        raise PackError(f"{where}: all features are 0; was the picture not read, or were they rounded?")
    if other := unlike_measurements(features):
        raise PackError(f"{where}: features look wrong: {other}.")
    probs, scores = image.class_probs, image.scores
    background = rules.background
    if probs is None and rules.classifier is not None:
        if rules.classifier.feature_dim != features.shape[1]:
            taken = f"the classifier {rules.classifier.path} takes {rules.classifier.feature_dim}"
            raise PackError(f"{where}: features of {features.shape[1]} numbers, {taken}.")
        probs, background = rules.classifier(features), rules.classifier.background
    if probs is not None:
        probs = _floats(probs, "class probabilities", where)
        if probs.ndim != 2 or len(probs) != count or probs.shape[1] < 2:
            raise PackError(f"{where}: class probabilities of shape {probs.shape}, expected ({count}, C).")
        if background == "last":
            probs, background = np.concatenate([probs[:, -1:], probs[:, :-1]], axis=1), "first"
        scores = probs[:, 0 if background == "none" else 1 :].max(axis=1)
    elif scores is not None:
        scores = _floats(scores, "scores", where)
        if scores.shape != (count,):
            raise PackError(f"{where}: scores of shape {scores.shape}, expected ({count},).")
        check_scores(scores, "the score", where)
    keep = _select(count, scores, rules, where)
    probs = None if probs is None else probs[keep]
    return Converted(width, height, boxes[keep], features[keep], probs, count, where, background or "first")


def check_sums(image: Converted) -> None:
    """Raise a ``PackError`` where the class probabilities of a region do not sum to 1 (without background: at most 1).

    Percent, scores before the softmax and a missing column that was not declared are found by this.
    """
    if image.class_probs is None:
        return
    sums = image.class_probs.sum(axis=1, dtype=np.float64)
    least = 0.0 if image.background == "none" else 1 - SUM_TOLERANCE
    wrong = ~((sums >= least) & (sums <= 1 + SUM_TOLERANCE))
    if wrong.any():
        raise PackError(
            f"{image.where}: class probabilities of region {np.flatnonzero(wrong)[0]} sum to {sums[wrong][0]:.3f}, "
            "expected 1; are they in percent, or before the softmax? Where the background has no column, give "
            "--background none."
        )


def _floats(values: np.ndarray, name: str, where: str, integers: bool = False) -> np.ndarray:
    """``values`` in the machine's byte order; a ``PackError`` where they are not finite floating-point numbers."""
    values = np.asarray(values)
    if values.dtype.kind not in ("fiu" if integers else "f"):
        wanted = "numbers" if integers else "floating-point numbers"
        raise PackError(f"{where}: {name} of type {values.dtype}, expected {wanted}.")
    if not np.isfinite(values).all():
        place = np.argwhere(~np.isfinite(values))[0]
        raise PackError(f"{where}: {name}{place.tolist()} is {values[tuple(place)]}: not a finite number.")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _select(count: int, scores: np.ndarray | None, rules: Rules, where: str) -> np.ndarray:
    limit = count if rules.limit is None else min(rules.limit, count)
    if scores is None:
        if rules.min_score is not None or rules.sort:
            raise PackError(f"{where}: this pack has no scores to sort or filter by; give --classifier.")
        if limit < count and not rules.cut_by_order:
            raise PackError(
                f"{where}: {count} regions must be cut to {limit}, but the pack has no scores. Give "
                "--classifier, or --max-regions 0 to keep all, or --cut-by-order when they are in order."
            )
        return np.arange(limit)
    order = np.argsort(-scores, kind="stable")  # of equal scores the first in the pack
    if rules.min_score is not None:
        order = order[: max(int((scores > rules.min_score).sum()), 1)]
    order = order[:limit]
    return order if rules.sort else np.sort(order)


def _size(image: PackedImage, known: tuple[int, int] | None) -> tuple[int, int]:
    own = None if image.width is None or image.height is None else (image.width, image.height)
    size = own or known
    if size is None:
        nobody = f"neither the pack nor the annotations have the size of image {image.image_id}"
        raise PackError(f"{image.where}: {nobody}; give --annotations or --image-sizes.")
    if own is not None and known is not None and own != known:
        sizes = f"the pack says {own[0]} x {own[1]}, the annotations {known[0]} x {known[1]}"
        swapped = " (width and height swapped?)" if own == known[::-1] else ""
        raise PackError(f"{image.where}: {sizes}{swapped}; features and annotations are not of the same picture.")
    check_size(*size, image.where)
    return size


def _check_boxes(boxes: np.ndarray, width: int, height: int, where: str) -> None:
    edge = np.array([width, height, width, height], dtype=np.float32) + BORDER_TOLERANCE_PX
    outside = np.flatnonzero(((boxes < -BORDER_TOLERANCE_PX) | (boxes > edge)).any(axis=1))
    if len(outside):
        box = boxes[outside[0]].tolist()
        raise PackError(
            f"{where}: box {outside[0]} {box} leaves the image of {width} x {height}; are the sizes right, "
            "and the boxes x1, y1, x2, y2 in pixels of the original image?"
        )
    check_order(boxes, where)
    if boxes.max() <= FRACTION:
        raise PackError(f"{where}: no box reaches beyond 1; these are fractions, expected pixels.")
