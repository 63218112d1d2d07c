"""Weights files by names and shapes: each dialect is known, and nothing may be missing, unknown or of another shape."""

import logging
import re

import pytest
import torch

from detectors.toy_networks import conditioned_random_network, dialect_for, from_network_state, tiny
from xmodaler_ssattn.detectors.dialects import check_finite, dialect_of, expected_shapes, to_network_state
from xmodaler_ssattn.detectors.network import BottomUpNetwork
from xmodaler_ssattn.detectors.spec import BLOCKS, DetectorSpec
from xmodaler_ssattn.errors import UserError

KINDS = ("caffe", "airsplay", "milvlg_d2")
PICTURE = 60 * torch.randn(3, 96, 128, generator=torch.Generator().manual_seed(7))


def shapes_of(weights):
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def weights_of(kind="caffe", seed=None, **changes):
    """A synthetic file of a dialect, and the network that it is of."""
    network = conditioned_random_network(tiny(kind, **changes))
    return from_network_state(network.state_dict(), network.spec, seed=seed), network


@pytest.fixture(scope="module")
def caffe():
    return shapes_of(weights_of()[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 3], ids=["plain norms", "random norms"])
def test_a_network_written_in_a_dialect_and_read_again_says_the_same(kind, seed):
    weights, network = weights_of(kind, seed)
    dialect = dialect_of(shapes_of(weights))
    again = BottomUpNetwork(dialect.spec).eval()
    again.load_state_dict(to_network_state(weights, dialect), strict=True)
    with torch.inference_mode():
        for ours, theirs in zip(network.trunk(PICTURE), again.trunk(PICTURE)):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 if seed else 0)
        # From here on one trunk, so that rounding cannot decide which of two equal proposals is kept.
        trunk = network.trunk(PICTURE)
        boxes = network.propose(trunk, 96, 128, 1.0).boxes_px[:20]
        described = [
            each.describe(each.features(each.pool(trunk, boxes)[:]), boxes, 96, 128) for each in (network, again)
        ]
    assert len(boxes) == 20
    for ours, theirs in zip(*described):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 if seed else 0)


def test_without_random_norms_the_numbers_come_back_bit_by_bit():
    weights, network = weights_of("airsplay")
    state = to_network_state(weights, dialect_of(shapes_of(weights)))
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("kind, name", list(zip(KINDS, ("milvlg-caffe", "airsplay", "milvlg-d2"))))
@pytest.mark.parametrize("depth", [50, 101, 152])
def test_the_published_sizes_are_recognised(kind, name, depth, caplog):
    spec = getattr(DetectorSpec, kind)(blocks=BLOCKS[depth])
    with caplog.at_level(logging.WARNING):
        dialect = dialect_of(expected_shapes(dialect_for(spec)))
    assert (dialect.name, dialect.spec) == (name, spec)
    assert not caplog.records


