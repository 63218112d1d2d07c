"""Turn the proposal network's outputs into boxes: move the anchors, clip, drop small ones, sort, suppress.

The original and detectron2 do this in a different order with different conventions; see ``DetectorSpec.geometry``.
A anchors per position, H and W of the map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from xmodaler_ssattn.detectors.spec import STRIDE, DetectorSpec
from xmodaler_ssattn.detectors.suppression import suppress

# exp() of more than this would make a box over 60 times as wide as its anchor.
LARGEST_LOG_SCALE = math.log(1000.0 / 16)
RATIOS = (0.5, 1.0, 2.0)  # height : width


def cell_anchors(kind: str, sizes: Sequence[int]) -> np.ndarray:
    """(A, 4) float32 xyxy: the anchors of the first position.

    Args:
        kind: "caffe": ratio by ratio, as the original computes them. A 16 x 16 cell (0, 0, 15, 15) is reshaped to each
            ratio with rounded sides, then multiplied by size / 16 about its centre; a box from x1 to x2 is
            x2 - x1 + 1 wide. "detectron2": size by size, of area size^2, centred on (0, 0), not rounded.
        sizes: side lengths in pixels of the network's input.
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


class Proposals(NamedTuple):
    """R boxes, most likely an object first.

    Attributes:
        boxes_px: (R, 4) float32 xyxy, pixels of the network's input.
        objectness: (R,) float32, a probability ("pair") or a logit ("single").
    """

    boxes_px: torch.Tensor
    objectness: torch.Tensor


def by_anchor(logits: torch.Tensor, deltas: torch.Tensor, spec: DetectorSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the proposal head -> a score and four offsets per anchor, in the order of ``grid_anchors``.

    Args:
        logits: (1, 2A or A, H, W), see ``DetectorSpec.rpn_logits``.
        deltas: (1, 4A, H, W).

    Returns:
        scores (H W A,) and deltas (H W A, 4).
    """
    scores, deltas = logits[0], deltas[0]
    if spec.rpn_logits == "pair":
        scores = scores.view(2, spec.num_anchors, *scores.shape[1:]).softmax(dim=0)[1]
    deltas = deltas.view(spec.num_anchors, 4, *deltas.shape[1:])
    return scores.permute(1, 2, 0).flatten(), deltas.permute(2, 3, 0, 1).reshape(-1, 4)


def move_boxes(
    boxes_px: torch.Tensor,
    deltas: torch.Tensor,
    *,
    geometry: str,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> torch.Tensor:
    """Apply predicted offsets: centre += d_xy * size, size *= exp(d_wh), each offset divided by its weight.

    Args:
        boxes_px: (n, 4) xyxy.
        deltas: (n, 4) dx, dy, dw, dh.
        geometry: "caffe" takes x2 - x1 + 1 as the width (but not on the way back, like the original).
        weights: of dx, dy, dw, dh.

    Returns:
        (n, 4) xyxy.
    """
    size = boxes_px[:, 2:] - boxes_px[:, :2] + (1 if geometry == "caffe" else 0)
    centre = boxes_px[:, :2] + 0.5 * size
    deltas = deltas / deltas.new_tensor(weights)
    centre = deltas[:, :2] * size + centre
    half = 0.5 * (deltas[:, 2:].clamp(max=LARGEST_LOG_SCALE).exp() * size)
    return torch.cat((centre - half, centre + half), dim=1)


def clip_boxes(boxes_px: torch.Tensor, height: int, width: int, geometry: str) -> torch.Tensor:
    """Clip boxes to the picture: the last pixel is W - 1 ("caffe") or the border is W ("detectron2")."""
    last = boxes_px.new_tensor([width, height, width, height]) - (1 if geometry == "caffe" else 0)
    return torch.minimum(boxes_px.clamp(min=0), last)


def large_enough(boxes_px: torch.Tensor, geometry: str, side: float) -> torch.Tensor:
    """(n,) bool: sides (+1) >= ``side`` ("caffe"), or > ``side`` ("detectron2")."""
    sides = boxes_px[:, 2:] - boxes_px[:, :2]
    return (sides + 1 >= side if geometry == "caffe" else sides > side).all(dim=1)


def choose_proposals(
    scores: torch.Tensor,
    deltas: torch.Tensor,
    anchors_px: torch.Tensor,
    height: int,
    width: int,
    scale: float,
    spec: DetectorSpec,
) -> Proposals:
    """The best proposals of one picture: at most ``spec.post_nms_topk``, possibly none.

    Args:
        scores: (n,) one per anchor; equal scores keep the anchors' order.
        deltas: (n, 4).
        anchors_px: (n, 4).
        height, width: of the network's input.
        scale: s, from the original picture to the network's input.
    """
    boxes = clip_boxes(move_boxes(anchors_px, deltas, geometry=spec.geometry), height, width, spec.geometry)
    usable = boxes.isfinite().all(dim=1) & scores.isfinite()
    if spec.geometry == "caffe":
        usable &= large_enough(boxes, "caffe", spec.min_size * scale)
        boxes, scores = boxes[usable], scores[usable]
        best = scores.sort(descending=True, stable=True).indices[: spec.pre_nms_topk]
        boxes, scores = boxes[best], scores[best]
    else:
        best = scores.sort(descending=True, stable=True).indices[: spec.pre_nms_topk]
        boxes, scores = boxes[best], scores[best]
        usable = usable[best] & large_enough(boxes, "detectron2", spec.min_size)
        boxes, scores = boxes[usable], scores[usable]
    # On the CPU for every device; it takes a few milliseconds.
    kept = suppress(
        boxes.cpu().numpy(), scores.cpu().numpy(), spec.rpn_nms, geometry=spec.geometry, limit=spec.post_nms_topk
    )
    rows = torch.from_numpy(kept).to(boxes.device)
    return Proposals(boxes[rows], scores[rows])
