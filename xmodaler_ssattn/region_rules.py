"""Rules that choose the region of a word, and therefore its box, from the attention. numpy only.

* ``argmax``: the largest attention, the published protocol.
* ``pooled``: the attention of all regions, each times its IoU with the region, so that near-duplicates vote together.
* ``class``: the attention times a power of the probability of the word's class.
* ``union``: for a decoder with branches of attention, the region of the first branch; the box encloses those of the
  other branches that overlap it.
* ``detector``: a control without attention, the probability of the word's class.
* ``largest_detector``: a control without attention, that probability times the region's area.

The scores of the other rules belong in columns of their own, beside those of the two controls.

Letters: T words, K regions, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from xmodaler_ssattn.boxes import area, iou, union_box

ARGMAX, POOLED, UNION = "argmax", "pooled", "union"
CLASS, DETECTOR, LARGEST_DETECTOR = "class", "detector", "largest_detector"
RULES = (ARGMAX, POOLED, UNION, CLASS, DETECTOR, LARGEST_DETECTOR)
CLASS_RULES = (CLASS, DETECTOR, LARGEST_DETECTOR)


@dataclass(frozen=True)
class RegionRule:
    """A rule with its settings."""

    name: str = ARGMAX  # one of ``RULES``
    power: float = 0.5  # of ``class``: the exponent of the class probability
    # For ``CLASS_RULES``: the columns of the class probabilities that name the class of each word that names one; empty
    # for a class without a column.
    columns: Mapping[str, Sequence[int]] = field(default_factory=dict)
    overlap: float = 0.3  # of ``union``, see ``enclosing_box``

    def scores(
        self, texts: Sequence[str], weights: np.ndarray, boxes_px: np.ndarray, class_probs: np.ndarray | None
    ) -> np.ndarray:
        """The scores, (T, K), of which the largest chooses the word's region.

        A word that names no class keeps its attention. For a class without a column ``class`` is the attention, and
        the probability of the controls is 1.

        Args:
            texts: T words.
            weights: (T, K) attention.
            boxes_px: (K, 4) xyxy pixels.
            class_probs: (K, C), background first; only read by ``CLASS_RULES``.

        >>> rule = RegionRule("class", 1.0, {"dog": [1]})
        >>> two = np.array([[0.6, 0.4], [0.6, 0.4]])
        >>> rule.scores(["a", "dog"], two, np.zeros((2, 4)), np.array([[0.5, 0.5], [0.0, 1.0]])).tolist()
        [[0.6, 0.4], [0.3, 0.4]]
        """
        if self.name in (ARGMAX, UNION) or not len(texts):
            return weights
        if self.name == POOLED:
            return weights @ iou(boxes_px, boxes_px)
        assert class_probs is not None
        found = np.array(weights, dtype=np.float64)
        for step, text in enumerate(texts):
            if (columns := self.columns.get(text)) is None:
                continue
            probability = np.ones(len(boxes_px))
            if len(columns):
                probability = class_probs[:, list(columns)].sum(axis=1, dtype=np.float64)
            if self.name == CLASS:
                found[step] *= probability**self.power
            else:
                found[step] = probability * (area(boxes_px) if self.name == LARGEST_DETECTOR else 1)
        return found


def enclosing_box(boxes_px: np.ndarray, overlap: float) -> tuple[float, float, float, float]:
    """The box around the first box and those that overlap it.

    Args:
        boxes_px: (n, 4) xyxy pixels, n at least 1.
        overlap: a box is enclosed if its IoU with the first one, or the share of the smaller of the two that is inside
            the other, is above this value.

    >>> enclosing_box(np.array([[0.0, 0, 10, 10], [8, 0, 12, 10], [50, 50, 60, 60]]), 0.3)
    (0.0, 0.0, 12.0, 10.0)
    """
    shared = iou(boxes_px[:1], boxes_px)[0]
    sizes = area(boxes_px)
    smaller = np.minimum(sizes[0], sizes)
    # IoU = i / (a + b - i), so that i = IoU (a + b) / (1 + IoU)
    inside = shared * (sizes[0] + sizes) / (1 + shared)
    share = np.divide(inside, smaller, out=np.zeros_like(inside), where=smaller > 0)
    agrees = np.maximum(shared, share) > overlap
    agrees[0] = True
    x1, y1, x2, y2 = map(float, union_box(boxes_px[agrees]))
    return x1, y1, x2, y2


PROTOCOL = RegionRule()
