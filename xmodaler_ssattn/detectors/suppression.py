"""Non-maximum suppression, exactly as the references do it.

Two conventions: the original's ("caffe": a box from x1 to x2 is x2 - x1 + 1 wide, suppress when IoU >= threshold) and
torchvision's ("detectron2": x2 - x1 wide, IoU > threshold). Both compute in float32 and compare in double; ties go to
the lower index. It takes a few milliseconds for 6000 boxes.
"""

from __future__ import annotations

import numpy as np

BLOCK = 256


def pairwise_iou(a_px: np.ndarray, b_px: np.ndarray, geometry: str = "caffe") -> np.ndarray:
    """(n, 4) and (m, 4) xyxy -> (n, m) in the boxes' dtype; two boxes without area have IoU NaN.

    The order of operations is that of the references, so that a value at the threshold rounds to the same side.
    """
    extra = a_px.dtype.type(1 if geometry == "caffe" else 0)
    area_a = (a_px[:, 2] - a_px[:, 0] + extra) * (a_px[:, 3] - a_px[:, 1] + extra)
    area_b = (b_px[:, 2] - b_px[:, 0] + extra) * (b_px[:, 3] - b_px[:, 1] + extra)
    overlap = np.minimum(a_px[:, None, 2], b_px[:, 2]) - np.maximum(a_px[:, None, 0], b_px[:, 0]) + extra
    height = np.minimum(a_px[:, None, 3], b_px[:, 3]) - np.maximum(a_px[:, None, 1], b_px[:, 1]) + extra
    overlap = np.maximum(overlap, 0) * np.maximum(height, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return overlap / (area_a[:, None] + area_b - overlap)


def overlapping(a_px: np.ndarray, b_px: np.ndarray, threshold: float, geometry: str = "caffe") -> np.ndarray:
    """(n, m) bool: whether one of the pair suppresses the other; see the module for the two conventions."""
    iou = pairwise_iou(a_px, b_px, geometry)
    bound = np.float64(threshold)  # in float32 it would be rounded to another number
    return iou >= bound if geometry == "caffe" else iou > bound


def suppress(
    boxes_px: np.ndarray, scores: np.ndarray, threshold: float, *, geometry: str = "caffe", limit: int | None = None
) -> np.ndarray:
    """Keep the best box, remove those that overlap it, and so on.

    Args:
        boxes_px: (n, 4) float, xyxy.
        scores: (n,).
        threshold: of the IoU.
        geometry: "caffe" or "detectron2", see the module.
        limit: maximum number of boxes to keep.

    Returns:
        (k,) int64 indices of the kept boxes, best first; equal scores in the order given.

    >>> boxes = np.float32([[0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 59, 59]])  # the first two have IoU 0.9
    >>> suppress(boxes, np.float32([0.5, 0.8, 0.7]), 0.3).tolist()
    [1, 2]
    """
    order = np.argsort(-scores, kind="stable")
    limit = len(order) if limit is None else limit
    kept = np.empty(0, dtype=np.int64)
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        # Kept boxes of earlier blocks come first; only survivors need each other's overlap.
        if len(kept):
            block = block[~overlapping(boxes_px[kept], boxes_px[block], threshold, geometry).any(axis=0)]
        over = overlapping(boxes_px[block], boxes_px[block], threshold, geometry)
        gone = np.zeros(len(block), dtype=bool)
        chosen = []
        for i in range(len(block)):
            if not gone[i]:
                chosen.append(i)
                gone |= over[i]
        kept = np.concatenate((kept, block[chosen]))
        if len(kept) >= limit:
            break
    return kept[:limit]
