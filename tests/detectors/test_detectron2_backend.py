"""detectron2 and the project's own network with the same weights say the same, step by step and in the end.

These tests run where detectron2 can be imported; pytest's summary says so where it cannot.
"""

import numpy as np
import pytest
import torch

from detectors.toy_networks import conditioned_random_network, from_network_state, tiny
from xmodaler_ssattn.detectors.detectron2_backend import Detectron2Missing, build_detectron2_network, why_not
from xmodaler_ssattn.detectors.dialects import CELL_ANCHORS
from xmodaler_ssattn.detectors.loading import build_network, load_detector, open_weights
from xmodaler_ssattn.detectors.preprocess import preprocess
from xmodaler_ssattn.detectors.proposals import cell_anchors
from xmodaler_ssattn.detectors.spec import BLOCKS, DetectorSpec
from xmodaler_ssattn.detectors.torch_backend import TorchDetector, features_in_chunks

# The last two: the ResNeXt of MILVLG, and a network without attributes.
NETWORKS = {
    "caffe": ("caffe", {}),
    "airsplay": ("airsplay", {}),
    "milvlg_d2": ("milvlg_d2", {}),
    "grouped": ("milvlg_d2", {"groups": 2, "group_width": 8, "stride_in_1x1": False, "pool_size": 7}),
    "plain": ("airsplay", {"num_attributes": None}),
}
# A ResNet-50, since detectron2 builds no other depths than the published ones, an eighth as wide.
SMALL = {"blocks": BLOCKS[50], "base_width": 8, "num_classes": 20, "num_attributes": 6, "rpn_channels": 32}


@pytest.fixture(scope="module", autouse=True)
def _detectron2():
    reason = why_not(DetectorSpec())
    if reason:
        pytest.skip(f"THE TWO BACKENDS ARE NOT COMPARED HERE: {reason}")


def picture(height, width):
    """Blobs of every size."""
    draw, out = torch.Generator().manual_seed(2), torch.zeros(1, 3, height, width)
    for cells in (2, 4, 8, 16, 32, 64):
        noise = torch.randn(1, 3, cells, cells, generator=draw)
        out += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
    return (120 + 40 * out[0]).clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)


@pytest.fixture(scope="module", params=NETWORKS)
def both(request, tmp_path_factory):
    """Our network and detectron2's of one file with random norms."""
    kind, changes = NETWORKS[request.param]
    spec = getattr(DetectorSpec, kind)(**{**SMALL, **changes})
    path = tmp_path_factory.mktemp(request.param) / "w.pth"
    torch.save({"model": from_network_state(conditioned_random_network(spec).state_dict(), spec, seed=5)}, path)
    file = open_weights(path)
    return build_network(file), build_detectron2_network(file.weights, file.dialect, file.anchors_px)


@torch.inference_mode()
def test_every_step_from_the_same_input_gives_the_same(both):
    ours, theirs = both
    image, scale = preprocess(picture(120, 150), short=192, long=320, mean=ours.spec.pixel_mean)
    height, width = image.shape[1:]
    trunk, other = ours.trunk(image), theirs.trunk(image)
    # Norms folded in double or applied in single precision: they differ only by rounding.
    assert trunk.shape == other.shape
    assert (trunk - other).abs().max() < 1e-4 * trunk.abs().max()
    proposals, others = ours.propose(trunk, height, width, scale), theirs.propose(trunk, height, width, scale)
    assert len(proposals.boxes_px) > 100
    torch.testing.assert_close(others.boxes_px, proposals.boxes_px, rtol=0, atol=1e-3)
    torch.testing.assert_close(others.objectness, proposals.objectness, rtol=1e-5, atol=1e-5)
    boxes = proposals.boxes_px[:64]
    bins, other_bins = (each.pool(trunk, boxes) for each in both)
    torch.testing.assert_close(other_bins[3:9], bins[3:9], rtol=1e-5, atol=1e-5)
    features, other_features = features_in_chunks(ours, [bins], 16), features_in_chunks(theirs, [other_bins], 16)
    torch.testing.assert_close(other_features, features, rtol=1e-4, atol=1e-4)
    described, others = (each.describe(features, boxes, height, width) for each in both)
    torch.testing.assert_close(others.boxes_px, described.boxes_px, rtol=0, atol=1e-3)
    torch.testing.assert_close(others.class_probs, described.class_probs, rtol=1e-4, atol=1e-6)
    assert (described.attributes is None) == (ours.spec.num_attributes is None)
    assert described.attributes is None or torch.equal(others.attributes, described.attributes)


