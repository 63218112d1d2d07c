"""Linear probes on regions: what counts as covered, the ranks of the AUC, and that a probe finds what is there."""

import json

import numpy as np
import pytest

from worlds.tools import load_tool
from xmodaler_ssattn.packs.store import Regions
from xmodaler_ssattn.worlds import probe
from xmodaler_ssattn.worlds.drawn import draw_dataset
from xmodaler_ssattn.worlds.probe import LabelledRegions

CLASSES = ["dog", "man"]


def phrase(name, *boxes) -> dict:
    return {"class": name, "boxes": [list(box) for box in boxes]}


IMAGE = {
    "image_id": 7,
    "captions": [
        {"phrases": [phrase("man", (0, 0, 10, 20)), phrase("dog", (60, 60, 70, 80), (70, 60, 90, 80))]},
        {"phrases": [phrase("man", (0, 0, 10, 20)), phrase(None, (0, 0, 5, 5)), phrase("dog")]},
    ],
}


class Store:
    """100 x 100 pixels: region 0 is the man's box, 1 most of the two dogs' union, 2 and 3 elsewhere."""

    def __init__(self, class_probs=True):
        boxes = np.array([(0, 0, 10, 20), (60, 60, 86, 80), (40, 0, 60, 20), (0, 40, 100, 60)], dtype=np.float32)
        probs = np.eye(3, dtype=np.float32)[[2, 1, 0, 0]] if class_probs else None
        self.regions = Regions(7, 100, 100, boxes, np.arange(8, dtype=np.float32).reshape(4, 2), probs)

    def read(self, image_id):
        assert image_id == 7
        return self.regions


def test_an_object_is_its_class_and_the_union_of_a_phrases_boxes_once_an_image():
    assert probe.objects_of(IMAGE) == {"man": [[0, 0, 10, 20]], "dog": [[60, 60, 90, 80]]}


def test_an_object_comes_with_the_region_that_covers_it_best():
    found = probe.covered_objects(Store(), [IMAGE], CLASSES)
    # man: region 0 exactly; dog: region 1 has 26 x 20 of 30 x 20 pixels, an IoU of 0.87.
    assert found.labels.tolist() == [1, 0]
    assert found.inputs["V"].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert found.inputs["c"].tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    np.testing.assert_allclose(found.inputs["p"][0], [0.0, 0.1, 0.0, 0.2, 0.02], atol=1e-7)


def test_an_object_without_a_region_over_it_is_left_out_and_no_object_is_no_sample():
    far = {"image_id": 7, "captions": [{"phrases": [phrase("man", (0, 0, 100, 100))]}]}  # best IoU 0.2
    assert len(probe.covered_objects(Store(), [far], CLASSES).labels) == 0
    assert len(probe.covered_objects(Store(), [], CLASSES).labels) == 0


def test_all_regions_are_asked_whether_captions_talk_about_them():
    found = probe.talked_about(Store(), [IMAGE])
    # Boxes: the man's twice (region 0), (0, 0, 5, 5) (again region 0), and the dogs': 0.385 and 0.615 of region 1.
    assert found.labels.tolist() == [1, 1, 0, 0]
    assert "c" not in probe.talked_about(Store(class_probs=False), [IMAGE]).inputs
    nobody = {"image_id": 7, "captions": [{"phrases": []}]}
    assert probe.talked_about(Store(), [nobody]).labels.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("scores, labels, expected", [
    ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
    ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
    ([1, 3, 2, 4], [0, 0, 1, 1], 0.75),  # of four pairs the 2 against the 3 is wrong
    ([1, 1, 1, 1], [0, 1, 0, 1], 0.5),  # ties count half
    ([1, 2, 2], [0, 0, 1], 0.75),  # one pair won, one tied
])  # fmt: skip
def test_the_auc_counts_pairs(scores, labels, expected):
    assert probe.auc(np.array(scores), np.array(labels)) == pytest.approx(expected)


def test_the_auc_of_random_scores_equals_the_count_of_all_pairs():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 9, 60), rng.integers(0, 2, 60)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    assert probe.auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert np.isnan(probe.auc(scores, np.ones(60)))


def test_centrality_is_largest_in_the_middle():
    p = np.array([[0.4, 0.6, 0.4, 0.6, 0.04], [0.0, 0.2, 0.4, 0.6, 0.04]])
    np.testing.assert_allclose(probe.centrality(p), [0.0, -0.4], atol=1e-12)


def made(seed, count=400) -> LabelledRegions:
    """V tells the class in its sign and nothing else does; the scale of V is no matter."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    v = rng.normal(size=(count, 3))
    v[:, 1] = 1000 * (np.sign(labels - 0.5) + 0.1 * rng.normal(size=count)) + 5000
    noise = {"p": rng.normal(size=(count, 5)), "c": rng.normal(size=(count, 4))}
    inputs = {name: value.astype(np.float32) for name, value in {"V": v, **noise}.items()}
    return LabelledRegions(inputs, labels)


def test_a_probe_finds_what_is_there_and_no_more():
    splits = made(0), made(1), made(2)
    found = probe.report_class(splits, 2, 200)
    assert list(found) == ["commonest class", "p", "V", "c", "Vc", "Vpc"]
    assert found["V"] > 0.95 and min(found["Vc"], found["Vpc"]) > 0.9 and max(found["p"], found["c"]) < 0.6
    about = probe.report_talked_about(splits, 200)
    assert about["V"] > 0.99 and 0.4 < about["c"] < 0.6 and 0.4 < about["area"] < 0.6
    assert probe.report_class(splits, 2, 200) == found  # random numbers are seeded


def test_the_tool_on_the_sample_scenes(tmp_path, capsys):
    scenes, tool = tmp_path / "scenes", load_tool("probe_regions")
    draw_dataset(scenes, num_images=60, feature_dim=32, workers=1)
    words = ["--steps", "100", "--json", str(tmp_path / "probe.json"), "--data"]
    assert tool.main([*words, str(scenes)]) == 0
    found = json.loads((tmp_path / "probe.json").read_text())
    # The detector of the drawn scenes is right more often than not.
    assert found["class"]["c"] > found["class"]["commonest class"]
    assert "| commonest class |" in capsys.readouterr().out
    assert tool.main([*words, str(tmp_path)]) == 2
    assert "regions.h5" in capsys.readouterr().err
