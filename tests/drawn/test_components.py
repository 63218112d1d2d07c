"""Connected parts, against a flood fill that looks at one pixel at a time."""

import numpy as np
import pytest

from xmodaler_ssattn.worlds.drawn.proposals import boxes_and_sizes, fill_holes, label


def flood(values):
    """The slow, obvious version: spread from each unvisited pixel to equal neighbours."""
    labels, count = np.zeros(values.shape, dtype=int), 0
    for start in np.argwhere(values != 0):
        if labels[tuple(start)]:
            continue
        count += 1
        waiting = [tuple(start)]
        while waiting:
            y, x = waiting.pop()
            if labels[y, x] or values[y, x] != values[tuple(start)]:
                continue
            labels[y, x] = count
            waiting += [
                (y + dy, x + dx)
                for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
                if 0 <= y + dy < values.shape[0] and 0 <= x + dx < values.shape[1]
            ]
    return labels


@pytest.mark.parametrize("levels", [2, 3])
def test_parts_equal_a_flood_fill(levels):
    rng = np.random.default_rng(levels)
    for _ in range(30):
        values = rng.integers(0, levels, (rng.integers(1, 14), rng.integers(1, 14)))
        np.testing.assert_array_equal(label(values), flood(values))


def test_an_empty_and_a_full_mask():
    assert label(np.zeros((3, 4), int)).max() == 0
    boxes, sizes = boxes_and_sizes(np.zeros((3, 4), int))
    assert boxes.shape == (0, 4) and sizes.shape == (0,)
    boxes, sizes = boxes_and_sizes(label(np.ones((3, 4), int)))
    assert boxes.tolist() == [[0, 0, 4, 3]] and sizes.tolist() == [12]


def test_boxes_are_tight_and_end_after_the_last_pixel():
    mask = np.zeros((5, 6), int)
    mask[1:3, 2:5] = 1
    mask[4, 0] = 1
    boxes, sizes = boxes_and_sizes(label(mask))
    assert boxes.tolist() == [[2, 1, 5, 3], [0, 4, 1, 5]] and sizes.tolist() == [6, 1]


def test_only_enclosed_holes_are_filled():
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False  # a hole
    ring[0, 2] = False  # a notch that reaches the border
    filled = fill_holes(ring)
    assert filled[2, 2] and not filled[0, 2] and filled.sum() == 24
