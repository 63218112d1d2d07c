"""From the proposal network's outputs to boxes: decode, clip, drop the small, sort, suppress.

The original and detectron2 do this in a different order with different conventions; see ``DetectorSpec.geometry``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from xmodaler_ssattn.detectors.spec import DetectorSpec
from xmodaler_ssattn.detectors.suppression import suppress

# exp() of more than this would make a box over 60 times as wide as its anchor.
LARGEST_LOG_SCALE = math.log(1000.0 / 16)


class Proposals(NamedTuple):
    """R boxes, most likely an object first.

    Attributes:
        boxes_px: (R, 4) float32 xyxy, pixels of the network's input.
        objectness: (R,) float32, a probability ("pair") or a logit ("single").
    """

    boxes_px: torch.Tensor
    objectness: torch.Tensor


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
    """Into the picture: the last pixel is W - 1 ("caffe") or the border is W ("detectron2")."""
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
    """The best proposals of one picture.

    Args:
        scores: (n,) one for each anchor; equal scores keep the anchors' order.
        deltas: (n, 4).
        anchors_px: (n, 4).
        height, width: of the network's input.
        scale: s, from the original picture to the network's input.

    Returns:
        at most ``spec.post_nms_topk`` boxes; there may be none.
    """
    boxes = clip_boxes(move_boxes(anchors_px, deltas, geometry=spec.geometry), height, width, spec.geometry)
    finite = boxes.isfinite().all(dim=1) & scores.isfinite()
    if spec.geometry == "caffe":
        boxes, scores = _keep(boxes, scores, finite & large_enough(boxes, "caffe", spec.min_size * scale))
        boxes, scores = _best(boxes, scores, spec.pre_nms_topk)
    else:
        boxes, scores, finite = _best(boxes, scores, spec.pre_nms_topk, finite)
        boxes, scores = _keep(boxes, scores, finite & large_enough(boxes, "detectron2", spec.min_size))
    # A few milliseconds on the CPU, whatever the device.
    kept = suppress(
        boxes.cpu().numpy(), scores.cpu().numpy(), spec.rpn_nms, geometry=spec.geometry, limit=spec.post_nms_topk
    )
    kept = torch.from_numpy(kept).to(boxes.device)
    return Proposals(boxes[kept], scores[kept])


def _keep(boxes: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return boxes[mask], scores[mask]


def _best(boxes: torch.Tensor, scores: torch.Tensor, count: int, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    order = torch.sort(scores, descending=True, stable=True).indices[:count]
    return boxes[order], scores[order], *(other[order] for other in others)
