"""What is warned of although the files are well formed, each with the score that would otherwise be a silent 0."""

import json
import re

import numpy as np
import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.doubts import caption_doubts, grounding_doubts
from xmodaler_ssattn.evaluation.gvd_format import check_reference, mode_of, read_submission
from xmodaler_ssattn.evaluation.scoring import CaptionScorer

MAN, DOG = [10, 20, 110, 220], [200, 100, 290, 190]
CAPTION = {
    "tokens": ["a", "man", "and", "a", "dog"],
    "process_idx": [1, 4],
    "process_clss": ["man", "dog"],
    "process_bnd_box": [MAN, DOG],
}
WIDTH, HEIGHT = 400, 300
REFERENCE = [{"image_id": i, "image_size": [WIDTH, HEIGHT], "captions": [CAPTION] * 2} for i in (1, 2)]


def sentence(man=MAN, dog=DOG):
    return {"clss": ["man", "dog"], "idx_in_sent": [1, 4], "bbox": [list(map(float, man)), list(map(float, dog))]}


def doubts(man=MAN, dog=DOG, mode="gen", reference=REFERENCE):
    sentences = [sentence(man, dog)] * (1 if mode == "gen" else 2)
    return grounding_doubts(reference, {"1": sentences, "2": sentences}, mode)


@pytest.mark.parametrize("mode", ["gen", "gt"])
def test_pixels_of_the_original_image_are_not_doubted(mode):
    assert doubts(mode=mode) == []
    assert doubts([12, 25, 100, 210], [0, 0, WIDTH + 1, HEIGHT + 1], mode) == []
    # Boxes that are wrong, but by no reading right, are the model's fault.
    assert doubts([150, 20, 190, 60], [20, 20, 60, 60], mode) == []


def test_a_reading_that_leaves_its_image_is_not_offered():
    # As x, y, width, height the man's box would be [10, 20, 20, 160], 10 wide where he is 100; the dog's would be his
    # own [200, 100, 290, 190]. With one box that reaches to x = 390 + 390 it cannot be what was meant.
    assert any("as x, y, width, height" in doubt for doubt in doubts([10, 20, 10, 140], [200, 100, 90, 90]))
    found = doubts([390, 20, 390, 290], [200, 100, 90, 90])
    assert not [doubt for doubt in found if "read as" in doubt]


@pytest.mark.parametrize("mode", ["gen", "gt"])
def test_fractions_are_named(mode):
    def scaled(box):
        return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]

    first, second = doubts(scaled(MAN), scaled(DOG), mode)
    count = 4 if mode == "gen" else 8
    assert first.startswith(f"{count} of {count} boxes lie within 0..1, as fractions do; expected pixels")
    assert (
        f"0 of {count} boxes hit" in second and f"{count} would if they were read as fractions of the image" in second
    )


def by_size(box, unit):
    return [box[0] / WIDTH * unit, box[1] / HEIGHT * unit, box[2] / WIDTH * unit, box[3] / HEIGHT * unit]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda b: [b[0], b[1], b[2] - b[0], b[3] - b[1]], "x, y, width, height"),
        (lambda b: [b[0], b[2], b[1], b[3]], "x1, x2, y1, y2"),
        (lambda b: [b[1], b[0], b[3], b[2]], "y1, x1, y2, x2"),
        (
            lambda b: [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]],
            "centre x, centre y, width, height",
        ),
        (lambda b: by_size(b, 100), "percent of the image"),
        (lambda b: by_size(b, 1000), "thousandths of the image"),
        (lambda b: by_size(b, 224), "pixels of the image resized to 224 x 224"),
    ],
)
def test_boxes_that_hit_by_another_reading_name_it(change, name):
    found = doubts(change(MAN), change(DOG))
    assert any(f"would if they were read as {name}; expected x1, y1, x2, y2" in doubt for doubt in found)


