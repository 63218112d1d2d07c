"""A network, ours or detectron2's, run on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from xmodaler_ssattn.detectors.detected import Detected
from xmodaler_ssattn.detectors.network import Described
from xmodaler_ssattn.detectors.preprocess import preprocess
from xmodaler_ssattn.detectors.roi_operators import Pooled
from xmodaler_ssattn.detectors.selection import SelectionRule, select_regions

# Regions processed by res5 at once: few on a CPU, so that they stay in its caches; many on a GPU, to use it fully.
CHUNK_CPU, CHUNK_GPU = 16, 1024


def select_detected(width: int, height: int, described: Described, scale: float, rule: SelectionRule) -> Detected:
    """Choose, order and name the regions of one picture.

    Args:
        width, height: of the original picture.
        described: all its regions, with boxes in pixels of the network's input.
        scale: from the original picture to that input.
    """
    boxes, features, class_probs, attributes = (None if part is None else part.cpu().numpy() for part in described)
    boxes = boxes / np.float32(scale)
    rows, confidence = select_regions(boxes, class_probs, rule)
    # detectron2's geometry lets a box end where the scaled picture's size was rounded to.
    inside = np.clip(boxes[rows], 0, np.array([width, height, width, height], dtype=np.float32))
    objects = class_probs[rows, 1:].argmax(axis=1)
    attributes = None if attributes is None else attributes[rows]
    return Detected(width, height, inside, features[rows], class_probs[rows], confidence, objects, attributes)


def features_in_chunks(network: Any, pooled: Sequence[Pooled], chunk: int) -> torch.Tensor:
    """(sum of R, D) float32: features of all regions of one or more pictures, ``chunk`` regions at a time."""
    parts = [network.features(bins[at : at + chunk]) for bins in pooled for at in range(0, len(bins), chunk)]
    return torch.cat(parts) if parts else pooled[0].boxes_px.new_empty(0, network.spec.feature_dim)


def full_precision(device: torch.device) -> AbstractContextManager:
    """float32 convolutions in float32: cuDNN would round their inputs to ten bits by default."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False)


class TorchDetector:
    """See ``Detector``.

    Args:
        network: a ``BottomUpNetwork`` or another with its steps; its weights are moved, not copied, to ``device``.
        device: "cpu", "cuda", ...
        rule: the selection of regions; None: the fixed 36.
        weights_sha256: of the weights file, for the record.
    """

    def __init__(
        self,
        network: Any,
        *,
        device: str | torch.device = "cpu",
        rule: SelectionRule | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        self.network = network.to(device=device, memory_format=torch.channels_last).eval()
        self.device, self.rule, self.weights_sha256 = torch.device(device), rule or SelectionRule(), weights_sha256
        self.spec = network.spec
        self.feature_dim, self.num_classes = self.spec.feature_dim, self.spec.num_classes
        self.source = f"{self.spec.name} ({network.version} backend)"

    def detect(self, image_bgr: np.ndarray) -> Detected:
        """See ``Detector.detect``."""
        return self.detect_many([image_bgr])[0]

    @torch.inference_mode()
    def detect_many(self, images_bgr: Sequence[np.ndarray]) -> list[Detected]:
        """See ``Detector.detect_many``. On a GPU the regions of all pictures go through res5 together."""
        if self.device.type == "cpu" and len(images_bgr) > 1:  # nothing to gain, and memory to lose
            return [self.detect(image) for image in images_bgr]
        with full_precision(self.device):
            return self._detect(images_bgr) if images_bgr else []

    def _detect(self, images_bgr: Sequence[np.ndarray]) -> list[Detected]:
        network, spec = self.network, self.spec
        pooled, places = [], []
        for image in images_bgr:
            tensor, scale = preprocess(image, short=spec.short_side, long=spec.long_side, mean=spec.pixel_mean)
            height, width = tensor.shape[1:]
            trunk = network.trunk(tensor.to(self.device))
            boxes = network.propose(trunk, height, width, scale).boxes_px
            pooled.append(network.pool(trunk, boxes))
            places.append((boxes, height, width, scale))
        features = features_in_chunks(network, pooled, CHUNK_CPU if self.device.type == "cpu" else CHUNK_GPU)
        found = []
        for image, own, place in zip(images_bgr, features.split([len(bins) for bins in pooled]), places):
            boxes, height, width, scale = place
            described = network.describe(own, boxes, height, width)
            found.append(select_detected(image.shape[1], image.shape[0], described, scale, self.rule))
        return found
