"""Floors and ceilings of a drawn data set: read from its files, and kept in the summary."""

import json

import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.floors import RULES, WITHOUT_REGIONS
from xmodaler_ssattn.reproduce import floors
from xmodaler_ssattn.reproduce.floors import kept_floors, read_floors
from xmodaler_ssattn.reproduce.settings import DataFolder
from xmodaler_ssattn.worlds.drawn import draw_dataset


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("floors") / "scenes"
    draw_dataset(folder, num_images=40, feature_dim=8, workers=1)
    return folder


def test_a_folder_with_class_probabilities_has_all_rules_in_a_sensible_order(scenes):
    found = read_floors(scenes)
    accuracy = {rule: scores["word_accuracy"] for rule, scores in found["rules"].items()}
    assert tuple(accuracy) == RULES
    assert accuracy["random region"] < accuracy["detector alone"] <= accuracy["perfect attention"] <= 1
    assert accuracy["annotated boxes"] == 1
    assert found["notes"] == ["The class probabilities name the class of 100.0 % of the annotated words."]


def test_without_regions_two_rules_are_left_and_without_sizes_a_reason(scenes, tmp_path):
    reference = json.loads((scenes / "grounding_test.json").read_text())
    (tmp_path / "grounding_test.json").write_text(json.dumps(reference))
    assert tuple(read_floors(tmp_path)["rules"]) == WITHOUT_REGIONS
    del reference["annotations"][0]["image_size"]
    (tmp_path / "grounding_test.json").write_text(json.dumps(reference))
    with pytest.raises(UserError, match=r"1 of \d+ images have no image_size, e\.g\. \[\d+\]"):
        read_floors(tmp_path)


def test_the_detector_needs_names(scenes, tmp_path):
    for name in ("grounding_test.json", "regions.h5"):
        (tmp_path / name).symlink_to(scenes / name)
    found = read_floors(tmp_path)  # no manifest says what the classes are
    assert "detector alone" not in found["rules"] and "largest region" in found["rules"]
    assert found["notes"] == ["No rules of the detector: the regions do not name their classes."]


def test_floors_are_computed_once_per_data_set(scenes, tmp_path, monkeypatch):
    data, summary = DataFolder(scenes, {}, "a", "b"), tmp_path / "summary.json"
    first = kept_floors(data, summary)
    summary.write_text(json.dumps({"floors": first}))
    monkeypatch.setattr(floors, "read_floors", lambda folder: pytest.fail("computed again"))
    assert kept_floors(data, summary) == json.loads(json.dumps(first))
    monkeypatch.setattr(floors, "read_floors", lambda folder: {"rules": {"new": {}}, "notes": []})
    other = DataFolder(scenes, {}, "a", "c")  # other regions
    assert kept_floors(other, summary)["rules"] == {"new": {}}
    summary.write_text("{")  # a damaged summary is no reason to stop
    assert kept_floors(data, summary)["rules"] == {"new": {}}


def test_floors_that_cannot_be_had_leave_a_note(tmp_path):
    found = kept_floors(DataFolder(tmp_path, {}, "a", "b"), tmp_path / "summary.json")
    assert found["rules"] == {} and "grounding_test.json does not exist" in found["notes"][0]
    (tmp_path / "summary.json").write_text(json.dumps({"floors": found}))
    assert kept_floors(DataFolder(tmp_path, {}, "a", "b"), tmp_path / "summary.json") == found  # tried again
