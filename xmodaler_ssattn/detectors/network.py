"""The detector's network: trunk, proposals, regions; it needs only torch.

Its state dict, onto which the published weights are mapped (``*`` is weight and bias, normalisations folded in):

    backbone.stem.conv1.*
    backbone.res{2,3,4}.N.{conv1,conv2,conv3}.*   backbone.res{2,3,4}.0.shortcut.*
    rpn.conv.*   rpn.logits.*   rpn.deltas.*      A anchors: 2A or A logits, 4A deltas
    res5.N.{conv1,conv2,conv3}.*   res5.0.shortcut.*
    head.cls_score.*                              C + 1 rows, background where the spec says
    head.bbox_pred.*                              4C rows; only when the spec's boxes are regressed
    head.attribute_embedding.weight               C + 1 rows, in the order of cls_score
    head.attribute_hidden.*   head.attribute_score.*
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from xmodaler_ssattn.detectors.backbone import Trunk, resnet_stage
from xmodaler_ssattn.detectors.proposals import (
    Proposals,
    by_anchor,
    cell_anchors,
    choose_proposals,
    clip_boxes,
    grid_anchors,
    move_boxes,
)
from xmodaler_ssattn.detectors.roi_operators import Pooled, pool_regions
from xmodaler_ssattn.detectors.spec import STRIDE, DetectorSpec


class Described(NamedTuple):
    """R regions.

    Attributes:
        boxes_px: (R, 4) float32 xyxy, pixels of the network's input; regressed if set in the spec.
        features: (R, D) float32, >= 0.
        class_probs: (R, C + 1) float32, background first.
        attributes: (R,) int64, the most probable one, 0-based without "none"; None without that head.
    """

    boxes_px: torch.Tensor
    features: torch.Tensor
    class_probs: torch.Tensor
    attributes: torch.Tensor | None


class ProposalHead(nn.Module):
    """3x3 convolution, relu, then a score and four offsets per anchor and position."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv = nn.Conv2d(spec.trunk_channels, spec.rpn_channels, 3, padding=1)
        logits, deltas = spec.rpn_rows
        self.logits, self.deltas = nn.Conv2d(spec.rpn_channels, logits, 1), nn.Conv2d(spec.rpn_channels, deltas, 1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, C, H, W) -> scores (H W A,) and deltas (H W A, 4), see ``by_anchor``."""
        hidden = F.relu_(self.conv(features))
        return by_anchor(self.logits(hidden), self.deltas(hidden), self.spec)


class RegionHead(nn.Module):
    """Class, box offsets and attribute from a region's feature."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.cls_score = nn.Linear(spec.feature_dim, spec.num_classes + 1)
        if spec.boxes == "regressed":
            self.bbox_pred = nn.Linear(spec.feature_dim, 4 * spec.num_classes)
        if spec.attribute_rows is not None:
            self.attribute_embedding = nn.Embedding(spec.num_classes + 1, spec.attribute_embedding)
            self.attribute_hidden = nn.Linear(spec.feature_dim + spec.attribute_embedding, spec.attribute_hidden)
            self.attribute_score = nn.Linear(spec.attribute_hidden, spec.attribute_rows)

    def class_probs(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, D) -> probabilities (R, C + 1) background first, and the best row of ``cls_score`` (R,)."""
        logits = self.cls_score(features)
        probs = logits.softmax(dim=1)
        return probs if self.spec.background == "first" else probs.roll(1, dims=1), logits.argmax(dim=1)

    def attributes(self, features: torch.Tensor, best_row: torch.Tensor) -> torch.Tensor:
        """(R, D), (R,) -> (R,) int64; the attribute depends on the class, background included."""
        joined = torch.cat((features, self.attribute_embedding(best_row)), dim=1)
        scores = self.attribute_score(F.relu_(self.attribute_hidden(joined)))
        first = 1 if self.spec.no_attribute == "first" else 0
        return scores[:, first : first + self.spec.num_attributes].argmax(dim=1)

    def deltas(self, features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """(R, D), (R,) 0-based classes without background -> (R, 4)."""
        deltas = self.bbox_pred(features).view(len(features), self.spec.num_classes, 4)
        return deltas[torch.arange(len(features), device=features.device), classes]


class BottomUpNetwork(nn.Module):
    """A Bottom-Up detector in five steps: ``trunk``, ``propose``, ``pool``, ``features``, ``describe``.

    Attributes:
        cell_anchors_px: (A, 4) float32; may be replaced by those of a weights file.
        version: of the backend, for the record.
    """

    version = "torch"

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = Trunk(spec)
        self.rpn = ProposalHead(spec)
        self.res5 = resnet_stage(spec, 5)
        self.head = RegionHead(spec)
        self.cell_anchors_px = cell_anchors(spec.anchors, spec.anchor_sizes)

    def trunk(self, image: torch.Tensor) -> torch.Tensor:
        """(3, h, w) -> (1, C, H, W)."""
        return self.backbone(image[None].contiguous(memory_format=torch.channels_last))

    def propose(self, trunk: torch.Tensor, height: int, width: int, scale: float) -> Proposals:
        """See ``choose_proposals``."""
        scores, deltas = self.rpn(trunk)
        cell = torch.from_numpy(self.cell_anchors_px).to(trunk.device)
        anchors = grid_anchors(cell, trunk.shape[2], trunk.shape[3])
        return choose_proposals(scores, deltas, anchors, height, width, scale, self.spec)

    def pool(self, trunk: torch.Tensor, boxes_px: torch.Tensor) -> Pooled:
        """The trunk's bins in each box (R, 4)."""
        return pool_regions(
            trunk,
            boxes_px,
            op=self.spec.roi_op,
            bins=self.spec.pool_size,
            stride=STRIDE,
            samples=self.spec.align_samples,
        )

    def features(self, bins: torch.Tensor) -> torch.Tensor:
        """(n, C, P, P) -> (n, D) float32: res5, then the mean over the bins."""
        bins = bins.contiguous(memory_format=torch.channels_last)
        return self.res5(bins).mean(dim=(2, 3))

    def describe(self, features: torch.Tensor, boxes_px: torch.Tensor, height: int, width: int) -> Described:
        """Class, attribute and final box of each region from its feature (R, D)."""
        spec = self.spec
        class_probs, best_row = self.head.class_probs(features)
        attributes = None if spec.num_attributes is None else self.head.attributes(features, best_row)
        if spec.boxes == "regressed":
            deltas = self.head.deltas(features, class_probs[:, 1:].argmax(dim=1))
            boxes_px = move_boxes(boxes_px, deltas, geometry=spec.geometry, weights=spec.box_weights)
            boxes_px = clip_boxes(boxes_px, height, width, spec.geometry)
        return Described(boxes_px, features, class_probs, attributes)
