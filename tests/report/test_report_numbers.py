"""Verdicts, scores with intervals, the comparison and the classes, against arithmetic and the metric itself."""

import math

import pytest

from report import made_up
from xmodaler_ssattn.evaluation.grounding import generated_scores, match_generated
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.results import gvd_predictions, read_results
from xmodaler_ssattn.report.scores import numbers_of
from xmodaler_ssattn.report.source import read_source
from xmodaler_ssattn.report.verdicts import verdict_of, verdicts

BOX = (0.0, 0.0, 9.0, 9.0)  # 10 x 10 in the metric's counting


def test_a_box_is_right_above_half_overlap_and_wrong_at_half():
    # 10 x 10 against 10 x 5 inside it: 50 / 100 = 0.5 is not more than half; 10 x 6: 0.6 is
    assert verdict_of((0, 0, 9, 4), [BOX]) == "w"
    assert verdict_of((0, 0, 9, 5), [BOX]) == "r"


def test_one_of_several_annotated_boxes_is_enough():
    assert verdict_of((100, 100, 109, 109), [BOX, (100, 100, 109, 109)]) == "r"


def test_a_class_without_an_annotated_box_is_not_judged():
    assert verdict_of(BOX, []) == "n"
    assert verdicts(made_up.caption(made_up.DOG_WRONG), made_up.OBJECT_WORDS, {"dog": [made_up.DOG]}) == "wn"


def test_nothing_is_judged_without_annotations_or_boxes():
    assert verdicts(made_up.caption(), made_up.OBJECT_WORDS, None) == ""
    assert verdicts("a dog", made_up.OBJECT_WORDS, {"dog": [made_up.DOG]}) == ""


@pytest.fixture
def two(tmp_path):
    """Six images; the first model's dog is wrong in all, the second's in none."""
    ids = range(1, 7)
    paths = [
        made_up.write(tmp_path / "a.json", {i: made_up.caption(made_up.DOG_WRONG) for i in ids}),
        made_up.write(tmp_path / "b.json", {i: made_up.caption() for i in ids}),
    ]
    folder = made_up.write_annotations(tmp_path / "annotations", [made_up.annotated(i) for i in ids])
    return paths, folder


def test_grounding_scores_and_classes_are_those_of_the_metric(two):
    paths, folder = two
    numbers = numbers_of(read_source(paths, annotations=folder), 20)
    for path, found in zip(paths, numbers.scores):
        results = read_results(path)
        predictions = gvd_predictions(results.images, results.object_words)
        matches = match_generated(read_reference(folder / "grounding_test.json").images, predictions, Lemmas())
        for name, value in generated_scores(matches, undefined=0.0).items():
            assert found[name] == pytest.approx(value)
    rows = {row["class"]: row for row in numbers.classes}
    # The car of "a dog near a car" against the five references: annotated and hit in the first; "the dog" and "a dog"
    # do not mention a car, two misses; the two others mention it without a box, skipped: precision 1/3, recall 1.
    assert [values["precision"] for values in rows["car"]["models"]] == pytest.approx([1 / 3, 1 / 3])
    assert [values["F1"] for values in rows["car"]["models"]] == pytest.approx([0.5, 0.5])
    assert rows["dog"]["models"][0]["recall"] == 0 and rows["dog"]["models"][1]["recall"] == 1
    assert rows["dog"]["annotations"] == 6


def test_the_comparison_is_second_minus_first_with_the_same_resamples(two):
    paths, folder = two
    row = numbers_of(read_source(paths, annotations=folder), 50).comparison["F1_all"]
    assert row["difference"] == pytest.approx(row["b"] - row["a"]) and row["difference"] > 0
    # all images are alike, so every resample gives the same difference
    assert row["low"] == pytest.approx(row["difference"]) and row["high"] == pytest.approx(row["difference"])
    assert row["p"] == pytest.approx(2 / 51)


def test_the_files_score_is_shown_and_gets_no_interval_when_the_annotations_give_another(tmp_path):
    path = made_up.write(tmp_path / "a.json", {1: made_up.caption()}, scores={"F1_all": 0.123, "METEOR": 0.25})
    folder = made_up.write_annotations(tmp_path / "annotations", [made_up.annotated(1)])
    source = read_source([path], annotations=folder)
    numbers = numbers_of(source, 20)
    assert numbers.scores[0]["F1_all"] == 0.123 and numbers.scores[0]["METEOR"] == 0.25
    assert "F1_all" not in numbers.intervals[0] and "F1_loc" in numbers.intervals[0]
    assert any("other values than the results for F1_all" in notice for notice in source.notices)


def test_a_score_that_is_null_stays_undefined(tmp_path):
    path = made_up.write(tmp_path / "a.json", {1: made_up.caption()}, scores={"CIDEr": math.nan})
    assert math.isnan(numbers_of(read_source([path])).scores[0]["CIDEr"])


def test_no_intervals_when_none_are_requested(two):
    paths, folder = two
    numbers = numbers_of(read_source(paths, annotations=folder), 0)
    assert numbers.intervals == [{}, {}] and numbers.comparison == {}
    assert numbers.scores[0]["F1_all"] > 0


def test_models_over_different_images_are_compared_on_those_of_both(tmp_path):
    images = {i: made_up.caption() for i in (1, 2, 3)}
    a = made_up.write(tmp_path / "a.json", {i: images[i] for i in (1, 2)})
    b = made_up.write(tmp_path / "b.json", {i: images[i] for i in (2, 3)})
    folder = made_up.write_annotations(tmp_path / "annotations", [made_up.annotated(i) for i in (1, 2, 3)])
    numbers = numbers_of(read_source([a, b], annotations=folder), 20)
    if numbers.cider[0]:  # needs Java
        assert set(numbers.cider[0]["main"]) == {1, 2}
        assert numbers.comparison["CIDEr"]["difference"] == 0


def test_without_a_grounding_reference_the_page_says_that_classes_are_missing(tmp_path):
    path = made_up.write(tmp_path / "a.json", {1: made_up.caption()})
    folder = made_up.write_annotations(tmp_path / "annotations", [made_up.annotated(1)], grounding=False)
    source = read_source([path], annotations=folder)
    assert numbers_of(source, 20).classes == []
    assert any("No table of classes" in notice for notice in source.notices)
