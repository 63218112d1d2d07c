"""Connected parts of a mask, found row by row; numpy alone, fast enough for a small picture."""

from __future__ import annotations

import numpy as np


def label(values: np.ndarray) -> np.ndarray:
    """Number the connected parts of equal value.

    Args:
        values: (h, w) integers; 0 is empty. Pixels are neighbours when they share a side.

    Returns:
        (h, w) int32: 0 where empty, else the number of the part, from 1 in the order of its first pixel.
    """
    height, width = values.shape
    parent: list[int] = []
    runs: list[tuple[int, int, int, int]] = []  # row, start, end, label
    above: list[tuple[int, int, int, int]] = []  # start, end, label, value
    changes = np.zeros((height, width + 1), dtype=bool)
    changes[:, 0] = changes[:, width] = True
    changes[:, 1:width] = values[:, 1:] != values[:, :-1]
    for row in range(height):
        edges = np.flatnonzero(changes[row]).tolist()
        line = values[row, edges[:-1]].tolist()
        here: list[tuple[int, int, int, int]] = []
        first = 0
        for start, end, value in zip(edges, edges[1:], line):
            if value == 0:
                continue
            own = -1
            while first < len(above) and above[first][1] <= start:
                first += 1
            for left, right, other, other_value in above[first:]:
                if left >= end:
                    break
                if other_value == value and right > start:
                    root = _root(parent, other)
                    if own < 0:
                        own = root
                    elif own != root:
                        own, root = min(own, root), max(own, root)
                        parent[root] = own
            if own < 0:
                own = len(parent)
                parent.append(own)
            here.append((start, end, own, value))
            runs.append((row, start, end, own))
        above = here
    numbers: dict[int, int] = {}
    labels = np.zeros((height, width), dtype=np.int32)
    for row, start, end, own in runs:
        labels[row, start:end] = numbers.setdefault(_root(parent, own), len(numbers) + 1)
    return labels


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


def boxes_and_sizes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) int64 x1, y1, x2, y2 (x2, y2 exclusive) and pixel counts (n,) of the parts 1..n."""
    count = int(labels.max(initial=0))
    rows, columns = np.nonzero(labels)
    number = labels[rows, columns] - 1
    boxes = np.empty((count, 4), dtype=np.int64)
    boxes[:, :2] = max(labels.shape)
    boxes[:, 2:] = 0
    for column, (place, choose) in enumerate(
        ((columns, np.minimum), (rows, np.minimum), (columns + 1, np.maximum), (rows + 1, np.maximum))
    ):
        choose.at(boxes[:, column], number, place)
    return boxes, np.bincount(number, minlength=count)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with everything filled that it encloses: empty parts that do not reach the border."""
    outside = label((~np.pad(mask, 1)).astype(np.int8))
    return (outside != outside[0, 0])[1:-1, 1:-1]
