"""Uncertainty of scores: percentile intervals over resampled images, and paired differences of two models.

A replicate samples as many images as there are, with replacement, and scores them again. The rows that the metrics keep
make that cheap: a replicate is a vector of image weights.
"""

from __future__ import annotations

import math

import numpy as np

LEVEL = 0.95


def image_weights(num_images: int, replicates: int, seed: int = 0) -> np.ndarray:
    """(replicates, num_images) float64: how often each image is sampled; every row sums to num_images."""
    if not replicates:
        return np.zeros((0, num_images))
    generator = np.random.default_rng(seed)
    sampled = generator.integers(0, num_images, size=(replicates, num_images))
    counts = np.zeros((replicates, num_images))
    np.add.at(counts, (np.arange(replicates)[:, None], sampled), 1.0)
    return counts


def interval(values: np.ndarray) -> tuple[float, float]:
    """The central 95 % of the replicates; those that are 0/0 (NaN) are left out. NaN when all are 0/0.

    >>> low, high = interval(np.array([*range(101), math.nan]))  # 0 to 100: the quantiles are the values themselves
    >>> round(low, 6), round(high, 6)
    (2.5, 97.5)
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def difference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The paired difference b - a over replicates that sampled the same images for both.

    Returns:
        ``low`` and ``high`` of the interval, and ``p``, a two-sided bootstrap p-value: twice the smaller share of
        replicates on either side of 0, with one replicate added so that it is never 0. 1 when a and b never differ.
    """
    d = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    d = d[~np.isnan(d)]
    low, high = interval(d)
    smaller = min(int(np.sum(d <= 0)), int(np.sum(d >= 0)))
    p = min(1.0, 2 * (smaller + 1) / (len(d) + 1)) if len(d) else math.nan
    return {"low": low, "high": high, "p": p}