def test_inverted_boxes_and_boxes_outside_are_counted_with_the_first_one():
    found = doubts(man=[110, 20, 10, 220])
    assert found[0].startswith("2 of 4 boxes are inverted (x2 < x1 or y2 < y1) and hit nothing")
    assert found[0].endswith("the first one in image 1: [110.0, 20.0, 10.0, 220.0]")
    found = doubts(dog=[200, 100, WIDTH + 3, 190])
    assert found == [
        "2 of 4 boxes reach out of their image; expected pixels of the original image, not of a resized one, the first "
        "one in image 1: [200.0, 100.0, 403.0, 190.0]"
    ]
    no_size = [{**record, "image_size": None} for record in REFERENCE]
    assert doubts(dog=[200, 100, WIDTH + 3, 190], reference=no_size) == []


def test_boxes_of_the_reference_are_also_checked():
    wrong = {**CAPTION, "process_bnd_box": [[0.1, 0.1, 0.5, 0.9], [290, 100, 200, 190]]}
    found = doubts(reference=[REFERENCE[0], {**REFERENCE[1], "captions": [wrong]}])
    assert found[0].startswith("1 of 6 boxes of the reference are inverted") and "image 2: [290, 100, 200" in found[0]
    assert found[1].startswith("1 of 6 boxes of the reference lie within 0..1")


def test_predictions_without_an_object_and_without_an_annotated_one_are_named():
    empty = {"clss": [], "idx_in_sent": [], "bbox": []}
    assert "no sentence names an object" in grounding_doubts(REFERENCE, {"1": [empty], "2": [empty]}, "gen")[0]
    assert "no sentence has a box at any word" in grounding_doubts(REFERENCE, {"1": [empty] * 2}, "gt")[0]
    other = {"clss": ["hat"], "idx_in_sent": [0], "bbox": [MAN]}
    assert "no class that is predicted is annotated" in grounding_doubts(REFERENCE, {"1": [other]}, "gen")[0]
    assert "no annotated word position has a box" in grounding_doubts(REFERENCE, {"1": [other] * 2}, "gt")[0]


# --- the submission's own words ---------------------------------------------------------------------------------------


def test_the_mode_is_the_submissions_own_and_a_contradiction_is_named():
    assert [mode_of({"eval_mode": m}, "S", None) for m in ("gen", "GT", "gt", None)] == ["gen", "gt", "gt", "gen"]
    assert mode_of({}, "S", "gt") == "gt" and mode_of({"eval_mode": "GT"}, "S", "gt") == "gt"
    with pytest.raises(UserError, match="S: its eval_mode is 'GT', but mode 'gen' was asked for"):
        mode_of({"eval_mode": "GT"}, "S", "gen")
    for value in ("test", ["gen"], {"mode": "gen"}, 1, True, ""):
        with pytest.raises(UserError, match=re.escape(f"field eval_mode: expected 'gen' or 'GT', got {value!r}")):
            mode_of({"eval_mode": value}, "S", None)


def submission(tmp_path, value):
    path = tmp_path / "s.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    reference = check_reference({"vocab": ["man", "dog"], "annotations": REFERENCE}, "R")
    return read_submission(path, None, reference)


def test_a_class_in_capitals_is_named_once_with_what_is_meant(tmp_path):
    said = {"1": [{**sentence(), "clss": ["Man", "dog"]}], "2": [{**sentence(), "clss": ["Man", "cow"]}]}
    with pytest.raises(UserError) as error:
        submission(tmp_path, {"results": said})
    assert "image 1, sentence 0: clss: 'Man' is not one of the 2 classes (2 times); is 'man' meant?" in str(error.value)
    assert "image 2, sentence 0: clss: 'cow' is not one of the 2 classes." in str(error.value)


def test_a_submission_of_other_ids_shows_both_kinds(tmp_path):
    with pytest.raises(UserError, match="none of the 2 images.*another split.*like '1.jpg', the reference's like '1'"):
        submission(tmp_path, {"results": {"1.jpg": [sentence()]}})


