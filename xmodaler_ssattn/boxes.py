"""Boxes: area, overlap, and the spatial vector of the paper.

Names of box arrays contain the unit: ``boxes_px`` is (n, 4), x1, y1, x2, y2 in pixels of the original image. numpy
only; computed in float64 unless stated otherwise, so that results do not depend on the input's dtype.

There are several conventions for the overlap, which differ for small boxes. Do not mix them:

* ``iou``: the width is x2 - x1, all pairs. For our targets (sigma).
* ``iou_plus_one``: the width is x2 - x1 + 1, all pairs. For the grounding term of a reward.
* ``iou_gvd``: as ``iou_plus_one``, with the float32 arithmetic and the one-pixel rules of the published grounding
  metric. For all scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

IOU_THRESHOLD = 0.5  # in the published grounding metric, a box hits another when their overlap is above this value


def _as_boxes(boxes_px: np.ndarray) -> np.ndarray:
    boxes_px = np.asarray(boxes_px, dtype=np.float64)
    if boxes_px.size == 0:
        return boxes_px.reshape(0, 4)
    if boxes_px.ndim != 2 or boxes_px.shape[1] != 4:
        raise ValueError(f"boxes_px must be (n, 4) as x1, y1, x2, y2; got shape {boxes_px.shape}.")
    return boxes_px


def area(boxes_px: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy pixels -> (n,) float64 areas (x2 - x1)(y2 - y1); an inverted box has area 0."""
    boxes_px = _as_boxes(boxes_px)
    return np.clip(boxes_px[:, 2] - boxes_px[:, 0], 0, None) * np.clip(boxes_px[:, 3] - boxes_px[:, 1], 0, None)


def _intersection(a: np.ndarray, b: np.ndarray, extra: float) -> np.ndarray:
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.clip(bottom_right - top_left + extra, 0, None)
    return sides[..., 0] * sides[..., 1]


def iou(a_px: np.ndarray, b_px: np.ndarray) -> np.ndarray:
    """Intersection over union without the added pixel.

    Args:
        a_px, b_px: (n, 4) and (m, 4), xyxy, both in pixels or both in fractions.

    Returns:
        (n, m) float64; 0 where both boxes are empty.
    """
    a, b = _as_boxes(a_px), _as_boxes(b_px)
    intersection = _intersection(a, b, 0.0)
    union = area(a)[:, None] + area(b)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def iou_plus_one(a_px: np.ndarray, b_px: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes in pixels whose width is x2 - x1 + 1.

    The convention of the published grounding metric without its rules for one-pixel boxes, see ``iou_gvd``.

    Returns:
        (n, m) float64.
    """
    a, b = _as_boxes(a_px), _as_boxes(b_px)
    intersection = _intersection(a, b, 1.0)
    area_a = (a[:, 2] - a[:, 0] + 1) * (a[:, 3] - a[:, 1] + 1)
    area_b = (b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1)
    return intersection / (area_a[:, None] + area_b[None, :] - intersection)


def iou_gvd(predicted_px: npt.ArrayLike, reference_px: npt.ArrayLike) -> np.ndarray:
    """Overlap exactly as ``misc/bbox_transform.py`` of Grounded Video Description (GVD) computes it.

    Widths are x2 - x1 + 1. A reference box of one pixel has overlap 0 with everything, a predicted box of one pixel
    -1 (the later rule wins when both are). The arithmetic is float32, as in GVD; a hit is ``> 0.5``.

    Args:
        predicted_px, reference_px: (..., 4), xyxy pixels; (n, 4) and (n, 4) are compared row by row, other shapes
            are broadcast.

    Returns:
        (...) float32; NaN for inverted boxes whose union is 0, and for numbers that exceed float32.

    >>> iou_gvd([[0, 0, 9, 9], [3, 3, 3, 3]], [[0, 0, 9, 4], [3, 3, 3, 3]]).tolist()
    [0.5, -1.0]
    """
    one = np.float32(1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        a, b = (np.asarray(boxes, dtype=np.float32) for boxes in (predicted_px, reference_px))
        a, b = (boxes if boxes.size else boxes.reshape(0, 4) for boxes in (a, b))
        size_a = a[..., 2:] - a[..., :2] + one
        size_b = b[..., 2:] - b[..., :2] + one
        sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + one
        sides = np.maximum(sides, np.float32(0))
        intersection = sides[..., 0] * sides[..., 1]
        union = size_a[..., 0] * size_a[..., 1] + size_b[..., 0] * size_b[..., 1] - intersection
        overlap = intersection / union
    overlap = np.where((size_b == 1).all(axis=-1), np.float32(0), overlap)
    return np.where((size_a == 1).all(axis=-1), np.float32(-1), overlap)


def union_box(boxes_px: Iterable[Sequence[float]]) -> list[float]:
    """The smallest box around all boxes (at least one), xyxy.

    >>> union_box([[0, 5, 10, 10], [3, 1, 12, 8]])
    [0, 1, 12, 10]
    """
    x1, y1, x2, y2 = zip(*boxes_px)
    return [min(x1), min(y1), max(x2), max(y2)]


def spatial_vectors(boxes_px: np.ndarray, width: float, height: float) -> np.ndarray:
    """The paper's 5-D location p_i = [x1, x2, y1, y2, s] (section 2.1).

    x is divided by the image's width and y by its height; s is the box's area over the image's. The paper's text
    normalises only s, but pixel coordinates would dominate the sum with class probabilities of 0 to 1. Note the order.

    Args:
        boxes_px: (n, 4) xyxy pixels.
        width, height: those of the image in pixels, > 0.

    Returns:
        (n, 5) float32.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"The image's width and height must be positive, got {width} x {height}.")
    boxes = _as_boxes(boxes_px)
    p = np.empty((len(boxes), 5), dtype=np.float32)
    p[:, :2] = boxes[:, [0, 2]] / width
    p[:, 2:4] = boxes[:, [1, 3]] / height
    p[:, 4] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (float(width) * float(height))
    return p
