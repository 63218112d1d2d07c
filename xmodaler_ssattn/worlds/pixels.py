"""Statistics of region features: similarity by overlap, norms, zeros, confidence of the detector.

Simulations are calibrated with these: the same function measures real and simulated regions.
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
LEAST_PAIRS = 5  # a mean over fewer pairs is None
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


def describe(images: Sequence[Regions]) -> dict[str, Any]:
    """Statistics of some images' regions.

    Args:
        images: regions; of their class probabilities, which may be None, only the largest except the background's is
            used, the confidence of the detector.

    Returns:
        images, regions: their numbers;
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
    features = np.concatenate([image.features for image in images], dtype=np.float64)
    norm = np.linalg.norm(features, axis=1)
    unit = features / np.maximum(norm, 1e-12)[:, None]
    of_image = np.split(unit, np.cumsum([len(image.features) for image in images])[:-1])
    area = np.concatenate([area_of(image.boxes_px) / (image.width * image.height) for image in images])
    log_area = np.log(np.maximum(area, 1e-6))
    zero = (features == 0).mean(axis=1)
    overlaps, cosines = [np.zeros(0)], [np.zeros(0)]
    for image, own in zip(images, of_image):
        upper = np.triu_indices(len(own), 1)
        overlaps.append(iou(image.boxes_px, image.boxes_px)[upper])
        cosines.append((own @ own.T)[upper])
    overlap, cosine = np.concatenate(overlaps), np.concatenate(cosines)
    bins = [np.searchsorted(IOU_BINS, overlap) == number for number in range(len(IOU_BINS))]
    known = [image.class_probs[:, 1:].max(axis=1) for image in images if image.class_probs is not None]
    confidence = np.concatenate(known) if len(known) == len(images) else None
    return {
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
        "confidence": None if confidence is None else _rounded(confidence.mean()),
        "confidence_quantiles": None if confidence is None else [*map(_rounded, np.percentile(confidence, QUANTILES))],
        "confidence_and_log_area": None if confidence is None else _correlation(confidence, log_area),
    }


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
