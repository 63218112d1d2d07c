"""What region features look like by numbers: overlap and likeness, norms, zeros, how certain the detector is.

A simulation is calibrated by these: the same function measures real regions and simulated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import area as area_of
from xmodaler_ssattn.boxes import iou

IOU_BINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
QUANTILES = (5, 25, 50, 75, 95)
LEAST_PAIRS = 5  # a mean over fewer pairs is not given

# Measured by `tools/measure_pixels.py` on the 360 Bottom-Up regions (10 images) that airsplay/py-bottom-up-attention
# gives as an example: numbers of their statistics, no feature.
BOTTOM_UP: dict[str, Any] = {
    "images": 10,
    "regions": 360,
    "cosine_by_iou": {
        "0": 0.2712,
        "0.1": 0.3399,
        "0.2": 0.4867,
        "0.3": 0.6134,
        "0.4": 0.7048,
        "0.5": 0.7723,
        "0.6": 0.8394,
        "0.7": 0.927,
        "1": None,
    },
    "pairs_by_iou": {
        "0": 0.5624,
        "0.1": 0.224,
        "0.2": 0.089,
        "0.3": 0.0637,
        "0.4": 0.0276,
        "0.5": 0.0179,
        "0.6": 0.0092,
        "0.7": 0.0062,
        "1": 0.0,
    },
    "cosine_between_images": 0.1858,
    "rms": 1.6033,
    "norm_variation": 0.1563,
    "zeros": 0.3409,
    "zeros_deviation": 0.1128,
    "zeros_and_log_area": -0.7057,
    "norm_and_log_area": 0.2602,
    "confidence": 0.4171,
    "confidence_quantiles": [0.1335, 0.2404, 0.3793, 0.5643, 0.7978],
    "confidence_and_log_area": 0.0654,
}


class Described:
    """The regions of one image.

    Args:
        boxes_px: (K, 4).
        width, height: pixels.
        features: (K, D).
        confidence: (K,), the largest class probability beside the background's; None when not known.
    """

    def __init__(
        self, boxes_px: np.ndarray, width: int, height: int, features: np.ndarray, confidence: np.ndarray | None
    ) -> None:
        self.boxes_px, self.features, self.confidence = boxes_px, np.asarray(features, dtype=np.float64), confidence
        self.log_area = np.log(np.maximum(area_of(boxes_px) / (width * height), 1e-6))


def describe(images: Sequence[Described]) -> dict[str, Any]:
    """Statistics of some images' regions.

    Returns:
        images, regions: how many;
        cosine_by_iou: "0" for pairs of an image that do not touch, "0.1" for an IoU above 0 up to 0.1, ... -> mean
        cosine of their features; pairs_by_iou: the share of the pairs;
        cosine_between_images: mean cosine of regions of different images;
        rms: root mean square of a feature's numbers (its norm is that times sqrt(D)); norm_variation: standard
        deviation of the norms over their mean;
        zeros, zeros_deviation: share of zeros of a region, mean and standard deviation;
        zeros_and_log_area, norm_and_log_area, confidence_and_log_area: correlations;
        confidence, confidence_quantiles: mean, and at 5, 25, 50, 75, 95 %.
        A value that cannot be had (a constant, too few pairs, no confidence) is None.
    """
    features = np.concatenate([image.features for image in images])
    norm = np.linalg.norm(features, axis=1)
    unit = features / np.maximum(norm, 1e-12)[:, None]
    number = np.repeat(np.arange(len(images)), [len(image.features) for image in images])
    log_area = np.concatenate([image.log_area for image in images])
    zero = (features == 0).mean(axis=1)
    overlap, cosine = [np.zeros(0)], [np.zeros(0)]
    for place, image in enumerate(images):
        upper = np.triu_indices(len(image.features), 1)
        own = unit[number == place]
        overlap.append(iou(image.boxes_px, image.boxes_px)[upper])
        cosine.append((own @ own.T)[upper])
    overlap, cosine = np.concatenate(overlap), np.concatenate(cosine)
    by_iou, pairs = {}, {}
    low = -1.0
    for high in IOU_BINS:
        inside = (overlap > low) & (overlap <= high)
        by_iou[f"{high:g}"] = _rounded(cosine[inside].mean()) if inside.sum() >= LEAST_PAIRS else None
        pairs[f"{high:g}"] = _rounded(inside.mean()) if len(overlap) else None
        low = high
    known = [image.confidence for image in images if image.confidence is not None]
    confidence = np.concatenate(known) if len(known) == len(images) else None
    return {
        "images": len(images),
        "regions": len(features),
        "cosine_by_iou": by_iou,
        "pairs_by_iou": pairs,
        "cosine_between_images": _between(unit, number),
        "rms": _rounded(np.sqrt((features**2).mean())),
        "norm_variation": _rounded(norm.std() / norm.mean()),
        "zeros": _rounded(zero.mean()),
        "zeros_deviation": _rounded(zero.std()),
        "zeros_and_log_area": _correlation(zero, log_area),
        "norm_and_log_area": _correlation(norm, log_area),
        "confidence": None if confidence is None else _rounded(confidence.mean()),
        "confidence_quantiles": None
        if confidence is None
        else [_rounded(q) for q in np.percentile(confidence, QUANTILES)],
        "confidence_and_log_area": None if confidence is None else _correlation(confidence, log_area),
    }


def _between(unit: np.ndarray, number: np.ndarray) -> float | None:
    """Mean cosine over pairs of different images: the sum over all pairs less those inside each image."""
    total, pairs = float((unit.sum(axis=0) ** 2).sum()), len(unit) ** 2
    for place in np.unique(number):
        own = unit[number == place]
        total, pairs = total - float((own.sum(axis=0) ** 2).sum()), pairs - len(own) ** 2
    return _rounded(total / pairs) if pairs else None


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    return _rounded(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and a.std() > 0 and b.std() > 0 else None


def _rounded(value: float) -> float:
    return round(float(value), 4)
