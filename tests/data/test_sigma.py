"""sigma on paper: three regions, one or two boxes."""

import numpy as np
import pytest

from xmodaler_ssattn.data.sigma import beta_target, indicator, phrase_overlap, positives

# Three regions: 10 x 10 at the origin, the same moved by 5, and one far away.
REGIONS = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [50, 50, 60, 60]], dtype=np.float32)


def slow_indicator(regions, targets, min_iou=0.0):
    """For each box walk over the regions and keep the first that is strictly better than all before."""
    sigma = [0.0] * len(regions)
    for a in targets:
        best, winner = 0.0, None
        for i, b in enumerate(regions):
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            both = width * height
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
            overlap = both / union if union > 0 else 0.0
            if overlap > best:
                best, winner = overlap, i
        if winner is not None and best >= min_iou:
            sigma[winner] = 1.0
    return sigma


def test_the_region_of_the_largest_overlap_is_positive():
    # box [4, 0, 14, 10]: with region 0 6x10 / (200 - 60) = 0.43, with region 1 9x10 / (200 - 90) = 0.82
    assert indicator(REGIONS, np.array([[4, 0, 14, 10]])).tolist() == [0, 1, 0]


def test_two_boxes_on_one_region_give_one_and_not_two():
    sigma = indicator(REGIONS, np.array([[0, 0, 10, 9], [0, 0, 9, 10]]))
    assert sigma.tolist() == [1, 0, 0] and sigma.dtype == np.float32


def test_counted_sigma_holds_the_number_of_boxes_of_each_region():
    targets = np.array([[0, 0, 10, 9], [0, 0, 9, 10], [50, 50, 60, 61], [20, 20, 30, 30]])
    assert indicator(REGIONS, targets, counted=True).tolist() == [2, 0, 1]
    assert indicator(REGIONS, targets).tolist() == [1, 0, 1]
    assert positives(REGIONS, targets, counted=True).tolist() == [0, 0, 2]


def test_a_box_that_touches_no_region_is_skipped():
    assert indicator(REGIONS, np.array([[20, 20, 30, 30], [52, 52, 58, 58]])).tolist() == [0, 0, 1]
    # boxes that only touch do not overlap: IoU has no added pixel
    assert indicator(REGIONS[:1], np.array([[10, 0, 20, 10]])).tolist() == [0]


def test_of_equal_overlaps_the_lowest_region_wins():
    # box [2.5, 0, 12.5, 10] overlaps regions 0 and 1 by 7.5 x 10 each
    assert indicator(REGIONS, np.array([[2.5, 0, 12.5, 10]])).tolist() == [1, 0, 0]
    assert indicator(REGIONS[[0, 0, 0]], REGIONS[:1]).tolist() == [1, 0, 0]


def test_a_minimum_overlap_drops_weak_matches_and_keeps_equal_ones():
    weak = np.array([[0, 0, 10, 5]])  # 50 / 100 = 0.5 with region 0
    assert indicator(REGIONS, weak, 0.5).tolist() == [1, 0, 0]
    assert indicator(REGIONS, weak, 0.51).tolist() == [0, 0, 0]


@pytest.mark.parametrize("targets", [np.zeros((0, 4)), np.array([[3, 3, 3, 3]])])
def test_no_box_or_an_empty_box_gives_no_positive(targets):
    assert indicator(REGIONS, targets).tolist() == [0, 0, 0]
    assert positives(REGIONS, targets).tolist() == []


def test_random_boxes_agree_with_the_slow_version():
    rng = np.random.default_rng(0)
    for _ in range(200):
        corners = rng.integers(0, 20, (12, 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
        regions, targets, min_iou = boxes[:8], boxes[8:], float(rng.choice([0.0, 0.3]))
        assert indicator(regions, targets, min_iou).tolist() == slow_indicator(regions, targets, min_iou)


def test_permuted_regions_give_permuted_sigma():
    rng = np.random.default_rng(1)
    corners = rng.random((10, 2, 2)) * 100  # no ties among random reals
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    order = rng.permutation(7)
    np.testing.assert_array_equal(indicator(boxes[:7][order], boxes[7:]), indicator(boxes[:7], boxes[7:])[order])


# With REGIONS: A has IoU 1 and 50 / 150 = 1/3, B 80 / 120 = 2/3 and 70 / 130, C has only region 2.
A, B, C = [0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]


def test_graded_targets_of_beta():
    phrases = [[A], [A], [B], [C]]  # A is named twice
    assert beta_target(REGIONS, phrases).tolist() == [1, 0, 1]
    assert beta_target(REGIONS, phrases, "count").tolist() == [2, 0, 1]  # a box counts once
    assert beta_target(REGIONS, phrases, "overlap").tolist() == [1, 1, 1]
    np.testing.assert_allclose(beta_target(REGIONS, phrases, "soft"), [1, 70 / 130, 1], rtol=1e-6)
    assert beta_target(REGIONS, phrases, "mentions").tolist() == [3, 1, 1]
    assert all(beta_target(REGIONS, phrases, sigma).dtype == np.float32 for sigma in ("soft", "mentions"))


@pytest.mark.parametrize("sigma", ["binary", "count", "overlap", "soft", "mentions"])
def test_no_phrase_gives_no_target(sigma):
    assert beta_target(REGIONS, [], sigma).tolist() == [0, 0, 0]
    assert beta_target(REGIONS, [[]], sigma).tolist() == [0, 0, 0]


def test_a_phrase_of_several_boxes_is_reached_by_its_union_and_else_by_any_of_them():
    # the union of the halves of region 0 is region 0
    assert phrase_overlap(REGIONS, [[0, 0, 5, 10], [5, 0, 10, 10]], 0.5).tolist() == [1, 50 / 150, 0]
    # no region encloses A and C
    assert phrase_overlap(REGIONS, [A, C], 0.5).tolist() == [1, 50 / 150, 1]
    assert beta_target(REGIONS, [[A, C]], "mentions").tolist() == [1, 0, 1]
