"""The network run by detectron2: its trunk, proposal head, pooling, res5 and predictor.

detectron2 is imported when a network is built. Its config is set here, because its model zoo needs a module that new
versions of setuptools lack. Where the original network has other layers (the stem's pooling, res5, two logits per
anchor), they are replaced; where its geometry differs, our proposals replace detectron2's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from xmodaler_ssattn.detectors.backbone import Stem
from xmodaler_ssattn.detectors.dialects import BOX_PRED, Dialect, Weights, expected_shapes, to_network_state
from xmodaler_ssattn.detectors.network import Described, RegionHead
from xmodaler_ssattn.detectors.proposals import Proposals, by_anchor, choose_proposals
from xmodaler_ssattn.detectors.roi_operators import Pooled
from xmodaler_ssattn.detectors.spec import BLOCKS, DetectorSpec


class Detectron2Missing(Exception):
    """detectron2 cannot be imported, or cannot build this network; the message says why."""


def why_not(spec: DetectorSpec) -> str:
    """The reason why detectron2 cannot run this network; empty when it can."""
    try:
        import detectron2.modeling  # noqa: F401
    except ImportError as error:
        return f"detectron2 cannot be imported ({error})."
    except (RuntimeError, AttributeError) as error:  # a torchvision or detectron2 of another torch
        return f"detectron2 is installed but does not import with torch {torch.__version__} ({error})."
    if spec.blocks not in BLOCKS.values():
        return f"detectron2 has no ResNet with {spec.blocks} blocks."
    return ""


def detectron2_config(spec: DetectorSpec) -> Any:
    """The ``CfgNode`` of detectron2 for a spec."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"  # moved afterwards
    model.META_ARCHITECTURE = "GeneralizedRCNN"
    model.PIXEL_MEAN = list(spec.pixel_mean)
    resnets = model.RESNETS
    resnets.DEPTH = next(depth for depth, blocks in BLOCKS.items() if blocks == spec.blocks)
    resnets.NORM, resnets.OUT_FEATURES, resnets.STRIDE_IN_1X1 = "FrozenBN", ["res4"], spec.stride_in_1x1
    resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS = spec.base_width, 4 * spec.base_width
    resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = spec.groups, spec.bottleneck_width // spec.groups
    model.ANCHOR_GENERATOR.SIZES = [list(spec.anchor_sizes)]
    rpn = model.RPN
    rpn.IN_FEATURES, rpn.CONV_DIMS = ["res4"], [spec.rpn_channels]
    rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TEST, rpn.NMS_THRESH = spec.pre_nms_topk, spec.post_nms_topk, spec.rpn_nms
    model.PROPOSAL_GENERATOR.MIN_SIZE = int(spec.min_size)
    heads = model.ROI_HEADS
    heads.NAME, heads.IN_FEATURES, heads.NUM_CLASSES = "Res5ROIHeads", ["res4"], spec.num_classes
    box = model.ROI_BOX_HEAD
    box.POOLER_TYPE = "ROIPool" if spec.roi_op == "pool" else "ROIAlignV2"
    box.POOLER_RESOLUTION, box.POOLER_SAMPLING_RATIO = spec.pool_size, spec.align_samples
    box.BBOX_REG_WEIGHTS = spec.box_weights
    return cfg


def build_detectron2_network(weights: Weights, dialect: Dialect, anchors_px: np.ndarray) -> Detectron2Network:
    """detectron2's model with the weights of a file, loaded under their own names.

    Args:
        weights, dialect: see ``dialects.dialect_of``.
        anchors_px: (A, 4), of the spec's geometry.

    Raises:
        Detectron2Missing: see ``why_not``.
    """
    spec = dialect.spec
    if reason := why_not(spec):
        raise Detectron2Missing(reason)
    import detectron2
    from detectron2.modeling import build_model

    model = build_model(detectron2_config(spec)).eval().requires_grad_(False)
    rpn = model.proposal_generator
    if spec.rpn_logits == "pair":
        rpn.rpn_head.objectness_logits = nn.Conv2d(spec.rpn_channels, spec.rpn_rows[0], 1)
    own_head = tuple(f"{layer}." for layer in dialect.attribute_layers)
    state = {name: weights[name].float() for name in expected_shapes(dialect) if not name.startswith(own_head)}
    predictor = model.roi_heads.box_predictor.bbox_pred
    if spec.boxes == "proposals":  # the boxes are not regressed, but detectron2 always computes the offsets
        state |= {f"{BOX_PRED}{name}": torch.zeros_like(tensor) for name, tensor in predictor.state_dict().items()}
    _load(model, state)
    # Since 0.6 detectron2 neither saves nor loads anchors: they are always set here.
    (cell,) = rpn.anchor_generator.cell_anchors
    cell.copy_(torch.from_numpy(anchors_px))
    if spec.stem_pool == "caffe":
        with torch.device("meta"):
            stem = Stem(spec.base_width, "caffe")
        stem.conv1 = model.backbone.stem.conv1  # with its norm
        model.backbone.stem = stem
    if spec.res5_dilated:
        res5 = model.roi_heads.res5
        for layer in (res5[0].conv1, res5[0].conv2, res5[0].shortcut):
            layer.stride = (1, 1)
        for block in res5:
            block.conv2.dilation = block.conv2.padding = (2, 2)
    head = to_network_state(weights, dialect, "head.")
    return Detectron2Network(model, spec, head, f"detectron2 {detectron2.__version__}")


