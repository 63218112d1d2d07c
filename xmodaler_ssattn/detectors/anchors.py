"""Anchors: the boxes that the proposal network starts from, in pixels of its input.

Two kinds that differ in order, centre and rounding. A (anchors a position), H and W of the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

RATIOS = (0.5, 1.0, 2.0)  # height : width
STRIDE = 16


def caffe_cell_anchors(sizes: Sequence[int] = (64, 128, 256, 512)) -> np.ndarray:
    """(A, 4) float32 boxes around the first position, ratio by ratio, as the original computes them.

    A 16 x 16 cell (0, 0, 15, 15) is reshaped to each ratio with rounded sides, then multiplied by size / 16
    about its centre. A box from x1 to x2 is x2 - x1 + 1 wide.
    """
    centre = 0.5 * (STRIDE - 1)
    boxes = []
    for ratio in RATIOS:
        width = np.round(np.sqrt(STRIDE * STRIDE / ratio))
        height = np.round(width * ratio)
        for size in sizes:
            w, h = width * (size / STRIDE), height * (size / STRIDE)
            boxes.append(
                (centre - 0.5 * (w - 1), centre - 0.5 * (h - 1), centre + 0.5 * (w - 1), centre + 0.5 * (h - 1))
            )
    return np.array(boxes, dtype=np.float32)


def detectron2_cell_anchors(sizes: Sequence[int] = (64, 128, 256, 512)) -> np.ndarray:
    """(A, 4) float32 boxes of area size^2 centred on (0, 0), size by size, not rounded."""
    boxes = []
    for size in sizes:
        for ratio in RATIOS:
            width = np.sqrt(size * size / ratio)
            height = ratio * width
            boxes.append((-0.5 * width, -0.5 * height, 0.5 * width, 0.5 * height))
    return np.array(boxes, dtype=np.float32)


def cell_anchors(kind: str, sizes: Sequence[int]) -> np.ndarray:
    """The anchors of one position; ``kind`` as in ``DetectorSpec.anchors``."""
    return {"caffe": caffe_cell_anchors, "detectron2": detectron2_cell_anchors}[kind](sizes)


def grid_anchors(cell: torch.Tensor, height: int, width: int, stride: int = STRIDE) -> torch.Tensor:
    """(A, 4) -> (height * width * A, 4), shifted by stride * (x, y); row by row, then x, then the anchor."""
    x = torch.arange(width, device=cell.device, dtype=cell.dtype) * stride
    y = torch.arange(height, device=cell.device, dtype=cell.dtype) * stride
    shifts = torch.stack(torch.broadcast_tensors(x[None], y[:, None], x[None], y[:, None]), dim=-1)
    return (shifts[:, :, None] + cell).reshape(-1, 4)
