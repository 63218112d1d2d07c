"""Select the regions of a picture, exactly as for the published features.

For every class c a non-maximum suppression by the probabilities p[:, c]; a region's confidence is its best
probability among the classes in which it survived:

    max_conf = 0;  for c = 1 .. C:  keep = NMS(boxes, p[:, c], 0.3);  max_conf[keep] = max(max_conf[keep], p[keep, c])

then all regions with max_conf >= 0.2, but at least MIN and at most MAX of them. The order written is always
descending confidence, ties to the lower index (the original leaves the proposals' order when it keeps between MIN and
MAX, and ties to an unstable sort).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from xmodaler_ssattn.detectors.suppression import overlapping


@dataclasses.dataclass(frozen=True)
class SelectionRule:
    """The number of regions. 36 and 36 give the fixed features, 10 and 100 the adaptive ones.

    Attributes:
        min_regions: minimum number of regions per picture, if there are enough proposals.
        max_regions: maximum number of regions per picture.
        threshold: minimum confidence of a region.
        nms: the IoU from which a region is suppressed within a class.
    """

    min_regions: int = 36
    max_regions: int = 36
    threshold: float = 0.2
    nms: float = 0.3

    def __post_init__(self) -> None:
        if not 1 <= self.min_regions <= self.max_regions:
            raise ValueError(
                f"min_regions and max_regions must satisfy 1 <= min <= max, got {self.min_regions} and "
                f"{self.max_regions}."
            )
        if not (0 <= self.threshold <= 1 and 0 <= self.nms <= 1):
            raise ValueError(f"threshold and nms must be in 0..1, got {self.threshold} and {self.nms}.")


def best_surviving_scores(boxes_px: np.ndarray, class_probs: np.ndarray, nms: float = 0.3) -> np.ndarray:
    """max_conf of the module's formula: (R,) in the precision of ``class_probs``.

    All classes are processed together, one rank at a time: the boxes are common to the classes, so one matrix of
    overlaps is enough, packed to one bit per pair; a class's suppressed regions are a row of R bits.
    """
    count, classes = class_probs.shape[0], class_probs.shape[1] - 1
    if count == 0 or classes == 0:
        return np.zeros(count, dtype=class_probs.dtype)
    words = -(-count // 64)
    over = np.zeros((count, words * 64), dtype=bool)
    over[:, :count] = overlapping(boxes_px, boxes_px, nms, "caffe")
    over = np.packbits(over, axis=1, bitorder="little").view("<u8")
    scores = np.ascontiguousarray(class_probs[:, 1:].T)
    order = np.argsort(-scores, axis=1, kind="stable")
    suppressed = np.zeros((classes, words), dtype=np.uint64)
    survives = np.empty((classes, count), dtype=bool)
    every_class = np.arange(classes)
    for rank in range(count):
        region = order[:, rank]
        bit = suppressed[every_class, region >> 6] >> (region & 63).astype(np.uint64) & np.uint64(1)
        survives[every_class, region] = bit == 0
        suppressed |= np.where(bit[:, None] == 0, over[region], np.uint64(0))
    return np.where(survives, scores, 0).max(axis=0)


def select_regions(boxes_px: np.ndarray, class_probs: np.ndarray, rule: SelectionRule) -> tuple[np.ndarray, np.ndarray]:
    """The regions of one picture that are kept.

    Args:
        boxes_px: (R, 4) float32 xyxy, pixels.
        class_probs: (R, C + 1), background first.

    Returns:
        the rows of n regions in descending confidence, (n,) int64, and the confidence of each, (n,).
        n < ``rule.min_regions`` only when R is.
    """
    confidence = best_surviving_scores(boxes_px, class_probs, rule.nms)
    order = np.argsort(-confidence, kind="stable")
    count = int((confidence >= np.float64(rule.threshold)).sum())
    order = order[: min(max(count, rule.min_regions), rule.max_regions)]
    return order, confidence[order]
