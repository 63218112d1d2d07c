"""The paper's indicator sigma (section 2.3) of the regions that match a ground-truth box.

    sigma_i = 1 if region i has the largest IoU with some ground-truth box, else 0

Letters: K regions, G ground-truth boxes. IoU is in pixels of the original image and without the added
pixel. Not defined in the paper: a box that overlaps no region gives no positive; sigma is binary, so several boxes on
one region give 1 (or, counted, their number); of equal IoUs the lowest region index is used.
"""

from __future__ import annotations

import numpy as np

from xmodaler_ssattn.boxes import iou


def positives(
    regions_px: np.ndarray, targets_px: np.ndarray, min_iou: float = 0.0, counted: bool = False
) -> np.ndarray:
    """The regions that sigma marks.

    Args:
        regions_px: (K, 4) xyxy pixels.
        targets_px: (G, 4) xyxy pixels; G may be 0.
        min_iou: a box whose largest IoU is below this gives no positive; 0 only requires IoU > 0.
        counted: repeat a region once for every box whose best region it is.

    Returns:
        Region indices, int64, ascending, each once unless ``counted``.
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
    """sigma, (K,) float32; arguments as ``positives``."""
    return sigma_of(positives(regions_px, targets_px, min_iou, counted), len(regions_px))


def sigma_of(marked: np.ndarray, num_regions: int) -> np.ndarray:
    """sigma, (K,) float32, from the result of ``positives``: the number of times that each region is in it.

    >>> sigma_of(np.array([0, 2, 2]), 4)
    array([1., 0., 2., 0.], dtype=float32)
    """
    return np.bincount(np.asarray(marked, dtype=np.int64), minlength=num_regions).astype(np.float32)
