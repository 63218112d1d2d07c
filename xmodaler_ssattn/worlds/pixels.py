"""What region features look like, in numbers: overlap and likeness, norms, zeros, how certain the detector is.

A simulation is calibrated by these: the same function measures real regions and simulated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import area as area_of
from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.packs.store import Regions

IOU_BINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
QUANTILES = (5, 25, 50, 75, 95)
LEAST_PAIRS = 5  # a mean over fewer pairs is not given
_BIN_NAMES = [f"{high:g}" for high in IOU_BINS]

# Measured by `tools/measure_pixels.py` on the 360 Bottom-Up regions (10 images) that airsplay/py-bottom-up-attention
# gives as an example: numbers of their statistics, no feature.
_COSINES = (0.2712, 0.3399, 0.4867, 0.6134, 0.7048, 0.7723, 0.8394, 0.927, None)
_PAIRS = (0.5624, 0.224, 0.089, 0.0637, 0.0276, 0.0179, 0.0092, 0.0062, 0.0)
BOTTOM_UP: dict[str, Any] = {
    "images": 10,
    "regions": 360,
    "cosine_by_iou": dict(zip(_BIN_NAMES, _COSINES)),
    "pairs_by_iou": dict(zip(_BIN_NAMES, _PAIRS)),
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
        boxes_px: (K, 4) xyxy pixels.
        width, height: pixels.
        features: (K, D).
        confidence: (K,), the largest class probability except the background's; None when not known.
    """

    def __init__(
        self, boxes_px: np.ndarray, width: int, height: int, features: np.ndarray, confidence: np.ndarray | None
    ) -> None:
        self.boxes_px, self.features, self.confidence = boxes_px, np.asarray(features, dtype=np.float64), confidence
        self.log_area = np.log(np.maximum(area_of(boxes_px) / (width * height), 1e-6))

    @classmethod
    def of(cls, regions: Regions) -> Described:
        """The regions of a region file; their class probabilities have the background first."""
        probs = regions.class_probs
        confidence = None if probs is None else np.asarray(probs, dtype=np.float32)[:, 1:].max(axis=1)
        return cls(regions.boxes_px, regions.width, regions.height, regions.features, confidence)


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
        A value that cannot be computed (a constant, too few pairs, no confidence) is None.
    """
    features = np.concatenate([image.features for image in images])
    norm = np.linalg.norm(features, axis=1)
    unit = features / np.maximum(norm, 1e-12)[:, None]
    of_image = np.split(unit, np.cumsum([len(image.features) for image in images])[:-1])
    log_area = np.concatenate([image.log_area for image in images])
    zero = (features == 0).mean(axis=1)
    overlap, cosine = [np.zeros(0)], [np.zeros(0)]
    for image, own in zip(images, of_image):
        upper = np.triu_indices(len(own), 1)
        overlap.append(iou(image.boxes_px, image.boxes_px)[upper])
        cosine.append((own @ own.T)[upper])
    overlap, cosine = np.concatenate(overlap), np.concatenate(cosine)
    bins = [np.searchsorted(IOU_BINS, overlap) == number for number in range(len(IOU_BINS))]
    found = {
        "images": len(images),
        "regions": len(features),
        "cosine_by_iou": {
            name: _rounded(cosine[inside].mean()) if inside.sum() >= LEAST_PAIRS else None
            for name, inside in zip(_BIN_NAMES, bins)
        },
        "pairs_by_iou": {
            name: _rounded(inside.mean()) if len(overlap) else None for name, inside in zip(_BIN_NAMES, bins)
        },
        "cosine_between_images": _between(unit, of_image),
        "rms": _rounded(np.sqrt((features**2).mean())),
        "norm_variation": _rounded(norm.std() / norm.mean()),
        "zeros": _rounded(zero.mean()),
        "zeros_deviation": _rounded(zero.std()),
        "zeros_and_log_area": _correlation(zero, log_area),
        "norm_and_log_area": _correlation(norm, log_area),
        "confidence": None,
        "confidence_quantiles": None,
        "confidence_and_log_area": None,
    }
    if all(image.confidence is not None for image in images):
        confidence = np.concatenate([image.confidence for image in images])
        found["confidence"] = _rounded(confidence.mean())
        found["confidence_quantiles"] = [_rounded(q) for q in np.percentile(confidence, QUANTILES)]
        found["confidence_and_log_area"] = _correlation(confidence, log_area)
    return found


def _between(unit: np.ndarray, of_image: Sequence[np.ndarray]) -> float | None:
    """Mean cosine over pairs of different images: the sum over all pairs less those inside each image."""
    total, pairs = float((unit.sum(axis=0) ** 2).sum()), len(unit) ** 2
    for own in of_image:
        total, pairs = total - float((own.sum(axis=0) ** 2).sum()), pairs - len(own) ** 2
    return _rounded(total / pairs) if pairs else None


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    return _rounded(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and a.std() > 0 and b.std() > 0 else None


def _rounded(value: float) -> float:
    return round(float(value), 4)
