"""The network's parts against plain restatements, and what distinguishes the dialects."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detectors.toy_networks import conditioned_random_network, describe_all, tiny
from xmodaler_ssattn.detectors.backbone import Bottleneck, Stem, fold_norm, resnet_stage
from xmodaler_ssattn.detectors.network import BottomUpNetwork, ProposalHead, RegionHead
from xmodaler_ssattn.detectors.proposals import move_boxes
from xmodaler_ssattn.detectors.spec import BLOCKS, DetectorSpec

DIALECTS = ("caffe", "airsplay", "milvlg_d2")


@pytest.fixture(scope="module")
def networks() -> dict[str, BottomUpNetwork]:
    return {dialect: conditioned_random_network(tiny(dialect)) for dialect in DIALECTS}


@pytest.fixture
def image() -> torch.Tensor:
    noise = torch.randn(1, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    return 60 * F.interpolate(noise, (72, 96), mode="bilinear")[0]


def test_a_folded_norm_equals_the_norm():
    conv, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5).eval()
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.1, 2)
    x = torch.randn(2, 3, 6, 7)
    parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    torch.testing.assert_close(F.conv2d(x, *fold_norm(conv.weight, *parts)), norm(conv(x)))


@pytest.mark.parametrize(("stride", "dilation", "in_1x1"), [(1, 1, True), (2, 1, True), (2, 1, False), (1, 2, True)])
def test_a_bottleneck_is_three_convolutions_and_a_shortcut(stride, dilation, in_1x1):
    block = Bottleneck(6, 4, 8, stride=stride, stride_in_1x1=in_1x1, dilation=dilation)
    x = torch.randn(1, 6, 9, 8)
    first, second = (stride, 1) if in_1x1 else (1, stride)
    expected = F.conv2d(x, block.conv1.weight, block.conv1.bias, stride=first).relu()
    expected = F.conv2d(
        expected, block.conv2.weight, block.conv2.bias, stride=second, padding=dilation, dilation=dilation
    ).relu()
    expected = F.conv2d(expected, block.conv3.weight, block.conv3.bias)
    expected = (expected + F.conv2d(x, block.shortcut.weight, block.shortcut.bias, stride=stride)).relu()
    torch.testing.assert_close(block(x.clone()), expected)


def test_the_stem_pools_without_padding_and_rounds_up_or_with_it():
    # 40 -> 20 after the convolution; (20 - 3) / 2 + 1 = 9.5 -> 10, or (20 + 2 - 3) / 2 + 1 = 10.5 -> 10
    # 43 -> 22; 10.5 -> 11, or 11.5 -> 11
    for pool, arguments in (("caffe", {"ceil_mode": True}), ("detectron2", {"padding": 1})):
        stem, x = Stem(4, pool), torch.randn(1, 3, 40, 43)
        convolved = F.conv2d(x, stem.conv1.weight, stem.conv1.bias, stride=2, padding=3).relu()
        assert torch.equal(stem(x), F.max_pool2d(convolved, 3, 2, **arguments))
        assert stem(x).shape[2:] == (10, 11)
    other = Stem(4, "caffe")
    other.load_state_dict(stem.state_dict())
    assert not torch.equal(other(x), stem(x))  # the windows begin at 0, or at -1


def test_the_full_sizes():
    with torch.device("meta"):
        network = BottomUpNetwork(DetectorSpec.caffe())
        trunk = network.backbone(torch.empty(1, 3, 600, 800))
        assert trunk.shape == (1, 1024, 38, 50)
        assert network.res5(torch.empty(2, 1024, 14, 14)).shape == (2, 2048, 14, 14)
        retrained = BottomUpNetwork(DetectorSpec.milvlg_d2())
        assert retrained.res5(torch.empty(2, 1024, 14, 14)).shape == (2, 2048, 7, 7)
        resnext = resnet_stage(
            DetectorSpec.milvlg_d2(blocks=BLOCKS[152], groups=32, group_width=8, stride_in_1x1=False), 3
        )
        assert resnext[0].conv2.weight.shape == (512, 16, 3, 3) and resnext[0].conv2.stride == (2, 2)
    assert [
        len(stage) for stage in (network.backbone.res2, network.backbone.res3, network.backbone.res4, network.res5)
    ] == [3, 4, 23, 3]
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["rpn.logits.weight"] == (24, 512, 1, 1) and shapes["head.cls_score.weight"] == (1601, 2048)
    assert shapes["head.attribute_hidden.weight"] == (512, 2304) and shapes["head.attribute_score.weight"] == (401, 512)
    shapes = {name: tuple(value.shape) for name, value in retrained.state_dict().items()}
    assert shapes["rpn.logits.weight"] == (15, 1024, 1, 1) and shapes["head.bbox_pred.weight"] == (6400, 2048)
    assert shapes["head.attribute_score.weight"] == (400, 512)


def test_the_names_of_the_state_dict():
    spec = tiny("airsplay", blocks=(1, 1, 1, 1))
    block = [f"{conv}.{kind}" for conv in ("conv1", "conv2", "conv3", "shortcut") for kind in ("weight", "bias")]
    expected = {
        f"{stage}.0.{name}" for stage in ("backbone.res2", "backbone.res3", "backbone.res4", "res5") for name in block
    }
    expected |= {
        f"{layer}.{kind}"
        for kind in ("weight", "bias")
        for layer in (
            "backbone.stem.conv1",
            "rpn.conv",
            "rpn.logits",
            "rpn.deltas",
            "head.cls_score",
            "head.bbox_pred",
            "head.attribute_hidden",
            "head.attribute_score",
        )
    }
    assert set(BottomUpNetwork(spec).state_dict()) == expected | {"head.attribute_embedding.weight"}
    plain = BottomUpNetwork(tiny(num_attributes=None))
    assert not [name for name in plain.state_dict() if "attribute" in name or "bbox_pred" in name]


def test_a_pair_of_logits_is_all_backgrounds_then_all_foregrounds():
    head = ProposalHead(tiny(anchor_sizes=(64,)))  # 3 anchors: 6 logits, 12 offsets
    x = torch.randn(1, 64, 2, 2)
    hidden = head.conv(x).relu()
    logits, deltas = head.logits(hidden)[0], head.deltas(hidden)[0]
    scores, moved = head(x)
    assert scores.shape == (12,) and moved.shape == (12, 4)
    y, x, anchor = 1, 0, 2
    row = (y * 2 + x) * 3 + anchor
    torch.testing.assert_close(scores[row], logits[[anchor, 3 + anchor], y, x].softmax(0)[1])
    torch.testing.assert_close(moved[row], deltas[4 * anchor : 4 * anchor + 4, y, x])


@torch.no_grad()
def test_anchors_of_a_weights_file_may_replace_the_computed_ones(image):
    network = conditioned_random_network(tiny("airsplay"))
    trunk = network.trunk(image)
    before = network.propose(trunk, 72, 96, 1.0)
    network.cell_anchors_px = network.cell_anchors_px / 2
    assert not torch.equal(network.propose(trunk, 72, 96, 1.0).boxes_px[:3], before.boxes_px[:3])


def test_background_comes_out_first_wherever_it_was():
    first = RegionHead(tiny(background="first"))
    last = RegionHead(tiny(background="last"))
    last.load_state_dict(first.state_dict())
    last.cls_score.weight.data = first.cls_score.weight.data.roll(-1, dims=0)
    last.cls_score.bias.data = first.cls_score.bias.data.roll(-1, dims=0)
    features = torch.rand(5, 128)
    probs, row = first.class_probs(features)
    torch.testing.assert_close(last.class_probs(features)[0], probs)
    assert torch.equal(row, probs.argmax(1)) and torch.equal((last.class_probs(features)[1] + 1) % 13, row)
    torch.testing.assert_close(probs.sum(1), torch.ones(5))


@pytest.mark.parametrize(
    ("where", "rows"), [("first", slice(1, None)), ("last", slice(0, -1)), ("absent", slice(None))]
)
def test_the_attribute_none_is_never_the_answer(where, rows):
    head = RegionHead(tiny(no_attribute=where))
    features, best = torch.rand(20, 128), torch.arange(20) % 13
    joined = torch.cat((features, head.attribute_embedding(best)), dim=1)
    scores = head.attribute_score(head.attribute_hidden(joined).relu())
    assert scores.shape[1] == (5 if where == "absent" else 6)
    assert torch.equal(head.attributes(features, best), scores[:, rows].argmax(1))


@torch.no_grad()
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_steps_equal_one_region_at_a_time(networks, image, dialect):
    network = networks[dialect]
    spec = network.spec
    trunk = network.trunk(image)
    assert trunk.shape == (1, spec.trunk_channels, 5, 6)
    proposals = network.propose(trunk, 72, 96, 1.0)
    assert 3 < len(proposals.boxes_px) <= spec.post_nms_topk
    assert (proposals.objectness.diff() <= 0).all()
    # one region at a time, the mean written out
    features = [network.res5(network.pool(trunk, box[None])[:]).sum((2, 3)) for box in proposals.boxes_px]
    features = torch.cat(features) / (14 * 14 if dialect != "milvlg_d2" else 7 * 7)
    probs, _ = network.head.class_probs(features)
    described = describe_all(network, image)
    torch.testing.assert_close(described.features, features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(described.class_probs, probs, atol=1e-5, rtol=1e-4)
    assert (described.features >= 0).all() and described.attributes.shape == (len(probs),)
    if dialect == "caffe":
        assert torch.equal(described.boxes_px, proposals.boxes_px)
    else:
        best = probs[:, 1:].argmax(1)
        deltas = network.head.bbox_pred(features)
        deltas = torch.stack([row[4 * c : 4 * c + 4] for row, c in zip(deltas, best)])
        moved = move_boxes(proposals.boxes_px, deltas, geometry="detectron2", weights=(10, 10, 5, 5))
        expected = torch.minimum(moved.clamp(min=0), torch.tensor([96.0, 72, 96, 72]))
        torch.testing.assert_close(described.boxes_px, expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(described.boxes_px, proposals.boxes_px)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_how_many_regions_go_at_once_does_not_matter(networks, image, chunk):
    network = networks["caffe"]
    one, other = (describe_all(network, image, chunk=size).features for size in (chunk, 32))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(3, 40), (40, 3), (3, 3)])
def test_the_thinnest_picture_goes_through(networks, size):
    for network in networks.values():
        described = describe_all(network, torch.randn(3, *size) * 50)
        assert described.features.shape == (len(described.boxes_px), 128)


@torch.no_grad()
def test_no_proposal_is_an_empty_answer(image):
    network = conditioned_random_network(tiny())
    described = describe_all(network, image, scale=100.0)  # a side of 1600 pixels is asked for
    assert described.boxes_px.shape == (0, 4) and described.features.shape == (0, 128)
    assert described.class_probs.shape == (0, 13) and described.attributes.shape == (0,)


@pytest.mark.parametrize(
    ("field", "value"),
    [("geometry", "fast"), ("anchors", "yolo"), ("boxes", "all"), ("align_samples", 0)],
)
def test_a_spec_that_cannot_be(field, value):
    with pytest.raises(ValueError, match=field):
        DetectorSpec(**{field: value})


def test_widths_follow_from_one_number():
    spec = DetectorSpec(base_width=8)
    assert (spec.trunk_channels, spec.feature_dim, spec.bottleneck_width, spec.num_anchors) == (128, 256, 8, 12)
    assert DetectorSpec.milvlg_d2().num_anchors == 15
    assert np.isclose(DetectorSpec().pixel_mean, (102.9801, 115.9465, 122.7717)).all()
