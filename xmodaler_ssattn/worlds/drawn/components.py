"""Connected parts of a mask with numpy only, fast enough for a small picture."""

from __future__ import annotations

import numpy as np


def label(values: np.ndarray) -> np.ndarray:
    """Number the connected parts of equal value.

    Args:
        values: (h, w) integers; 0 is empty. Pixels are neighbours when they share a side.

    Returns:
        (h, w) int64: 0 where empty, else the number of the part, from 1 in the order of its first pixel.

    >>> label(np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [2, 0, 2]]))
    array([[1, 0, 1],
           [1, 1, 1],
           [0, 0, 0],
           [2, 0, 3]])
    """
    height, width = values.shape
    flat = values.ravel()
    starts = np.ones((height, width), dtype=bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    run = np.cumsum(starts) - 1  # each pixel's run: equal neighbours in its row
    touching = (flat[:-width] == flat[width:]) & (flat[width:] != 0)
    pairs = np.stack([run[:-width][touching], run[width:][touching]])
    first = np.arange(run[-1] + 1)  # each run points to an earlier run of its part, in the end to the first
    while pairs.size:
        np.minimum.at(first, pairs[1], pairs[0])
        while (first[first] != first).any():
            first = first[first]
        pairs = np.sort(first[pairs], axis=0)
        pairs = pairs[:, pairs[0] != pairs[1]]
    filled = flat[starts.ravel()] != 0  # of each run
    number = np.cumsum(filled & (first == np.arange(len(first))))
    return np.where(filled, number[first], 0)[run].reshape(height, width)


def boxes_and_sizes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) int64 x1, y1, x2, y2 (x2, y2 exclusive) and pixel counts (n,) of the parts 1..n."""
    rows, columns = np.nonzero(labels)
    number = labels[rows, columns] - 1
    sizes = np.bincount(number)
    low, high = np.full((2, len(sizes)), max(labels.shape)), np.zeros((2, len(sizes)), dtype=np.int64)
    for axis, place in enumerate((columns, rows)):
        np.minimum.at(low[axis], number, place)
        np.maximum.at(high[axis], number, place + 1)
    return np.concatenate([low, high]).T, sizes


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with filled holes, which are empty parts that do not reach the border."""
    outside = label((~np.pad(mask, 1)).astype(np.int8))
    return (outside != outside[0, 0])[1:-1, 1:-1]
