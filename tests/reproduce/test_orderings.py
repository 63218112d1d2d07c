"""Differences over seeds, their intervals and verdicts, on numbers that can be checked on paper."""

import math

import numpy as np
import pytest

from xmodaler_ssattn.reproduce.orderings import (
    HELD,
    NO_DATA,
    NOT_HELD,
    UNDECIDED,
    Difference,
    Pair,
    in_the_paper,
    mean_and_deviation,
    paired,
    verdict,
)


def pair(a, b, a_values, b_values):
    return Pair(a, b, np.array(a_values), np.array(b_values))


def test_the_difference_is_the_mean_over_seeds_in_points():
    # seed 0: 65 - 63 = 2 points, seed 1: 66 - 62 = 4 points; mean 3.
    found = paired({0: pair(0.63, 0.65, [0.63], [0.65]), 1: pair(0.62, 0.66, [0.62], [0.66])})
    assert found.difference == pytest.approx(3.0)
    assert (found.mean_a, found.mean_b) == pytest.approx((62.5, 65.5))
    assert found.by_seed == pytest.approx({0: 2.0, 1: 4.0})


def test_the_interval_pairs_replicate_with_replicate_and_averages_over_seeds_first():
    # b - a of seed 0: .1, .1, .1; of seed 1: .3, .1, .2. Means .2, .1, .15: quantiles .025 and .975 of these three are
    # .1 + .05 * .05 = .1025 and .15 + .95 * .05 = .1975. The values themselves spread far more than their differences.
    found = paired({
        0: pair(0.4, 0.5, [0.1, 0.5, 0.9], [0.2, 0.6, 1.0]),
        1: pair(0.4, 0.6, [0.2, 0.4, 0.6], [0.5, 0.5, 0.8]),
    })  # fmt: skip
    assert (found.low, found.high) == pytest.approx((10.25, 19.75))
    # No replicate is at or below 0: p = 2 (0 + 1) / (3 + 1).
    assert found.p == pytest.approx(0.5)


def test_the_replicates_spread_lies_around_the_difference_that_was_measured():
    # b - a: .5, .6, .7 in the replicates (mean .6), .2 as measured: shifted by -.4 they are .1, .2, .3.
    found = paired({0: pair(0.4, 0.6, [0.1, 0.1, 0.1], [0.6, 0.7, 0.8])})
    # Quantiles .025 and .975 of .1, .2, .3: .1 + .05 * .1 and .3 - .05 * .1.
    assert (found.difference, found.low, found.high) == pytest.approx((20.0, 10.5, 29.5))
    nan = [math.nan] * 3
    assert math.isnan(paired({0: pair(0.4, 0.6, nan, nan)}).low)


def test_no_seed_gives_no_data():
    assert paired({}).by_seed == {} and math.isnan(paired({}).difference)
    assert verdict(paired({})) == NO_DATA


def found(low, high, *seeds):
    return Difference(0.0, 0.0, 0.0, low, high, 0.0, dict(enumerate(seeds)))


@pytest.mark.parametrize(
    ("low", "high", "seeds", "expected"),
    [
        (0.1, 2.0, (1.0, 0.5), HELD),
        (-0.1, 2.0, (1.0, 0.5), UNDECIDED),
        (0.0, 2.0, (1.0, 0.5), UNDECIDED),  # touching 0 is not above it
        (0.1, 2.0, (3.0, -0.5), UNDECIDED),  # the seeds disagree
        (-2.0, -0.1, (-1.0, -0.5), NOT_HELD),
        (-2.0, -0.1, (-2.5, 0.5), UNDECIDED),
        (0.0, 0.0, (0.0,), UNDECIDED),
        (math.nan, math.nan, (1.0,), NO_DATA),
    ],
)
def test_b_is_above_a_when_the_interval_and_every_seed_are(low, high, seeds, expected):
    assert verdict(found(low, high, *seeds)) == expected


@pytest.mark.parametrize(
    ("low", "high", "seeds", "expected"),
    [
        (-0.5, 0.9, (0.1, 0.8), HELD),
        (-0.5, 1.0, (0.1, 1.0), HELD),  # at most the margin
        (-0.5, 1.1, (0.1, 0.8), UNDECIDED),
        (-0.5, 0.9, (0.1, 1.2), UNDECIDED),
        (1.1, 3.0, (2.0, 1.5), NOT_HELD),
        (0.5, 3.0, (2.0, 1.5), UNDECIDED),
        (-5.0, -3.0, (-4.0,), HELD),
    ],
)
def test_no_gain_means_at_most_the_margin(low, high, seeds, expected):
    assert verdict(found(low, high, *seeds), "no_gain", margin=1.0) == expected


def test_mean_and_deviation_are_over_the_seeds_that_are_there():
    # mean 2, deviations -1, 0, 1: sqrt(2 / 2) = 1
    assert mean_and_deviation([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1.0))
    mean, deviation = mean_and_deviation([5.0])
    assert mean == 5.0 and math.isnan(deviation)
    assert all(map(math.isnan, mean_and_deviation([])))
    assert mean_and_deviation([1.0, None, math.nan, 3.0])[0] == 2.0


def test_the_papers_own_difference_stands_beside():
    assert in_the_paper(63.4, 65.6) == "+2.20" and in_the_paper(16.7, 16.7) == "+0.00"
    assert in_the_paper(None, 1.0) == ""
