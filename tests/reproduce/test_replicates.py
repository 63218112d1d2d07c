"""Scores and replicates of one results file, and the record of a study made from them."""

import json

import numpy as np
import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.forced import accuracy_by_place
from xmodaler_ssattn.evaluation.java import JavaError
from xmodaler_ssattn.evaluation.metrics import Metric
from xmodaler_ssattn.evaluation.scoring import CaptionScorer
from xmodaler_ssattn.reproduce.replicates import (
    REPLICATES,
    read_replicates,
    same_images,
    score_captions,
    score_grounding,
    write_replicates,
)


class Length(Metric):
    """A caption's number of words over ten."""

    name, titles = "CIDEr", {"CIDEr": "C"}

    def rows(self, captions, references):
        return np.array([len(text.split()) / 10 for text in captions])


class Fails(Metric):
    def rows(self, captions, references):
        raise JavaError("no models")


@pytest.fixture
def scorer(monkeypatch):
    monkeypatch.setattr("xmodaler_ssattn.evaluation.scoring.what_can_run", lambda names, **_: dict.fromkeys(names))
    references = {str(image): ["a reference"] for image in range(10, 13)}
    return CaptionScorer(references, tokenized=True, metrics={"CIDEr": Length(), "SPICE": Fails()})


def results(*captions):
    from xmodaler_ssattn.evaluation.results import ImageResult, Results

    return Results(tuple(ImageResult(10 + i, caption) for i, caption in enumerate(captions)))


def test_replicates_are_the_scores_of_resampled_images(scorer):
    # Two captions of 1 and 3 words: every resample of two images has mean .1, .2 or .3.
    scored = score_captions(results("a", "a b c"), scorer, ["CIDEr", "SPICE"])
    assert scored.values == pytest.approx({"CIDEr": 0.2})
    assert scored.failed == {"SPICE": "no models"}
    assert sorted(set(np.round(scored.replicates["CIDEr"], 6))) == [0.1, 0.2, 0.3]
    assert len(scored.replicates["CIDEr"]) == REPLICATES
    assert scored.images == ("10", "11")
    assert scored.rows["CIDEr"].tolist() == pytest.approx([0.1, 0.3])


def test_two_models_are_resampled_with_the_same_images(scorer):
    # b's captions are one word longer everywhere, so each replicate differs by exactly .1.
    a = score_captions(results("a", "a b c", "a b"), scorer, ["CIDEr"])
    b = score_captions(results("a a", "a b c a", "a b a"), scorer, ["CIDEr"])
    assert b.replicates["CIDEr"] - a.replicates["CIDEr"] == pytest.approx(np.full(REPLICATES, 0.1))


def test_forced_captions_have_their_accuracy_resampled(tmp_path):
    """Two images, each with one annotated man at (0, 0, 9, 9): forced right in the first and wrong in the second."""
    from xmodaler_ssattn.caption import GroundedCaption, GroundedWord
    from xmodaler_ssattn.evaluation.results import ImageResult, Results

    man = (0.0, 0.0, 9.0, 9.0)
    entry = {"tokens": ["a", "man"], "process_idx": [1], "process_clss": ["man"], "process_bnd_box": [man]}
    images = [{"image_id": i, "image_size": [99, 99], "captions": [entry]} for i in (1, 2)]
    text = json.dumps({"vocab": ["man"], "annotations": images})
    (tmp_path / "grounding_test.json").write_text(text)
    caption = GroundedCaption(
        [GroundedWord("man", 0, man, 1.0)], boxes_px=np.array([man], dtype=np.float32), image_size=(99.0, 99.0)
    )

    def forced(box):
        return ({"clss": ["man"], "idx_in_sent": [1], "bbox": [box]},)

    results = Results(
        (ImageResult(1, caption, forced(man)), ImageResult(2, caption, forced((50.0, 50.0, 80.0, 80.0)))),
        {"man": "man"}, {"scores": {"F1_all": 1.0, "F1_loc": 1.0, "attention_accuracy": 0.5}},
    )  # fmt: skip
    scored = score_grounding(results, tmp_path)
    # Both images, the first twice or the second twice: 1/2, 1 or 0. The generated captions are right everywhere.
    assert sorted(set(scored.replicates["attention_accuracy"])) == [0.0, 0.5, 1.0]
    assert set(scored.replicates["F1_loc_per_sentence"]) == {1.0} == set(scored.replicates["F1_all"])
    assert accuracy_by_place(scored.forced)["people, 1st"] == {"words": 2, "accuracy": 0.5}
    assert scored.values["attention_accuracy"] == 0.5 and scored.images == (1, 2)
    unforced = Results((ImageResult(1, caption), ImageResult(2, caption)), results.object_words, results.header)
    assert "attention_accuracy" not in score_grounding(unforced, tmp_path).replicates
    assert score_grounding(unforced, tmp_path).forced is None


