"""From a weights file to a detector: every container, anchors and means of the file, and the choice of the backend."""

import hashlib
import logging
import pickle
import sys

import numpy as np
import pytest
import torch

from detectors.toy_networks import conditioned_random_network, from_network_state, tiny
from xmodaler_ssattn.detectors import detectron2_backend
from xmodaler_ssattn.detectors.detected import Detector
from xmodaler_ssattn.detectors.dialects import CELL_ANCHORS
from xmodaler_ssattn.detectors.loading import build_network, export_classifier, load_detector, open_weights
from xmodaler_ssattn.detectors.proposals import cell_anchors
from xmodaler_ssattn.errors import UserError

KINDS = ("caffe", "airsplay", "milvlg_d2")
PICTURE = 60 * torch.randn(3, 96, 128, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def networks():
    return {kind: conditioned_random_network(tiny(kind)) for kind in KINDS}


def weights_of(network, **extra):
    return {**from_network_state(network.state_dict(), network.spec), **extra}


def saved(path, weights):
    torch.save({"model": weights}, path)
    return path


def as_zip(path, weights):
    torch.save({"model": weights, "iteration": np.int64(9)}, path)


def as_legacy(path, weights):
    torch.save(weights, path, _use_new_zipfile_serialization=False)


def as_pickle(path, weights):
    content = {"model": {name: tensor.numpy() for name, tensor in weights.items()}, "__author__": "a"}
    path.write_bytes(pickle.dumps(content))


def as_parallel(path, weights):
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("write", [as_zip, as_legacy, as_pickle, as_parallel])
def test_every_dialect_in_every_container_is_the_network_that_was_written(tmp_path, networks, kind, write):
    network = networks[kind]
    write(tmp_path / "w", weights_of(network))
    file = open_weights(tmp_path / "w")
    again = build_network(file)
    assert file.dialect.name == network.spec.name
    assert not any(parameter.is_meta for parameter in again.parameters())
    with torch.inference_mode():
        trunk = network.trunk(PICTURE)
        assert torch.equal(trunk, again.trunk(PICTURE))
        boxes = network.propose(trunk, 96, 128, 1.0).boxes_px[:10]
        for ours, theirs in zip(
            *(each.describe(each.features(each.pool(trunk, boxes)[:]), boxes, 96, 128) for each in (network, again))
        ):
            assert torch.equal(ours, theirs)


def test_a_file_in_half_precision_becomes_a_network_of_single(tmp_path, networks):
    weights = {name: tensor.half() for name, tensor in weights_of(networks["caffe"]).items()}
    network = build_network(open_weights(saved(tmp_path / "w.pth", weights)))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_the_detector_is_one_and_knows_its_file(tmp_path, networks, caplog):
    path = saved(tmp_path / "w.pth", weights_of(networks["caffe"]))
    with caplog.at_level(logging.INFO):
        detector = load_detector(path, backend="torch", device="cpu", min_max_boxes=(3, 5))
    assert isinstance(detector, Detector)
    assert detector.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert detector.weights_sha256 in caplog.text and "milvlg-caffe" in detector.source
    assert (detector.feature_dim, detector.num_classes) == (128, 12)
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    found = detector.detect(picture)
    assert 3 <= len(found) <= 5
    again = load_detector(path, backend="torch", device="cpu", min_max_boxes=(3, 5)).detect(picture)
    assert np.array_equal(found.features, again.features) and np.array_equal(found.boxes_px, again.boxes_px)


def test_a_pixel_mean_in_the_file_is_the_one_used(tmp_path, networks):
    weights = weights_of(networks["milvlg_d2"])
    assert open_weights(saved(tmp_path / "w.pth", weights)).spec.pixel_mean == (103.530, 116.280, 123.675)
    mean = {"pixel_mean": torch.tensor([100.5, 110.25, 120.0]).view(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert open_weights(saved(tmp_path / "w.pth", {**weights, **mean})).spec.pixel_mean == (100.5, 110.25, 120.0)
    with pytest.raises(UserError, match=r"w\.pth divides pixels by \[57\.0"):
        open_weights(saved(tmp_path / "w.pth", {**weights, **mean, "pixel_std": torch.full((3,), 57.0)}))
    with pytest.raises(UserError, match=r"has the pixel mean \(0\.4, 500\.0, 1\.0\)"):
        open_weights(saved(tmp_path / "w.pth", {**weights, "pixel_mean": torch.tensor([0.4, 500.0, 1.0])}))


@pytest.mark.parametrize("kind", KINDS)
def test_anchors_in_the_file_that_are_ours_change_nothing(tmp_path, networks, kind, caplog):
    spec = networks[kind].spec
    anchors = torch.from_numpy(cell_anchors(spec.anchors, spec.anchor_sizes))
    file = open_weights(saved(tmp_path / "w.pth", weights_of(networks[kind], **{CELL_ANCHORS: anchors})))
    assert np.array_equal(file.anchors_px, anchors.numpy()) and "anchors differ" not in caplog.text


def test_anchors_in_the_file_are_used_where_they_differ_by_a_pixel_or_in_their_order(tmp_path, networks, caplog):
    """A box moved by one pixel, and the order reversed: the proposals follow the file."""
    ours = cell_anchors("caffe", (64, 128, 256, 512))
    for theirs in (ours + np.float32(1), ours[::-1].copy()):
        weights = weights_of(networks["caffe"], **{CELL_ANCHORS: torch.from_numpy(theirs)})
        network = build_network(open_weights(saved(tmp_path / "w.pth", weights)))
        assert np.array_equal(network.cell_anchors_px, theirs)
        assert "its anchors differ from those of milvlg-caffe" in caplog.text
        with torch.inference_mode():
            trunk = network.trunk(PICTURE)
            moved = network.propose(trunk, 96, 128, 1.0).boxes_px
            usual = networks["caffe"].propose(trunk, 96, 128, 1.0).boxes_px
        assert moved.shape != usual.shape or not torch.equal(moved, usual)
        caplog.clear()


@pytest.mark.parametrize(
    "theirs",
    [
        cell_anchors("detectron2", (64, 128, 256, 512)),
        cell_anchors("caffe", (32, 64, 128, 256)),
        cell_anchors("caffe", (64, 128, 256, 512))[:9],
        np.repeat(cell_anchors("caffe", (64, 128, 256, 512))[:1], 12, axis=0),
        cell_anchors("caffe", (64, 128, 256, 512)) + np.float32(5),
    ],
    ids=["detectron2's", "of other sizes", "too few", "one twelve times", "moved by 5 pixels"],
)
def test_anchors_of_another_network_are_refused(tmp_path, networks, theirs):
    weights = weights_of(networks["caffe"], **{CELL_ANCHORS: torch.from_numpy(theirs)})
    with pytest.raises(
        UserError,
        match=r"w\.pth has other anchors than milvlg-caffe\. First of the file: .* expected "
        r"\[-38\.0, -16\.0, 53\.0, 31\.0",
    ):
        open_weights(saved(tmp_path / "w.pth", weights))


def test_numbers_that_are_not_finite_are_refused(tmp_path, networks):
    weights = weights_of(networks["caffe"])
    weights["roi_heads.res5.0.conv1.norm.bias"] = torch.full((32,), float("nan"))
    with pytest.raises(UserError, match=r"w\.pth: numbers that are not finite, in 1: roi_heads\.res5\.0\.conv1\."):
        open_weights(saved(tmp_path / "w.pth", weights))


def test_a_captioners_checkpoint_is_refused_with_what_it_lacks(tmp_path):
    path = saved(tmp_path / "model_0001.pth", {"token_embed.embeddings.weight": torch.zeros(10, 4)})
    with pytest.raises(UserError, match=r"model_0001\.pth: this is not a Bottom-Up detector\. It lacks backbone"):
        load_detector(path)


def test_auto_takes_torch_where_detectron2_cannot_run_and_says_why(tmp_path, networks, caplog, monkeypatch):
    monkeypatch.setattr(detectron2_backend, "why_not", lambda spec: "detectron2 cannot be imported (no such module).")
    path = saved(tmp_path / "w.pth", weights_of(networks["airsplay"]))
    with caplog.at_level(logging.INFO):
        assert load_detector(path, device="cpu").source == "airsplay (torch backend)"
    assert "Backend: torch. detectron2 cannot be imported (no such module)." in caplog.text


def test_asking_for_detectron2_where_there_is_none_says_where_to_get_it(tmp_path, networks, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)
    path = saved(tmp_path / "w.pth", weights_of(networks["caffe"]))
    with pytest.raises(UserError, match=r"backend detectron2: detectron2 cannot be imported .*/install\.html, or use"):
        load_detector(path, backend="detectron2")


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.ones(3, 2)},
        {"weight": torch.ones(2, 2), "gain": torch.ones(2)},
        {},
    ],
    ids=["another shape", "one too many", "none"],
)
def test_a_detectron2_that_builds_another_network_is_not_used(state):
    """A linear layer without bias wants a weight of 2 x 2 and nothing else."""
    layer = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(detectron2_backend.Detectron2Missing, match="builds another network"):
        detectron2_backend._load(layer, state)
    detectron2_backend._load(layer, {"weight": torch.eye(2)})
    assert torch.equal(layer.weight, torch.eye(2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_classifier_has_the_background_first_wherever_the_file_has_it(tmp_path, networks, kind):
    weights = weights_of(networks[kind])
    export_classifier(saved(tmp_path / "w.pth", weights), tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as written:
        weight, bias = written["weight"], written["bias"]
    rows = weights["roi_heads.box_predictor.cls_score.weight"].numpy()
    place = 0 if kind == "caffe" else 12
    assert weight.shape == (13, 128) and np.array_equal(weight[0], rows[place])
    assert np.array_equal(weight[1:], np.delete(rows, place, axis=0))
    assert bias[0] == weights["roi_heads.box_predictor.cls_score.bias"][place]


def test_an_unknown_backend_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected one of auto, torch, detectron2, got 'caffe'"):
        load_detector(tmp_path / "w.pth", backend="caffe")
