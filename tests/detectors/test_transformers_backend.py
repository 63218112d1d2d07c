"""Detectors of Hugging Face transformers: the regions are what the model itself reports, from files alone."""

import json
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.toy_transformers import DIM, KINDS, NAMES, QUERIES, SQUARE, write_detector
from xmodaler_ssattn.detectors.detected import Detector
from xmodaler_ssattn.detectors.selection import SelectionRule
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import sha256_of

library = pytest.importorskip("transformers")
from xmodaler_ssattn.detectors.transformers_backend import (
    PictureRule,
    TransformersDetector,
    load_transformers,
)

WIDTH, HEIGHT = 90, 60


def noise(width=WIDTH, height=HEIGHT, seed=0):
    """A picture in which things differ: (H, W, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """kind -> (folder, model), made when asked for."""
    root, made = tmp_path_factory.mktemp("detectors"), {}

    def folder_of(kind):
        if kind not in made:
            made[kind] = (root / kind, write_detector(root / kind, kind))
        return made[kind]

    return folder_of


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def own_processor(kind, folder):
    """The library's processor for this kind, without torchvision; D-FINE and RT-DETRv2 use RT-DETR's."""
    name = {
        "detr": "Detr", "conditional_detr": "ConditionalDetr", "deformable_detr": "DeformableDetr", "yolos": "Yolos",
    }.get(kind, "RTDetr")  # fmt: skip
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    for found in (f"{name}ImageProcessorPil", f"{name}ImageProcessor"):  # since version 5, before it
        try:
            return getattr(library, found)(size=settings["size"], do_normalize=settings["do_normalize"])
        except (AttributeError, ImportError):
            continue
    pytest.skip(f"transformers {library.__version__} has no {name}ImageProcessor without torchvision")


@pytest.mark.parametrize("kind", KINDS)
def test_regions_are_the_models_own_detections(folders, no_network, kind):
    """The slow version: the library's processor before the model and its post-processing after it."""
    folder, model = folders(kind)
    detector = load_transformers(folder, min_max_boxes=(7, 7))
    assert isinstance(detector, Detector) and detector.class_names == NAMES
    assert (detector.feature_dim, detector.num_classes, detector.num_queries) == (DIM, len(NAMES), QUERIES)
    assert detector.weights_sha256 == sha256_of(folder / "model.safetensors")
    assert detector.source == f"Hugging Face transformers: {type(model).__name__}"
    picture = noise()
    found = detector.detect(picture[:, :, ::-1])
    assert (len(found), found.width, found.height) == (7, WIDTH, HEIGHT)

    processor = own_processor(kind, folder)
    inputs = processor(Image.fromarray(picture), return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=inputs["pixel_values"])
    (theirs,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(HEIGHT, WIDTH)])
    boxes = theirs["boxes"].numpy().clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    matched = []
    for box, score, label in zip(found.boxes_px, found.confidence, found.objects):
        same = np.abs(boxes - box).max(axis=1) < 1e-2
        same &= np.abs(theirs["scores"].numpy() - score) < 1e-5
        same &= theirs["labels"].numpy() == label
        assert same.any()
        matched.append(int(same.argmax()))
    # They list a query once per class; among the rows of the best classes, ours are the first ones.
    best = theirs["scores"].sort(descending=True).values[: len(found)]
    assert len(set(matched)) == len(found) and found.confidence[0] == pytest.approx(float(best[0]), abs=1e-5)
    assert (np.diff(found.confidence) <= 0).all() and np.ptp(found.confidence) > 1e-4

    names = ("class_labels_classifier", "class_embed")
    head = [module for name, module in model.named_modules() if name.rpartition(".")[2] in names][-1]
    head = head[-1] if isinstance(head, torch.nn.ModuleList) else head
    scores = head(torch.from_numpy(found.features))  # V is what the layer of the class scores reads
    if kind in ("detr", "yolos"):
        np.testing.assert_allclose(found.class_probs, scores.softmax(1).roll(1, 1).detach(), atol=1e-5)
    elif kind != "d_fine":  # which adds a number for the quality of the box
        np.testing.assert_allclose(found.confidence, scores.sigmoid().amax(1).detach(), atol=1e-5)
    np.testing.assert_allclose(found.class_probs.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["detr", "rt_detr_v2", "yolos"])
def test_pictures_of_different_sizes_do_not_change_each_other(folders, kind):
    detector = load_transformers(folders(kind)[0], min_max_boxes=(5, 9))
    pictures = [noise(), noise(70, 100, 1), noise(seed=2), noise(70, 100, 3), noise(200, 20, 4)]
    for one, other in zip(detector.detect_many(pictures), map(detector.detect, pictures), strict=True):
        for name in ("boxes_px", "features", "class_probs", "confidence"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-3)
    assert detector.detect_many([]) == []


class FixedModel(torch.nn.Module):
    """Three queries: a small box in the middle, one that leaves the picture, an unsure one."""

    config = library.PretrainedConfig(id2label={0: "cat", 1: "dog"})

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor([scores])

    def forward(self, pixel_values):
        boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.9, 0.9, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]])
        states = torch.arange(6.0).view(1, 3, 2)
        from types import SimpleNamespace

        return SimpleNamespace(logits=self.scores, pred_boxes=boxes, last_hidden_state=states)


SQUARE_INPUT = PictureRule({"size": {"height": 8, "width": 8}}, 1, "x")


def fixed(scores, least=1):
    rule = SelectionRule(least, 3, threshold=0.2)
    found = TransformersDetector(FixedModel(scores), SQUARE_INPUT, where="x", rule=rule)
    return found.detect(np.zeros((100, 200, 3), dtype=np.uint8))


