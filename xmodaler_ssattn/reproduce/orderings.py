"""Test whether b is above a: the difference of two rows on the same test images and seeds, with a paired interval.

A replicate samples test images with replacement and scores both rows on them; the difference is averaged over the seeds
that both rows have. The interval therefore covers the sampling of test images. The differences between seeds are in
``by_seed``, and an ordering whose seeds disagree is never called held or not held.

A resample lacks a third of the images and therefore some rare classes, so averages over classes are shifted: all
replicates may lie on one side of the score itself. Therefore only their spread is used, around the measured difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from xmodaler_ssattn.evaluation import bootstrap
from xmodaler_ssattn.reproduce.plan import GREATER

HELD, NOT_HELD, UNDECIDED, NO_DATA = "held", "not held", "undecided", "no data"


class Pair(NamedTuple):
    """One score of two rows with one seed: the scores and their replicates, as fractions."""

    a: float
    b: float
    a_values: np.ndarray
    b_values: np.ndarray


@dataclass(frozen=True)
class Difference:
    """b - a in points (percent).

    Attributes:
        mean_a, mean_b: means over seeds, in percent.
        difference, low, high: mean difference, and the spread of the central 95 % of resampled test images around it.
        p: two-sided bootstrap p-value.
        by_seed: seed -> difference.
    """

    mean_a: float = math.nan
    mean_b: float = math.nan
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    by_seed: Mapping[int, float] = field(default_factory=dict)


def paired(pairs: Mapping[int, Pair]) -> Difference:
    """Pool the seeds; all values are NaN when there is no seed."""
    if not pairs:
        return Difference()
    a_scores, b_scores, a_values, b_values = zip(*pairs.values())
    a, b = np.mean(a_values, axis=0), np.mean(b_values, axis=0)
    by_seed = {seed: 100 * (pair.b - pair.a) for seed, pair in pairs.items()}
    measured = float(np.mean(list(by_seed.values())))
    if not np.isnan(b - a).all():
        b = b + measured / 100 - np.nanmean(b - a)
    spread = bootstrap.difference(a, b)
    means = 100 * float(np.mean(a_scores)), 100 * float(np.mean(b_scores))
    return Difference(*means, measured, 100 * spread["low"], 100 * spread["high"], spread["p"], by_seed)


def around_the_mean(scores: Sequence[float], replicates: Sequence[np.ndarray]) -> tuple[float, float]:
    """The central 95 % of the replicates' mean over seeds, moved so that their mean is that of the scores."""
    values = np.mean(replicates, axis=0)
    shift = 0.0 if np.isnan(values).all() else float(np.mean(scores)) - float(np.nanmean(values))
    return bootstrap.interval(values + shift)


def verdict(found: Difference, claim: str = GREATER, margin: float = 0.0) -> str:
    """HELD, NOT_HELD, UNDECIDED, or NO_DATA.

    ``greater`` is held when the interval and every seed lie above 0, and not held when they all lie below.
    ``no_gain`` is held when the interval's upper end and every seed are at most ``margin`` points, and not held when
    the lower end and every seed are above it.
    """
    if not found.by_seed or math.isnan(found.low):
        return NO_DATA
    seeds = found.by_seed.values()
    bound = 0.0 if claim == GREATER else margin
    above = found.low > bound and all(value > bound for value in seeds)
    if claim == GREATER:
        below = found.high < bound and all(value < bound for value in seeds)
        return HELD if above else NOT_HELD if below else UNDECIDED
    below = found.high <= bound and all(value <= bound for value in seeds)
    return HELD if below else NOT_HELD if above else UNDECIDED


def in_the_paper(a: float | None, b: float | None) -> str:
    """The paper's difference, e.g. "+2.20", or "" if it gives none."""
    return "" if a is None or b is None else f"{b - a:+.2f}"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the deviation is NaN for fewer than two values, both for none."""
    finite = [value for value in values if value is not None and not math.isnan(value)]
    if not finite:
        return math.nan, math.nan
    return float(np.mean(finite)), float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan
