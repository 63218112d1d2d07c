"""The targets of beta: the paper's indicator sigma (section 2.3), and graded ones beyond the paper.

    sigma_i = 1 if region i has the largest IoU with some ground-truth box, else 0

Letters: K regions, G ground-truth boxes. IoU is in pixels of the original image and without the added pixel. Not
defined in the paper: a box that overlaps no region gives no positive; several boxes on one region give 1 (or, counted,
their number); of equal IoUs the lowest region index is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou, union_box

SIGMAS = ("binary", "count", "overlap", "soft", "mentions")


def positives(
    regions_px: np.ndarray, targets_px: np.ndarray, min_iou: float = 0.0, counted: bool = False
) -> np.ndarray:
    """The regions that sigma marks, as int64 indices, ascending.

    Args:
        regions_px: (K, 4) xyxy pixels.
        targets_px: (G, 4) xyxy pixels; G may be 0.
        min_iou: a box whose largest IoU is below this gives no positive; 0 only requires IoU > 0.
        counted: repeat a region once for every box whose best region it is.
    """
    if len(targets_px) == 0 or len(regions_px) == 0:
        return np.zeros(0, dtype=np.int64)
    overlap = iou(targets_px, regions_px)  # (G, K)
    best = overlap.argmax(axis=1)  # the first of equal values
    value = overlap[np.arange(len(best)), best]
    found = best[(value > 0) & (value >= min_iou)]
    return np.sort(found) if counted else np.unique(found)


def indicator(
    regions_px: np.ndarray, targets_px: np.ndarray, min_iou: float = 0.0, counted: bool = False
) -> np.ndarray:
    """sigma, (K,) float32: the number of times that each region is in ``positives``, with the same arguments."""
    marked = positives(regions_px, targets_px, min_iou, counted)
    return np.bincount(marked, minlength=len(regions_px)).astype(np.float32)


def phrase_overlap(regions_px: np.ndarray, boxes_px: Sequence[Sequence[float]], min_iou: float) -> np.ndarray:
    """IoU of each region with a phrase's box, (K,) float64.

    The phrase's box is the union of its boxes, the box that the published grounding metric judges. If no region is
    above ``min_iou`` with it, the single boxes count instead: of a crowd that no region encloses, any member is right.
    """
    union = iou(np.asarray([union_box(boxes_px)]), regions_px)[0]
    if (union > min_iou).any():
        return union
    return iou(np.asarray(boxes_px), regions_px).max(axis=0)


def beta_target(
    regions_px: np.ndarray, phrases: Sequence[Sequence[Sequence[float]]], sigma: str = "binary", min_iou: float = 0.0
) -> np.ndarray:
    """The target of beta for one image or one sentence.

    Args:
        regions_px: (K, 4) xyxy pixels.
        phrases: the boxes of each phrase (at least one), xyxy pixels; a box may be in several phrases.
        sigma: ``binary``, the paper's indicator; ``count``, the number of boxes whose best region it is; ``overlap``, 1
            for every region whose IoU with some box is above 0.5; ``soft``, the largest IoU with any box;
            ``mentions``, the number of phrases whose box the region reaches: what five sentences name counts five
            times.
        min_iou: see ``positives``; only for ``binary`` and ``count``.

    Returns:
        (K,) float32, >= 0.
    """
    boxes = np.array(sorted({tuple(box) for phrase in phrases for box in phrase}))
    if sigma in ("binary", "count") or len(boxes) == 0:
        return indicator(regions_px, boxes, min_iou, sigma == "count")
    if sigma == "mentions":
        hits = [phrase_overlap(regions_px, phrase, IOU_THRESHOLD) > IOU_THRESHOLD for phrase in phrases]
        return np.sum(hits, axis=0, dtype=np.float32)
    overlap = iou(boxes, regions_px).max(axis=0)
    return np.asarray(overlap if sigma == "soft" else overlap > IOU_THRESHOLD, dtype=np.float32)