def test_scores_with_a_no_object_class_on_paper():
    """Softmax of (log 2, log 1, log 1) is (1/2, 1/4, 1/4); the last column, no object, comes first."""
    log = np.log
    found = fixed([[log(2), 0.0, 0.0], [0.0, log(8), 0.0], [0.0, 0.0, log(18)]])
    # The second query: (1, 8, 1) / 10. The third one: (1, 1, 18) / 20, so its best class has 0.05: below 0.2.
    np.testing.assert_allclose(found.class_probs, [[0.1, 0.1, 0.8], [0.25, 0.5, 0.25]], atol=1e-6)
    np.testing.assert_allclose(found.confidence, [0.8, 0.5], atol=1e-6)
    assert found.objects.tolist() == [1, 0]
    # 200 x 100 pixels: centre (180, 90) and size (80, 40) end at 220 and 110, outside.
    np.testing.assert_allclose(found.boxes_px, [[140, 70, 200, 100], [80, 30, 120, 70]], atol=1e-4)
    np.testing.assert_array_equal(found.features, [[2, 3], [0, 1]])
    assert len(fixed([[log(2), 0.0, 0.0], [0.0, log(8), 0.0], [0.0, 0.0, log(18)]], least=3)) == 3


def test_scores_with_a_sigmoid_each_on_paper():
    """s = z / (1 + z) for the odds z = (3, 1): (3/4, 1/2). c = (1, 3, 1) / 5: P(none) to 1, P(class) to its odds."""
    found = fixed([[np.log(3), 0.0], [np.log(1 / 9), np.log(1 / 9)], [-9.0, np.log(9)]])
    np.testing.assert_allclose(found.confidence, [0.9, 0.75], atol=1e-6)  # the second query has 0.1
    np.testing.assert_allclose(found.class_probs[1], [0.2, 0.6, 0.2], atol=1e-6)
    assert found.objects.tolist() == [1, 0] and found.features.tolist() == [[4, 5], [0, 1]]


def test_a_model_whose_scores_are_of_other_classes_is_refused():
    with pytest.raises(UserError, match="4 class scores.*expected 2 or 3 scores for the 2 names"):
        fixed([[0.0] * 4] * 3)


@pytest.mark.parametrize("kind", ["detr", "yolos", "rt_detr"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (100, 100), (400, 50), (33, 128), (640, 480)])
def test_the_input_is_that_of_the_librarys_processor(folders, kind, size):
    folder, _ = folders(kind)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    picture = noise(*size)
    ours = PictureRule(settings, 16 if kind == "yolos" else 1, "x")(picture[:, :, ::-1])
    theirs = own_processor(kind, folder)(Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]
    assert (ours.shape == theirs.shape and kind not in SQUARE) or ours.shape == (3, 64, 64)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_older_settings_are_read_and_wrong_ones_are_all_named():
    assert PictureRule({"size": 800, "max_size": 1333}, 1, "x").size_of(640, 480) == (1066, 800)
    wrong = {"size": {"height": 9}, "do_resize": False, "pad_size": {"height": 9}, "resample": 77, "image_std": [1, 2]}
    with pytest.raises(UserError, match="5 problems") as caught:
        PictureRule(wrong, 1, "preprocessor_config.json")
    for words in (
        "size is {'height': 9}",
        "do_resize",
        "pad_size is not supported",
        "resample is 77",
        "image_std is [1",
    ):
        assert words in str(caught.value)
    with pytest.raises(UserError, match="too narrow"):
        PictureRule({"size": {"shortest_edge": 80, "longest_edge": 160}}, 16, "x").size_of(1000, 16)


def test_folders_that_cannot_be_used_are_explained(tmp_path, no_network):
    from safetensors.torch import load_file, save_file

    def refused(match):
        with pytest.raises(UserError, match=match) as caught:
            load_transformers(tmp_path)
        assert str(tmp_path) in str(caught.value)

    refused("3 problems(.|\n)*config.json is missing(.|\n)*preprocessor_config(.|\n)*model.safetensors is missing")
    write_detector(tmp_path, "rt_detr")
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    good, settings = load_file(weights), json.loads(config.read_text())

    name = next(name for name in good if name.startswith("model.decoder") and name.endswith("fc1.weight"))
    save_file({key: value for key, value in good.items() if key != name}, weights, {"format": "pt"})
    refused("fc1.weight is missing")
    save_file({**good, name: torch.full_like(good[name], torch.nan)}, weights, {"format": "pt"})
    refused("fc1.weight has numbers that are not finite")
    save_file({**good, name: torch.zeros(3, 3)}, weights, {"format": "pt"})
    refused("fc1.weight")
    save_file(good, weights, {"format": "pt"})
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    refused("cannot load it")
    weights.rename(tmp_path / "pytorch_model.bin")
    refused("pytorch_model.bin is a pickle, which could run code: convert it to safetensors")
    weights.write_bytes(data)
    for change, match in (
        ({"auto_map": {"AutoModel": "code.X"}}, "asks for code from its own folder"),
        ({"model_type": "bert"}, "cannot load it as an object detector of the type 'bert'"),
        ({"model_type": "of_the_future"}, "cannot load it as an object detector of the type 'of_the_future'"),
    ):
        config.write_text(json.dumps({**settings, **change}))
        refused(match)
    config.write_text("[]")
    refused("contains a list, expected an object")
    (tmp_path / "adapter_config.json").write_text("{}")
    refused("adapter_config.json names another model")


def test_a_missing_library_gives_the_command(tmp_path, monkeypatch):
    write_detector(tmp_path, "yolos")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match="needs transformers, which is not installed: `pip install transformers`"):
        load_transformers(tmp_path)
