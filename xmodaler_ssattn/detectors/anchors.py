"""Anchors: the initial boxes of the proposal network, in pixels of its input.

A anchors per position, H and W of the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from xmodaler_ssattn.detectors.spec import STRIDE

RATIOS = (0.5, 1.0, 2.0)  # height : width


def cell_anchors(kind: str, sizes: Sequence[int]) -> np.ndarray:
    """(A, 4) float32 xyxy: the anchors of the first position.

    Args:
        kind: "caffe": ratio by ratio, as the original computes them. A 16 x 16 cell (0, 0, 15, 15) is reshaped to each
            ratio with rounded sides, then multiplied by size / 16 about its centre; a box from x1 to x2 is
            x2 - x1 + 1 wide. "detectron2": size by size, of area size^2, centred on (0, 0), not rounded.
    """
    boxes = []
    if kind == "caffe":
        for ratio in RATIOS:
            width = np.round(np.sqrt(STRIDE * STRIDE / ratio))
            height = np.round(width * ratio)
            for size in sizes:
                centre, half = 0.5 * (STRIDE - 1), 0.5 * (np.array([width, height]) * (size / STRIDE) - 1)
                boxes.append((*(centre - half), *(centre + half)))
    else:
        for size in sizes:
            for ratio in RATIOS:
                width = np.sqrt(size * size / ratio)
                half = 0.5 * np.array([width, ratio * width])
                boxes.append((*-half, *half))
    return np.array(boxes, dtype=np.float32)


def grid_anchors(cell: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(A, 4) -> (height * width * A, 4), shifted by ``STRIDE * (x, y)``; row by row, then x, then the anchor."""
    x = torch.arange(width, device=cell.device, dtype=cell.dtype) * STRIDE
    y = torch.arange(height, device=cell.device, dtype=cell.dtype) * STRIDE
    shifts = torch.stack(torch.broadcast_tensors(x[None], y[:, None], x[None], y[:, None]), dim=-1)
    return (shifts[:, :, None] + cell).reshape(-1, 4)
