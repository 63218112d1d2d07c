"""Describe a crop's pixels by numbers: a small picture, its colours, and the directions of its edges.

The descriptor depends only on the pixels of its crop, resized to one size, not on the crop's place or size. It contains
considerable noise, which is seeded by a checksum of the crop, so that the same pixels always give the same numbers.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from PIL import Image

CROP = 32  # pixels, both sides of a stretched crop
THUMBNAIL, CELLS, DIRECTIONS, LEVELS = 8, 4, 8, 4
DESCRIPTOR_DIM = 3 * THUMBNAIL**2 + LEVELS**3 + CELLS**2 * DIRECTIONS  # 192 + 64 + 128
NOISE = 0.7  # standard deviation, where every part of the descriptor varies by about 1


def cut_crops(picture: Image.Image, boxes_px: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy pixels -> (n, CROP, CROP, 3) uint8, each box of the RGB picture resized to one size.

    A pixel that a box touches belongs to its crop. Crops are cut before they are resized: `resize(box=...)` would
    mix in the pixels around them.
    """
    crops = np.empty((len(boxes_px), CROP, CROP, 3), dtype=np.uint8)
    for row, (x1, y1, x2, y2) in enumerate(np.asarray(boxes_px, dtype=np.float64).tolist()):
        crop = picture.crop((math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)))
        crops[row] = np.asarray(crop.resize((CROP, CROP), Image.Resampling.BILINEAR))
    return crops


def describe_crops(crops: np.ndarray, noise: float = NOISE) -> np.ndarray:
    """(n, CROP, CROP, 3) uint8 -> (n, DESCRIPTOR_DIM) float32."""
    count = len(crops)
    step = CROP // THUMBNAIL
    tall = crops.reshape(count, THUMBNAIL, step, CROP * 3).sum(axis=2, dtype=np.uint16)
    small = tall.reshape(count, THUMBNAIL, THUMBNAIL, step, 3).sum(axis=3, dtype=np.uint16) / np.float32(255 * step**2)
    grey = crops @ np.full(3, 1 / (3 * 255), dtype=np.float32)
    # With these divisors, each part has a standard deviation of about 1 over the boxes of a thousand scenes.
    parts = [(small.reshape(count, -1) - 0.6) / 0.22, _colours(crops) / 0.11, _edges(grey) / 0.35]
    descriptors = np.concatenate(parts, axis=1)
    if noise > 0:
        for row, crop in enumerate(crops):
            rng = np.random.Generator(np.random.SFC64(zlib.crc32(crop.tobytes())))
            descriptors[row] += noise * rng.standard_normal(DESCRIPTOR_DIM, dtype=np.float32)
    return descriptors


def _colours(crops: np.ndarray) -> np.ndarray:
    """(n, LEVELS^3) float32: square roots of the shares of the coarse colours."""
    count = len(crops)
    coarse = (crops // (256 // LEVELS)).astype(np.int32)
    bins = (coarse[..., 0] * LEVELS + coarse[..., 1]) * LEVELS + coarse[..., 2]
    bins += (LEVELS**3 * np.arange(count, dtype=np.int32))[:, None, None]
    shares = np.bincount(bins.ravel(), minlength=count * LEVELS**3).reshape(count, -1) / CROP**2
    return np.sqrt(shares).astype(np.float32)


def _edges(grey: np.ndarray) -> np.ndarray:
    """(n, CELLS^2 * DIRECTIONS) float32: in each cell, square roots of the edge strength in each direction."""
    count = len(grey)
    down, across = np.zeros_like(grey), np.zeros_like(grey)
    down[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    across[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    strength = np.hypot(across, down)
    # An edge and its opposite count as one direction: light on dark is the same shape as dark on light.
    turn = np.arctan2(down, across) / np.pi % 1.0
    direction = np.minimum((turn * DIRECTIONS).astype(np.int32), DIRECTIONS - 1)
    cell = np.arange(CROP, dtype=np.int32) // (CROP // CELLS)
    bins = (cell[:, None] * CELLS + cell[None, :]) * DIRECTIONS + direction
    bins += (CELLS**2 * DIRECTIONS * np.arange(count, dtype=np.int32))[:, None, None]
    total = np.bincount(bins.ravel(), weights=strength.ravel(), minlength=count * CELLS**2 * DIRECTIONS)
    return np.sqrt(total.reshape(count, -1) / (CROP // CELLS) ** 2).astype(np.float32) * 2.0