def test_the_names_and_shapes_are_those_of_the_published_files():
    """Written down from the authors' network definitions. 2048 + 256 = 2304; 12 anchors x 2 = 24, x 4 = 48."""
    caffe = expected_shapes(dialect_for(DetectorSpec.caffe()))
    assert caffe["backbone.stem.conv1.weight"] == (64, 3, 7, 7)
    assert caffe["backbone.stem.conv1.norm.running_var"] == (64,)
    assert caffe["backbone.res4.22.conv2.weight"] == (256, 256, 3, 3)
    assert caffe["roi_heads.res5.0.shortcut.norm.bias"] == (2048,)
    assert caffe["proposal_generator.rpn_head.conv.weight"] == (512, 1024, 3, 3)
    assert caffe["proposal_generator.rpn_head.objectness_logits.weight"] == (24, 512, 1, 1)
    assert caffe["proposal_generator.rpn_head.anchor_deltas.bias"] == (48,)
    assert caffe["roi_heads.box_predictor.cls_score.weight"] == (1601, 2048)
    assert caffe["roi_heads.box_predictor.cls_embed.weight"] == (1601, 256)
    assert caffe["roi_heads.box_predictor.attr_linear1.weight"] == (512, 2304)
    assert caffe["roi_heads.box_predictor.attr_linear2.bias"] == (401,)
    airsplay = expected_shapes(dialect_for(DetectorSpec.airsplay()))
    assert airsplay["proposal_generator.rpn_head.objectness_logits.weight"] == (12, 512, 1, 1)
    assert airsplay["roi_heads.box_predictor.bbox_pred.weight"] == (6400, 2048)
    assert airsplay["roi_heads.box_predictor.cls_embedding.weight"] == (1601, 256)
    assert airsplay["roi_heads.box_predictor.fc_attr.bias"] == (512,)
    assert airsplay["roi_heads.box_predictor.attr_score.weight"] == (401, 512)
    milvlg = expected_shapes(dialect_for(DetectorSpec.milvlg_d2()))
    assert milvlg["proposal_generator.rpn_head.conv.bias"] == (1024,)
    assert milvlg["proposal_generator.rpn_head.anchor_deltas.weight"] == (60, 1024, 1, 1)
    assert milvlg["roi_heads.attribute_predictor.obj_embed.weight"] == (1601, 256)
    assert milvlg["roi_heads.attribute_predictor.fc.0.weight"] == (512, 2304)
    assert milvlg["roi_heads.attribute_predictor.attr_score.weight"] == (400, 512)


def test_the_resnext_of_milvlg_is_recognised_by_its_grouped_convolutions():
    """32 groups of 8 channels: 256 channels that each see 8."""
    spec = DetectorSpec.milvlg_d2(blocks=BLOCKS[152], groups=32, group_width=8, stride_in_1x1=False, pool_size=7)
    shapes = expected_shapes(dialect_for(spec))
    assert shapes["backbone.res2.0.conv2.weight"] == (256, 8, 3, 3)
    assert dialect_of(shapes).spec == spec


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_without_attribute_head_is_a_network_without_one(kind):
    spec = getattr(DetectorSpec, kind)(num_attributes=None)
    assert dialect_of(expected_shapes(dialect_for(spec))).spec.num_attributes is None


def test_what_detectron2_keeps_beside_the_weights_is_no_problem(caffe):
    extra = {
        "pixel_mean": (3, 1, 1),
        "pixel_std": (3, 1, 1),
        "backbone.res2.0.conv1.norm.num_batches_tracked": (),
        "proposal_generator.anchor_generator.cell_anchors.0": (12, 4),
    }
    assert dialect_of({**caffe, **extra}) == dialect_of(caffe)
    without = {name: shape for name, shape in caffe.items() if "bbox_pred" not in name}
    assert len(without) < len(caffe) and dialect_of(without) == dialect_of(caffe)


def test_everything_that_is_missing_unknown_or_of_another_shape_is_said_at_once(caffe):
    shapes = dict(caffe)
    del shapes["roi_heads.res5.1.conv2.norm.bias"], shapes["roi_heads.box_predictor.cls_score.bias"]
    shapes |= {
        "roi_heads.mask_head.weight": (4, 4),
        "head.cls_score.weight": (13, 128),
        "backbone.res3.0.conv2.weight": (9, 8, 3, 3),
    }
    with pytest.raises(UserError) as error:
        dialect_of(shapes, "w.pth")
    assert str(error.value) == (
        "Detector weights: w.pth are read as milvlg-caffe and cannot be used; 3 problems:\n"
        "  1. tensors are missing: 2: roi_heads.res5.1.conv2.norm.bias, roi_heads.box_predictor.cls_score.bias\n"
        "  2. tensors are not known: 2: roi_heads.mask_head.weight, head.cls_score.weight\n"
        "  3. shapes are wrong: 1: backbone.res3.0.conv2.weight is 9 x 8 x 3 x 3, expected 8 x 8 x 3 x 3"
    )


def test_a_block_that_is_missing_at_full_size_is_named_and_no_smaller_network_assumed():
    shapes = expected_shapes(dialect_for(DetectorSpec.caffe()))
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("backbone.res4.22.")}
    # three convolutions with a norm of four numbers each: 3 x 5 = 15 tensors
    with pytest.raises(UserError, match=r"tensors are missing: 15: backbone\.res4\.22\.conv1\.weight.* and 3 more$"):
        dialect_of(shapes)