def test_the_regions_in_the_end_are_the_same(both):
    """Matched by box and class: where two scores are equal up to rounding, either may come first."""
    found, others = (TorchDetector(network).detect(picture(90, 120)) for network in both)
    assert len(found) == len(others) == 36
    boxes = np.abs(found.boxes_px[:, None] - others.boxes_px).max(axis=2)  # pixels
    probs = np.abs(found.class_probs[:, None] - others.class_probs).max(axis=2)
    mate = (boxes + 100 * probs).argmin(axis=1)
    pairs = np.arange(36), mate
    same = (boxes[pairs] < 0.1) & (probs[pairs] < 1e-3)
    assert same.sum() >= 35
    np.testing.assert_allclose(others.features[mate[same]], found.features[same], rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(others.confidence[mate[same]], found.confidence[same], atol=1e-3)


@torch.inference_mode()
def test_a_picture_without_proposals_has_no_regions(both):
    _, theirs = both
    none = torch.zeros(0, 4)
    features = features_in_chunks(theirs, [theirs.pool(torch.zeros(1, 128, 6, 6), none)], 16)
    described = theirs.describe(features, none, 96, 96)
    assert features.shape == (0, 256) and described.boxes_px.shape == (0, 4)
    assert described.class_probs.shape == (0, 21) and (described.attributes is None or len(described.attributes) == 0)


def test_the_anchors_are_set_whatever_detectron2_computes(tmp_path):
    """Since 0.6 it ignores those in a file: here they come in the opposite order, as do the rows that use them."""
    spec = DetectorSpec.airsplay(**SMALL)
    network = conditioned_random_network(spec)
    weights = from_network_state(network.state_dict(), spec)
    backwards = np.ascontiguousarray(cell_anchors(spec.anchors, spec.anchor_sizes)[::-1])
    for layer, rows in (("objectness_logits", 1), ("anchor_deltas", 4)):
        for part in ("weight", "bias"):
            tensor = weights[f"proposal_generator.rpn_head.{layer}.{part}"]
            weights[f"proposal_generator.rpn_head.{layer}.{part}"] = (
                tensor.view(12, rows, *tensor.shape[1:]).flip(0).reshape(tensor.shape)
            )
    torch.save({**weights, CELL_ANCHORS: torch.from_numpy(backwards)}, tmp_path / "w.pth")
    file = open_weights(tmp_path / "w.pth")
    theirs = build_detectron2_network(file.weights, file.dialect, file.anchors_px)
    with torch.inference_mode():
        trunk = torch.randn(1, 128, 9, 12, generator=torch.Generator().manual_seed(0)).relu()
        expected = network.propose(trunk, 140, 190, 1.0).boxes_px
        torch.testing.assert_close(theirs.propose(trunk, 140, 190, 1.0).boxes_px, expected, rtol=0, atol=1e-3)


def test_the_detector_names_its_backend(tmp_path):
    spec = DetectorSpec.milvlg_d2(**SMALL)
    torch.save(from_network_state(conditioned_random_network(spec).state_dict(), spec), tmp_path / "w.pth")
    detector = load_detector(tmp_path / "w.pth", device="cpu")
    assert detector.source.startswith("milvlg-d2 (detectron2 ")
    assert len(detector.detect(picture(60, 80))) > 0


def test_a_depth_that_detectron2_does_not_build_is_refused_with_the_reason(tmp_path):
    spec = tiny()
    torch.save(from_network_state(conditioned_random_network(spec).state_dict(), spec), tmp_path / "w.pth")
    file = open_weights(tmp_path / "w.pth")
    with pytest.raises(Detectron2Missing, match=r"no ResNet with \(1, 1, 1, 2\) blocks"):
        build_detectron2_network(file.weights, file.dialect, file.anchors_px)
    assert load_detector(tmp_path / "w.pth", device="cpu").source.endswith("(torch backend)")
