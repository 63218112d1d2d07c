"""Make the network's input from a picture: subtract the mean, then resize, as the original extractor does.

The original subtracts the mean in float and resizes with OpenCV's INTER_LINEAR: two by two neighbours, no antialiasing,
the exact scale in x and y, the size rounded. Here only the necessary neighbours are read from the 8-bit picture, so
that the memory depends on the output size only.
"""

from __future__ import annotations

import numpy as np
import torch

from xmodaler_ssattn.detectors.spec import CAFFE_PIXEL_MEAN
from xmodaler_ssattn.errors import UserError

# The stem halves twice and its pooling needs two rows.
SMALLEST_SIDE = 3


def picture_scale(height: int, width: int, short: int = 600, long: int = 1000) -> float:
    """s = short / min(h, w), or long / max(h, w) where the first would make the long side longer than ``long``.

    >>> picture_scale(480, 640), picture_scale(400, 1000)
    (1.25, 1.0)
    """
    scale = short / min(height, width)
    if round(scale * max(height, width)) > long:
        scale = long / max(height, width)
    return scale


def _neighbours(size: int, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two source positions per output position of one axis, and the weight of the second one (float32)."""
    positions = (np.arange(round(size * scale)) + 0.5) / scale - 0.5
    positions = positions.astype(np.float32)
    low = np.floor(positions).astype(np.int64)
    weight = positions - low.astype(np.float32)
    weight[(low < 0) | (low >= size - 1)] = 0.0
    low = low.clip(0, size - 1)
    return low, np.minimum(low + 1, size - 1), weight


def preprocess(
    image_bgr: np.ndarray, *, short: int = 600, long: int = 1000, mean: tuple[float, float, float] = CAFFE_PIXEL_MEAN
) -> tuple[torch.Tensor, float]:
    """The network's input and its exact scale.

    Args:
        image_bgr: (H, W, 3) uint8, blue first.
        short, long: see ``picture_scale``.
        mean: blue, green, red.

    Returns:
        (3, h, w) float32 and s; h = round(s H), and a box in the input's pixels divided by s is one in the picture's.

    Raises:
        ValueError: ``image_bgr`` is not a colour picture of bytes.
        UserError: the picture is so narrow that its short side becomes too small.
    """
    if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.dtype != np.uint8 or image_bgr.size == 0:
        raise ValueError(f"image_bgr must be (H, W, 3) uint8, got {image_bgr.shape} {image_bgr.dtype}.")
    height, width = image_bgr.shape[:2]
    scale = picture_scale(height, width, short, long)
    if round(scale * min(height, width)) < SMALLEST_SIDE:
        raise UserError(
            f"a picture of {width} x {height} pixels becomes {round(scale * width)} x "
            f"{round(scale * height)} when its long side is brought to {long}; the detector needs at "
            f"least {SMALLEST_SIDE} pixels on each side. Crop it."
        )
    top, bottom, down = _neighbours(height, scale)
    left, right, across = _neighbours(width, scale)
    offset = np.asarray(mean, dtype=np.float32)
    down, across = down[:, None, None], across[None, :, None]

    def row(rows: np.ndarray) -> np.ndarray:
        taken = image_bgr[rows]
        at_left = taken[:, left].astype(np.float32) - offset
        at_right = taken[:, right].astype(np.float32) - offset
        return at_left * (1 - across) + at_right * across

    resized = row(top) * (1 - down) + row(bottom) * down
    return torch.from_numpy(resized).permute(2, 0, 1).contiguous(), scale