def test_half_an_attribute_head_is_incomplete(caffe):
    shapes = {name: shape for name, shape in caffe.items() if "attr_linear" not in name}
    with pytest.raises(UserError, match=r"missing: 4: roi_heads\.box_predictor\.attr_linear1\.weight"):
        dialect_of(shapes)


def test_attribute_names_of_one_dialect_do_not_pass_in_another(caffe):
    shapes = {name.replace("cls_embed.", "cls_embedding."): shape for name, shape in caffe.items()}
    with pytest.raises(UserError, match=r"missing: 1: \S+cls_embed\.weight\n.*not known: 1: \S+cls_embedding\.weight"):
        dialect_of(shapes)


def test_a_network_of_another_kind_is_told_what_it_lacks():
    captioner = {"encoder.embed.weight": (1000, 2048), "decoder.lstm.weight_ih": (4000, 1000), "decoder.fc.bias": (9,)}
    with pytest.raises(
        UserError,
        match=r"model\.pth: this is not a Bottom-Up detector\. It lacks backbone\.stem\.conv1\.weight, "
        r".*cls_score\.weight; it has 3: encoder\.embed\.weight, decoder",
    ):
        dialect_of(captioner, "model.pth")


@pytest.mark.parametrize(
    "name, words",
    [
        ("backbone.stem.norm.weight", "norms come before its convolutions"),
        ("roi_heads.res5_bn.running_mean", "norms come before its convolutions"),
        ("backbone.fpn.fpn_inner2.weight", "a feature pyramid"),
        ("module.backbone.fpn.fpn_layer1.bias", "a feature pyramid"),
    ],
)
def test_relatives_that_are_not_supported_are_called_by_their_names(caffe, name, words):
    with pytest.raises(UserError, match=f"{words}.*It is not supported"):
        dialect_of({**caffe, name: (64,)})


@pytest.mark.parametrize("logits, deltas", [(12, 60), (9, 36), (30, 60)])
def test_other_numbers_of_anchors_are_refused(caffe, logits, deltas):
    head = "proposal_generator.rpn_head"
    shapes = {
        **caffe,
        f"{head}.objectness_logits.weight": (logits, 16, 1, 1),
        f"{head}.anchor_deltas.weight": (deltas, 16, 1, 1),
    }
    with pytest.raises(UserError, match=rf"has {logits} rows and .* {deltas}; expected 24 and 48 \(milvlg-caffe\), 12"):
        dialect_of(shapes)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("backbone.stem.conv1.weight", (0, 3, 7, 7)),
        ("backbone.res2.0.conv2.weight", (4, 0, 3, 3)),
        ("roi_heads.box_predictor.cls_score.weight", (13,)),
        ("proposal_generator.rpn_head.anchor_deltas.weight", ()),
    ],
)
def test_shapes_from_which_nothing_follows_are_an_error_not_a_crash(caffe, name, shape):
    with pytest.raises(UserError, match=re.escape(name)):
        dialect_of({**caffe, name: shape})


def test_a_block_number_beyond_reason_builds_no_network_of_that_size(caffe):
    with pytest.raises(UserError, match=r"not known: 1: backbone\.res2\.4000000000\.conv1\.weight"):
        dialect_of({**caffe, "backbone.res2.4000000000.conv1.weight": (4, 4, 1, 1)})


def test_numbers_that_are_not_finite_are_found():
    with pytest.raises(UserError, match="not finite, in 2: a, c"):
        check_finite({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2), "c": torch.tensor(float("inf"))})
    check_finite({"a": torch.ones(2), "n": torch.tensor(3)})


def test_another_number_of_classes_is_read_with_a_warning(caffe, caplog):
    with caplog.at_level(logging.WARNING):
        assert dialect_of(caffe, "w.pth").spec.num_classes == 12
    assert "w.pth: 12 classes; the published detectors have 1600" in caplog.text
