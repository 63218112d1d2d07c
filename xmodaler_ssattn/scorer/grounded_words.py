"""The grounding term of a reward: the share of a caption's object words whose region is right. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou_plus_one


def grounded_share(
    word_classes: Sequence[Sequence[int]],
    word_regions: Sequence[Sequence[int]],
    object_classes: np.ndarray,
    object_boxes_px: np.ndarray,
    region_boxes_px: np.ndarray,
) -> np.ndarray:
    """The share of each caption's words naming an annotated class of the image whose region hits such an object.

    A region hits when its overlap with one of the objects of the word's class is above 0.5, in the published metric's
    convention (boxes are x2 - x1 + 1 wide). Words that name no class, or a class without a box in this image, are
    ignored, because the place of these objects is unknown.

    Args:
        word_classes: the class of each word of each caption; below 0 for none.
        word_regions: the region of each word of each caption.
        object_classes: (G,) the image's annotated objects; G may be 0.
        object_boxes_px: (G, 4) xyxy pixels.
        region_boxes_px: (K, 4) xyxy pixels.

    Returns:
        (captions,) float64, 0 to 1; 0 for a caption without such a word.
    """
    overlaps = iou_plus_one(object_boxes_px, region_boxes_px) > IOU_THRESHOLD  # (G, K)
    hits = {int(name): overlaps[object_classes == name].any(axis=0) for name in np.unique(object_classes)}
    shares = np.zeros(len(word_classes))
    for number, (classes, regions) in enumerate(zip(word_classes, word_regions, strict=True)):
        said = [bool(hits[name][region]) for name, region in zip(classes, regions, strict=True) if name in hits]
        shares[number] = sum(said) / len(said) if said else 0.0
    return shares
