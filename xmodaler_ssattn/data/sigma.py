"""The paper's indicator sigma (section 2.3): which regions answer a ground-truth box.

    sigma_i = 1 if region i has the largest IoU with some ground-truth box, else 0

Letters: K regions, G ground-truth boxes. IoU is in pixels of the original image and without the added
pixel. What the paper leaves open: a box that touches no region gives no positive; sigma is binary, so
several boxes on one region give one 1; of equal IoUs the lowest region index wins.
"""

from __future__ import annotations

import numpy as np

from xmodaler_ssattn.boxes import iou


def positives(regions_px: np.ndarray, targets_px: np.ndarray, min_iou: float = 0.0) -> np.ndarray:
    """The regions with sigma = 1.

    Args:
        regions_px: (K, 4) xyxy pixels.
        targets_px: (G, 4) xyxy pixels; G may be 0.
        min_iou: a box whose largest IoU is below this gives no positive; 0 only asks for IoU > 0.

    Returns:
        Region indices, int64, ascending, each once.
    """
    if len(targets_px) == 0 or len(regions_px) == 0:
        return np.zeros(0, dtype=np.int64)
    overlap = iou(targets_px, regions_px)  # (G, K)
    best = overlap.argmax(axis=1)  # the first of equal values
    value = overlap[np.arange(len(best)), best]
    return np.unique(best[(value > 0) & (value >= min_iou)])


def indicator(regions_px: np.ndarray, targets_px: np.ndarray, min_iou: float = 0.0) -> np.ndarray:
    """sigma, (K,) float32 of 0 and 1; arguments as ``positives``."""
    sigma = np.zeros(len(regions_px), dtype=np.float32)
    sigma[positives(regions_px, targets_px, min_iou)] = 1.0
    return sigma
