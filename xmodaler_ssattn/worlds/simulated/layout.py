"""The objects of one simulated picture and their places, made by either world: the input of the detector."""

from __future__ import annotations

import dataclasses

import numpy as np

from xmodaler_ssattn.boxes import area

MIN_AREA = 0.0015  # lower limit for shares of the picture
MIN_SIDE_PX = 8
REFERENCE_AREA = 0.1  # at which the assumptions state noise and norms


@dataclasses.dataclass(frozen=True)
class Layout:
    """O objects; those that the captions mention come first.

    Attributes:
        width, height: pixels.
        boxes_px: (O, 4) int64, xyxy, counted from 0, inside the picture.
        columns: (O,) int64, their columns of the class probabilities.
        modifiers: the words that describe each.
        boxed: for each mentioned object whether it has a box in the annotations; the others are scenes.
    """

    width: int
    height: int
    boxes_px: np.ndarray
    columns: np.ndarray
    modifiers: tuple[tuple[str, ...], ...]
    boxed: tuple[bool, ...]

    @property
    def mentioned(self) -> int:
        """The number of mentioned objects."""
        return len(self.boxed)

    def area(self, boxes_px: np.ndarray) -> np.ndarray:
        """(n, 4) boxes in pixels -> (n,) float64 shares of the picture."""
        return area(boxes_px) / (self.width * self.height)