def test_replicates_are_written_and_read_back_without_the_rows(tmp_path):
    write_replicates(
        tmp_path / "replicates.npz",
        {"CIDEr": np.array([0.1, 0.2]), "F1_all": np.array([0.0, 0.5])},
        {"captions": np.array([1, 2]), "grounding": np.array([2])},
        {"CIDEr": np.array([0.3])},
    )
    values, images = read_replicates(tmp_path / "replicates.npz")
    assert {name: array.tolist() for name, array in values.items()} == {"CIDEr": [0.1, 0.2], "F1_all": [0.0, 0.5]}
    assert {name: array.tolist() for name, array in images.items()} == {"captions": [1, 2], "grounding": [2]}


def test_a_file_of_replicates_that_is_missing_or_cut_short_is_named(tmp_path):
    with pytest.raises(UserError, match="replicates.npz cannot be read"):
        read_replicates(tmp_path / "replicates.npz")
    write_replicates(tmp_path / "replicates.npz", {"CIDEr": np.zeros(1000)}, {})
    content = (tmp_path / "replicates.npz").read_bytes()
    (tmp_path / "replicates.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="remove it and run again with --resume"):
        read_replicates(tmp_path / "replicates.npz")


def test_scores_of_other_images_are_not_paired():
    one = {"captions": np.array([1, 2]), "grounding": np.array([1])}
    other = {"captions": np.array([1, 2]), "grounding": np.array([2])}
    assert same_images(one, other, "CIDEr") and same_images(one, other, "greedy_CIDEr")
    assert not same_images(one, other, "F1_loc") and not same_images(one, other, "attention_accuracy")
    assert not same_images(one, {"captions": np.array([2, 1])}, "CIDEr")
    assert not same_images(one, {}, "CIDEr")


def test_epochs_are_cut_where_the_evaluations_say():
    from xmodaler_ssattn.reproduce.jobs import split_epochs

    # Ten steps an epoch (the second ends at step 19): points at 4 and 9 are the first epoch's, 10 and 14 the second's.
    series = {"total_loss": [(4, 4.0), (9, 2.0), (10, 1.0), (14, 3.0)], "val/CIDEr": [(9, 0.5)]}
    assert split_epochs(series, {1: 9, 2: 19}) == {1: {"total_loss": 3.0}, 2: {"total_loss": 2.0}}
    # Evaluated every second epoch alone.
    assert split_epochs(series, {2: 19}) == {1: {"total_loss": 3.0}, 2: {"total_loss": 2.0}}
    assert split_epochs(series, {}) == {}


def test_the_summarys_lists_stand_on_one_line_each():
    from xmodaler_ssattn.reproduce.collecting import as_text

    value = {"a": [1, 2.5, None], "b": {"c": ["x [1]", "y"], "d": []}, "e": [{"f": 1}]}
    text = as_text(value)
    assert json.loads(text) == value
    assert '"a": [1, 2.5, null]' in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the file /home/me/data/x.h5 does not exist", "the file x.h5 does not exist"),
        ("no models in /opt/lib/python/site-packages/spice/lib.", "no models in lib."),
        ("val/CIDEr and https://example.org/a/b stay", "val/CIDEr and https://example.org/a/b stay"),
    ],
)
def test_the_folders_of_a_machine_are_left_out_of_the_summary(text, shown):
    from xmodaler_ssattn.reproduce.collecting import public

    assert public(text) == shown
