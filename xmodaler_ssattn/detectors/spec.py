"""The differences between the published Bottom-Up detectors, as one frozen record.

All are Faster R-CNNs with a ResNet "C4" trunk, trained on Visual Genome (1600 classes, 400 attributes). They differ in
a dozen details, each of which changes the boxes. Every difference is a field here, and the network and the operators
depend only on these fields.
"""

from __future__ import annotations

import dataclasses
from typing import Any

BACKENDS = ("auto", "torch", "detectron2")  # of Bottom-Up networks
CAFFE_PIXEL_MEAN = (102.9801, 115.9465, 122.7717)
DETECTRON2_PIXEL_MEAN = (103.530, 116.280, 123.675)
# Depth -> blocks of res2, res3, res4 and res5.
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STRIDE = 16  # pixels of the network's input to one position of res4

CHOICES = {
    "stem_pool": ("caffe", "detectron2"),
    "anchors": ("caffe", "detectron2"),
    "rpn_logits": ("pair", "single"),
    "geometry": ("caffe", "detectron2"),
    "roi_op": ("pool", "align"),
    "background": ("first", "last"),
    "boxes": ("proposals", "regressed"),
    "no_attribute": ("first", "last", "absent"),
}


@dataclasses.dataclass(frozen=True)
class DetectorSpec:
    """A Bottom-Up detector. The defaults are the original Caffe network; see the class methods for the others.

    Attributes:
        name: name of the dialect, for messages and for the region file.
        blocks: of res2, res3, res4 and res5; those of a ResNet-50, 101 or 152 are in ``BLOCKS``.
        base_width: channels after the stem; res2 has 4 times as many, res5 (the feature) 32 times.
        groups, group_width: of the 3x3 convolutions in res2 (later stages double the width); 1 and None for a ResNet,
            32 and 8 for the ResNeXt-152.
        stride_in_1x1: where a stage halves the map: in the first block's 1x1 convolution, or in its 3x3.
        stem_pool: "caffe" 3x3/2 without padding, rounded up; "detectron2" 3x3/2 with one pixel of padding.
        res5_dilated: True: res5 keeps all bins and its 3x3 convolutions are dilated by 2. False: its first block
            halves them, as usual.
        num_classes: without background.
        num_attributes: without "no attribute"; None for a network without the attribute head.
        attribute_embedding, attribute_hidden: widths of that head.
        background: the row of ``cls_score`` for the background. In the network's output it is always first.
        no_attribute: the row of the attribute scores for "none"; "absent" when there is no such row.
        anchors: "caffe": ratio by ratio, the rounded boxes of the original; "detectron2": size by size.
        anchor_sizes: side lengths in pixels of the network's input.
        rpn_channels: of the RPN's hidden layer.
        rpn_logits: "pair": 2A logits, all backgrounds first, softmax over each pair; "single": A logits.
        geometry: "caffe": a box from x1 to x2 is x2 - x1 + 1 wide, boxes end at W - 1, small ones (``min_size`` times
            the picture's scale) go before the sort, suppression at IoU >= threshold; "detectron2": x2 - x1 wide,
            boxes end at W, after the sort those not larger than ``min_size`` go, suppression at IoU > threshold.
        min_size: see ``geometry``.
        pre_nms_topk, post_nms_topk, rpn_nms: proposals before and after the suppression, and its threshold.
        roi_op: "pool": rounded maxima; "align": bilinear samples, ``align_samples`` squared per bin.
        pool_size: bins on a side of a region.
        boxes: "proposals": a region's box is the proposal; "regressed": the proposal moved by the regression of its
            most probable class, with ``box_weights``.
        pixel_mean: blue, green, red; subtracted from 0..255.
        short_side, long_side: the picture is scaled so that its short side has this many pixels, unless its long
            side would have more than ``long_side``.
    """

    name: str = "caffe"
    blocks: tuple[int, int, int, int] = BLOCKS[101]
    base_width: int = 64
    groups: int = 1
    group_width: int | None = None
    stride_in_1x1: bool = True
    stem_pool: str = "caffe"
    res5_dilated: bool = True
    num_classes: int = 1600
    num_attributes: int | None = 400
    attribute_embedding: int = 256
    attribute_hidden: int = 512
    background: str = "first"
    no_attribute: str = "first"
    anchors: str = "caffe"
    anchor_sizes: tuple[int, ...] = (64, 128, 256, 512)
    rpn_channels: int = 512
    rpn_logits: str = "pair"
    geometry: str = "caffe"
    min_size: float = 16.0
    pre_nms_topk: int = 6000
    post_nms_topk: int = 300
    rpn_nms: float = 0.7
    roi_op: str = "pool"
    pool_size: int = 14
    align_samples: int = 2
    boxes: str = "proposals"
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    pixel_mean: tuple[float, float, float] = CAFFE_PIXEL_MEAN
    short_side: int = 600
    long_side: int = 1000

    def __post_init__(self) -> None:
        for field, choices in CHOICES.items():
            if getattr(self, field) not in choices:
                raise ValueError(f"DetectorSpec.{field} must be one of {choices}, got {getattr(self, field)!r}.")
        if self.align_samples < 1:
            raise ValueError(f"DetectorSpec.align_samples must be at least 1, got {self.align_samples}.")

    @property
    def bottleneck_width(self) -> int:
        """Channels between the 1x1 convolutions of res2."""
        return self.groups * (self.group_width or self.base_width // self.groups)

    @property
    def feature_dim(self) -> int:
        return 32 * self.base_width

    @property
    def trunk_channels(self) -> int:
        """Channels of res4, from which proposals and regions are read."""
        return 16 * self.base_width

    @property
    def num_anchors(self) -> int:
        """Anchors per position: three ratios of each size."""
        return 3 * len(self.anchor_sizes)

    @property
    def rpn_rows(self) -> tuple[int, int]:
        """Logits and offsets of the proposal network per position."""
        return self.num_anchors * (2 if self.rpn_logits == "pair" else 1), 4 * self.num_anchors

    @property
    def attribute_rows(self) -> int | None:
        """Rows of the attribute scores, with the one for "none" if there is one."""
        return None if self.num_attributes is None else self.num_attributes + (self.no_attribute != "absent")

    @classmethod
    def caffe(cls, **changes: Any) -> DetectorSpec:
        """The original network as converted by MILVLG: the features that the papers use."""
        return cls(**{"name": "milvlg-caffe", **changes})

    @classmethod
    def airsplay(cls, **changes: Any) -> DetectorSpec:
        """The original weights as converted for detectron2 by airsplay, with detectron2's anchors and geometry."""
        return cls(
            **{
                "name": "airsplay",
                "background": "last",
                "no_attribute": "last",
                "anchors": "detectron2",
                "rpn_logits": "single",
                "geometry": "detectron2",
                "min_size": 0.0,
                "boxes": "regressed",
                **changes,
            }
        )

    @classmethod
    def milvlg_d2(cls, **changes: Any) -> DetectorSpec:
        """The C4 networks that MILVLG retrained with detectron2."""
        return cls(
            **{
                "name": "milvlg-d2",
                "stem_pool": "detectron2",
                "res5_dilated": False,
                "background": "last",
                "no_attribute": "absent",
                "anchors": "detectron2",
                "anchor_sizes": (32, 64, 128, 256, 512),
                "rpn_channels": 1024,
                "rpn_logits": "single",
                "geometry": "detectron2",
                "min_size": 0.0,
                "post_nms_topk": 1000,
                "roi_op": "align",
                "boxes": "regressed",
                "pixel_mean": DETECTRON2_PIXEL_MEAN,
                **changes,
            }
        )
