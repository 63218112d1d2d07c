"""The output of a detector for one picture, and the interface of detectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass
class Detected:
    """The n regions of one picture, most confident first; n may be 0.

    Attributes:
        width, height: of the original picture, pixels.
        boxes_px: (n, 4) float32, x1, y1, x2, y2 in pixels of the original picture.
        features: (n, D) float32.
        class_probs: (n, C + 1) float32, background first.
        confidence: (n,) float32, the score by which the regions were selected and ordered.
        objects: (n,) int64, the most probable class, 0-based, without background.
        attributes: (n,) int64, the most probable attribute, 0-based, without "none"; None when the network has no
            attribute head.
    """

    width: int
    height: int
    boxes_px: np.ndarray
    features: np.ndarray
    class_probs: np.ndarray
    confidence: np.ndarray
    objects: np.ndarray
    attributes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes_px)


@runtime_checkable
class Detector(Protocol):
    """From pictures to regions.

    Attributes:
        feature_dim: D.
        num_classes: C, without background.
        source: dialect of the weights and backend, recorded in the region file.
        weights_sha256: of the weights file; None when there is none.
    """

    feature_dim: int
    num_classes: int
    source: str
    weights_sha256: str | None

    def detect(self, image_bgr: np.ndarray) -> Detected:
        """Regions of one picture: (H, W, 3) uint8, blue first."""
        ...

    def detect_many(self, images_bgr: Sequence[np.ndarray]) -> list[Detected]:
        """``detect`` for several pictures of any sizes, in order."""
        ...
