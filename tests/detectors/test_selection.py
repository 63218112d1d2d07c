"""Which regions are kept: the vectorised pass against the loop over classes."""

import numpy as np
import pytest

from xmodaler_ssattn.detectors.selection import SelectionRule, best_surviving_scores, select_regions
from xmodaler_ssattn.detectors.suppression import suppress


def slowly(boxes: np.ndarray, probs: np.ndarray, nms: float) -> np.ndarray:
    """The published loop."""
    confidence = np.zeros(len(boxes), dtype=probs.dtype)
    for c in range(1, probs.shape[1]):
        keep = suppress(boxes, probs[:, c], nms, geometry="caffe")
        confidence[keep] = np.maximum(confidence[keep], probs[keep, c])
    return confidence


def some_regions(count: int, classes: int, seed: int, decimals: int | None = None):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (count, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(5, 80, (count, 2))), axis=1).astype(np.float32)
    probs = rng.dirichlet(np.full(classes + 1, 0.1), count).astype(np.float32)
    if decimals is not None:
        probs = probs.round(decimals)
    return boxes, probs


THREE = np.float32([[0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 59, 59]])  # the first two overlap by 0.9


def test_three_regions_and_two_classes_on_paper():
    probs = np.float32([[0.1, 0.6, 0.3], [0.0, 0.5, 0.5], [0.9, 0.05, 0.05]])
    # class 1: region 0 suppresses 1. class 2: region 1 suppresses 0. Region 2 overlaps nobody.
    assert best_surviving_scores(THREE, probs).tolist() == pytest.approx([0.6, 0.5, 0.05])
    # a region that is second in both classes has no confidence at all
    probs[1] = (0.3, 0.5, 0.2)
    assert best_surviving_scores(THREE, probs).tolist() == pytest.approx([0.6, 0.0, 0.05])


def test_background_does_not_count():
    probs = np.float32([[0.98, 0.02], [0.01, 0.99], [1.0, 0.0]])
    assert best_surviving_scores(THREE, probs).tolist() == pytest.approx([0.0, 0.99, 0.0])


@pytest.mark.parametrize("decimals", [None, 1])  # one decimal: most probabilities are tied
@pytest.mark.parametrize(("count", "classes"), [(1, 5), (63, 7), (64, 7), (65, 7), (150, 40), (300, 3)])
def test_all_classes_at_once_equal_the_loop_over_classes(count, classes, decimals):
    for seed in range(3):
        boxes, probs = some_regions(count, classes, seed, decimals)
        assert np.array_equal(best_surviving_scores(boxes, probs), slowly(boxes, probs, 0.3))
        assert np.array_equal(best_surviving_scores(boxes, probs, 0.7), slowly(boxes, probs, 0.7))


def test_descending_confidence_between_min_and_max():
    boxes, probs = some_regions(100, 20, 0)
    confidence = best_surviving_scores(boxes, probs)
    passing = int((confidence >= 0.5).sum())
    assert 10 < passing < 60
    for least, most, expected in (
        (36, 36, 36),
        (1, 100, passing),
        (passing + 5, 100, passing + 5),
        (1, passing - 5, passing - 5),
    ):
        rows, kept = select_regions(boxes, probs, SelectionRule(least, most, 0.5))
        assert len(rows) == expected
        assert (np.diff(kept) <= 0).all() and np.array_equal(kept, confidence[rows])
        assert set(kept) == set(np.sort(confidence)[::-1][:expected])


def test_the_threshold_itself_passes_and_ties_go_to_the_lower_row():
    boxes = np.float32([[x, 0, x + 9, 9] for x in (0, 20, 40, 60)])
    probs = np.float32([[0.75, 0.25], [0.5, 0.5], [0.75, 0.25], [0.9, 0.1]])
    assert select_regions(boxes, probs, SelectionRule(1, 4, 0.25))[0].tolist() == [1, 0, 2]
    three = SelectionRule(3, 3)
    tied = np.full((4, 2), 0.5, dtype=np.float32)
    assert select_regions(boxes, tied, three)[0].tolist() == [0, 1, 2]
    # regions of no confidence fill up, lower rows first
    alone = np.float32([[0, 1.0]] * 4)
    same = np.repeat(boxes[:1], 4, axis=0)
    rows, confidence = select_regions(same, alone, three)
    assert rows.tolist() == [0, 1, 2] and confidence.tolist() == [1, 0, 0]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_fewer_than_the_minimum_are_all_there_is(count):
    boxes, probs = some_regions(count, 4, 0)
    rows, confidence = select_regions(boxes, probs, SelectionRule())
    assert sorted(rows) == list(range(count)) and confidence.shape == (count,)


@pytest.mark.parametrize(("least", "most"), [(0, 36), (37, 36)])
def test_a_rule_that_cannot_be(least, most):
    with pytest.raises(ValueError, match=rf"1 <= min <= max, got {least} and {most}"):
        SelectionRule(least, most)
    with pytest.raises(ValueError, match=r"threshold and nms must be in 0\.\.1, got 20 and 0\.3"):
        SelectionRule(threshold=20)
