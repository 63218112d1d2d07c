"""Pictures in, regions out: the torch backend as a whole, on a network of a few thousand parameters."""

import functools

import numpy as np
import pytest
import torch

from detectors.toy_networks import conditioned_random_network, describe_all, tiny
from xmodaler_ssattn.detectors.detected import Detected, Detector
from xmodaler_ssattn.detectors.network import BottomUpNetwork, Described
from xmodaler_ssattn.detectors.preprocess import preprocess
from xmodaler_ssattn.detectors.selection import SelectionRule, select_regions
from xmodaler_ssattn.detectors.torch_backend import TorchDetector, select_detected
from xmodaler_ssattn.errors import UserError

DIALECTS = ("caffe", "airsplay", "milvlg_d2")


def picture(height: int = 64, width: int = 80, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    return np.kron(blocks, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


@functools.cache
def network(dialect: str, **changes) -> BottomUpNetwork:
    return conditioned_random_network(tiny(dialect, **changes))


def detector(dialect: str = "caffe", rule: SelectionRule | None = None, **changes) -> TorchDetector:
    return TorchDetector(network(dialect, **changes), rule=rule)


def same(a: Detected, b: Detected) -> None:
    assert (a.width, a.height) == (b.width, b.height)
    for name in ("boxes_px", "features", "class_probs", "confidence"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-4, rtol=1e-4, err_msg=name)
    assert np.array_equal(a.objects, b.objects) and np.array_equal(a.attributes, b.attributes)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_comes_out(dialect):
    run = detector(dialect)
    found = run.detect(picture(64, 80))
    assert isinstance(run, Detector) and (run.feature_dim, run.num_classes) == (128, 12)
    assert run.source == f"{run.spec.name} (torch backend)" and run.weights_sha256 is None
    assert (found.width, found.height, len(found)) == (80, 64, 36)
    assert found.boxes_px.shape == (36, 4) and found.features.shape == (36, 128)
    assert found.class_probs.shape == (36, 13) and found.attributes.shape == (36,)
    assert {found.boxes_px.dtype, found.features.dtype, found.class_probs.dtype, found.confidence.dtype} == {
        np.dtype("float32")
    }
    assert found.objects.dtype == found.attributes.dtype == np.int64
    assert (np.diff(found.confidence) <= 0).all() and (found.features >= 0).all()
    assert np.array_equal(found.objects, found.class_probs[:, 1:].argmax(1)) and found.attributes.max() < 5
    np.testing.assert_allclose(found.class_probs.sum(1), 1, atol=1e-5)
    assert (found.boxes_px[:, :2] <= found.boxes_px[:, 2:]).all() and (found.boxes_px >= 0).all()
    assert (found.boxes_px[:, 2] <= 80).all() and (found.boxes_px[:, 3] <= 64).all()
    assert found.boxes_px[:, 2].max() > 60 and found.boxes_px[:, 3].max() > 50  # pixels of this picture, not 0..1


@torch.no_grad()
def test_it_is_preprocess_network_and_selection():
    run, image = detector(), picture()
    tensor, scale = preprocess(image, short=96, long=160)
    described = describe_all(run.network, tensor, scale)
    boxes = described.boxes_px.numpy() / np.float32(scale)
    rows, confidence = select_regions(boxes, described.class_probs.numpy(), SelectionRule())
    found = run.detect(image)
    np.testing.assert_allclose(found.boxes_px, boxes[rows], atol=1e-4)
    np.testing.assert_allclose(found.features, described.features[rows], atol=1e-4)
    np.testing.assert_allclose(found.class_probs, described.class_probs[rows], atol=1e-5)
    np.testing.assert_allclose(found.confidence, confidence, atol=1e-5)
    assert np.array_equal(found.attributes, described.attributes.numpy()[rows])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_batch_equals_single_pictures(dialect):
    run = detector(dialect)
    images = [picture(64, 80, 0), picture(90, 50, 1), picture(20, 21, 2)]
    single = [run.detect(image) for image in images]
    for one, other in zip(run.detect_many(images), single):
        same(one, other)
    with torch.inference_mode():  # as on a GPU: the regions of all pictures together
        for one, other in zip(run._detect(images), single):
            same(one, other)
    assert run.detect_many([]) == []


def test_twice_is_the_same_to_the_last_bit():
    fresh = TorchDetector(conditioned_random_network(tiny()))
    one, other = detector().detect(picture()), fresh.detect(picture())
    for name in ("boxes_px", "features", "class_probs", "confidence", "objects", "attributes"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_between_ten_and_a_hundred():
    fixed, adaptive = detector().detect(picture()), detector(rule=SelectionRule(5, 100, 0.2)).detect(picture())
    passing = int((adaptive.confidence >= 0.2).sum())
    assert len(adaptive) == max(passing, 5) != 36
    both = min(len(adaptive), 36)
    assert np.array_equal(adaptive.boxes_px[:both], fixed.boxes_px[:both])


def test_a_small_picture_has_the_regions_that_it_has():
    found = detector(rpn_nms=0.3).detect(picture(24, 24))
    assert 0 < len(found) < 36  # never repeated to make up the number
    assert len(np.unique(found.boxes_px, axis=0)) == len(found)


def test_the_original_finds_nothing_in_a_picture_smaller_than_its_smallest_box():
    assert len(detector().detect(picture(15, 40))) == 0  # 16 pixels of the original picture
    assert len(detector().detect(picture(20, 40))) > 0
    assert len(detector("airsplay").detect(picture(15, 40))) > 0


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_pixel(dialect):
    found = detector(dialect).detect(np.full((1, 1, 3), 200, dtype=np.uint8))
    assert (found.width, found.height) == (1, 1) and np.isfinite(found.features).all()
    assert (found.boxes_px <= 1).all() and (len(found) == 0) == (dialect == "caffe")


def test_no_proposal_no_region():
    found = detector(min_size=1e6).detect(picture())
    assert len(found) == 0 and found.boxes_px.shape == (0, 4) and found.class_probs.shape == (0, 13)
    assert found.attributes.shape == found.objects.shape == (0,)


def test_a_thread_of_a_picture_is_refused():
    with pytest.raises(UserError, match="1000 x 1 pixels"):
        detector().detect(picture(1, 1000))


def test_without_attributes():
    assert detector(num_attributes=None).detect(picture()).attributes is None


def test_a_box_beyond_the_rounded_border_ends_at_the_picture():
    described = Described(
        torch.tensor([[-2, 4, 200.8, 100.4]]), torch.ones(1, 4), torch.tensor([[0.1, 0.9]]), attributes=None
    )
    found = select_detected(100, 50, described, 2.0, SelectionRule())
    assert found.boxes_px.tolist() == [[0, 2, 100, 50]] and found.attributes is None