def test_ids_that_stand_twice_are_refused(tmp_path):
    one = json.dumps([sentence()])
    with pytest.raises(UserError, match="the key '1' is duplicated in one object"):
        submission(tmp_path, f'{{"results": {{"1": {one}, "1": {one}}}}}')
    with pytest.raises(UserError, match="image 1: is duplicated"):
        check_reference({"annotations": [REFERENCE[0], REFERENCE[0]]}, "R")


def test_swapped_files_are_named(tmp_path):
    with pytest.raises(UserError, match="are reference and submission swapped"):
        submission(tmp_path, {"annotations": REFERENCE})
    with pytest.raises(UserError, match="are reference and submission swapped"):
        check_reference({"results": {"1": [sentence()]}}, "R")


def test_an_image_size_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"image 1: image_size\[0\] must be a number > 0.0, found 0"):
        check_reference({"annotations": [{**REFERENCE[0], "image_size": [0, 5]}]}, "R")


# --- captions -------------------------------------------------------------------------------------------------------

REFERENCES = {1: ["a man rides"], 2: ["two dogs"]}


def test_empty_and_equal_captions_are_named():
    assert caption_doubts({1: "a man", 2: "a dog"}, REFERENCES, ["CIDEr"]) == []
    assert caption_doubts({1: "a man", 2: " "}, REFERENCES, []) == ["1 of 2 captions have no word, at image 2"]
    assert caption_doubts({1: "a", 2: "a"}, REFERENCES, []) == ["all 2 captions are the same: 'a'"]
    found = caption_doubts({1: "a", 2: "b"}, {1: ["a"], 2: ["", ""]}, [])
    assert found == ["1 of 2 images have references without a word: 2"]


def test_texts_that_are_not_tokenised_are_named_when_they_are_scored_as_tokens(with_java):
    texts = {1: ["A man rides.", "a man"], 2: ["Two dogs"]}
    scorer = CaptionScorer(texts, tokenized=True)
    found = scorer.score({1: "a man rides", 2: "two dogs"}, ["Bleu"]).doubts
    assert found == ("2 of the texts have capital letters: they are scored as tokens, but are not tokenised",)
    assert CaptionScorer(texts).score({1: "A man rides", 2: "Two dogs"}, ["Bleu"]).doubts == ()


def test_ciders_zero_of_one_image_is_explained():
    # log(images / images with the phrase) = log(1 / 1) = 0 for each phrase.
    result = CaptionScorer({1: ["a man rides a horse"]}, tokenized=True).score({1: "a man rides a horse"}, ["CIDEr"])
    assert result.values == {"CIDEr": 0.0}
    assert result.doubts[0].startswith("CIDEr is 0 for every caption") and "only one image" in result.doubts[0]
    twins = CaptionScorer({1: ["a man"], 2: ["a man"]}, tokenized=True).score({1: "a man", 2: "a man rides"}, ["CIDEr"])
    assert twins.values == {"CIDEr": 0.0} and "the same references" in twins.doubts[0]
    assert CaptionScorer({1: ["a man"]}, tokenized=True).score({1: "a man"}, ["Bleu"]).doubts == ()


def test_worked_cases_of_the_published_script_are_not_doubted_for_their_unit(shared_data):
    for case in json.loads((shared_data / "metrics" / "gvd_worked_cases.json").read_text(encoding="utf-8")):
        found = grounding_doubts(case["ref"], case["gen"], "gen") + grounding_doubts(case["ref"], case["gt"], "gt")
        assert not [doubt for doubt in found if "read as" in doubt or "fractions" in doubt]


def test_huge_numbers_are_no_trouble():
    with np.errstate(all="raise"):
        assert any("reach out of their image" in doubt for doubt in doubts(man=[0, 0, 1e300, 1e300]))