def _load(model: nn.Module, state: Weights) -> None:
    """Load strictly, except for anchors and pixel means, which some versions keep in the state."""
    try:
        left = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:  # shapes
        raise Detectron2Missing(f"this version of detectron2 builds another network: {error}.") from error
    missing = [name for name in left.missing_keys if "cell_anchors" not in name and not name.startswith("pixel_")]
    if missing or left.unexpected_keys:
        raise Detectron2Missing(
            "this version of detectron2 builds another network: it also wants "
            f"{missing[:6]} and does not know {left.unexpected_keys[:6]}."
        )


class Detectron2Network(nn.Module):
    """detectron2's model with the methods of ``BottomUpNetwork``, so that ``TorchDetector`` can run it.

    Args:
        model: a GeneralizedRCNN with Res5ROIHeads, its weights loaded.
        spec: its spec.
        head: state of our ``RegionHead``, since detectron2 has no attributes.
        version: for the record.
    """

    def __init__(self, model: nn.Module, spec: DetectorSpec, head: Weights, version: str) -> None:
        super().__init__()
        self.model, self.spec, self.version = model, spec, version
        self.attributes = None
        if spec.num_attributes is not None:
            with torch.device("meta"):
                self.attributes = RegionHead(spec)
            own = {name.removeprefix("head."): tensor for name, tensor in head.items()}
            self.attributes.load_state_dict(own, strict=True, assign=True)

    def trunk(self, image: torch.Tensor) -> torch.Tensor:
        """(3, h, w) -> (1, C, H, W)."""
        return self.model.backbone(image[None].float())["res4"]

    def propose(self, trunk: torch.Tensor, height: int, width: int, scale: float) -> Proposals:
        """See ``BottomUpNetwork.propose``."""
        rpn = self.model.proposal_generator
        if self.spec.geometry == "detectron2":
            from detectron2.structures import ImageList

            # It reads only the sizes of the pictures.
            (found,), _ = rpn(ImageList(trunk, [(height, width)]), {"res4": trunk}, None)
            return Proposals(found.proposal_boxes.tensor, found.objectness_logits)
        (logits,), (deltas,) = rpn.rpn_head([trunk])
        (anchors,) = rpn.anchor_generator([trunk])
        scores, deltas = by_anchor(logits, deltas, self.spec)
        return choose_proposals(scores, deltas, anchors.tensor, height, width, scale, self.spec)

    def pool(self, trunk: torch.Tensor, boxes_px: torch.Tensor) -> Pooled:
        """See ``BottomUpNetwork.pool``."""
        from detectron2.structures import Boxes

        pooler = self.model.roi_heads.pooler
        return Pooled(boxes_px, lambda boxes: pooler([trunk], [Boxes(boxes_px[boxes])]))

    def features(self, bins: torch.Tensor) -> torch.Tensor:
        """See ``BottomUpNetwork.features``."""
        return self.model.roi_heads.res5(bins).mean(dim=(2, 3))

    def describe(self, features: torch.Tensor, boxes_px: torch.Tensor, height: int, width: int) -> Described:
        """See ``BottomUpNetwork.describe``."""
        from detectron2.structures import Boxes

        spec, predictor = self.spec, self.model.roi_heads.box_predictor
        scores, deltas = predictor(features)
        best_row = scores.argmax(dim=1)
        class_probs = scores.softmax(dim=1).roll(1 if spec.background == "last" else 0, dims=1)
        if spec.boxes == "regressed":
            moved = predictor.box2box_transform.apply_deltas(deltas, boxes_px).view(-1, spec.num_classes, 4)
            best = class_probs[:, 1:].argmax(dim=1)
            boxes = Boxes(moved[torch.arange(len(best), device=best.device), best])
            boxes.clip((height, width))
            boxes_px = boxes.tensor
        attributes = None if self.attributes is None else self.attributes.attributes(features, best_row)
        return Described(boxes_px, features, class_probs, attributes)
