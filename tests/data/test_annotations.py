"""The annotation file: written whole, read record by record, and every way of breaking it is named."""

import copy
import json

import pytest

from data.entities_generator import phrase
from xmodaler_ssattn.data.annotations import annotation_header, coco_reference, gvd_reference, read_annotations
from xmodaler_ssattn.data.json_list import json_list
from xmodaler_ssattn.errors import UserError

CAPTION = {
    "raw": "Two men watch a dog .",
    "tokens": ["two", "men", "watch", "a", "dog"],
    "phrases": [
        phrase(0, 2, 1, "man", "7", (0, 10, 20, 40), (30, 5, 50, 30)),
        phrase(3, 5, None, None, "8", (1, 1, 2, 2)),
        phrase(4, 5, 4, "dog", "9"),
    ],
}
IMAGE = {"image_id": 12, "width": 500, "height": 400, "captions": [CAPTION]}


def write(path, images=(IMAGE,), split="train"):
    with json_list(path, annotation_header(split, "test", False, "rule", ["man"]), "images") as writer:
        for image in images:
            writer.add(image)
    return path


def test_what_is_written_is_plain_json_and_is_read_back(tmp_path):
    second = {**IMAGE, "image_id": 13}
    path = write(tmp_path / "train.json", [IMAGE, second])
    content = json.loads(path.read_text())
    assert content["schema"] == "xmodaler_ssattn/annotations" and content["images"] == [IMAGE, second]
    annotations = read_annotations(path, "train")
    assert annotations.images == [IMAGE, second]
    assert annotations.header["classes"] == ["man"] and "images" not in annotations.header


def test_the_same_json_in_another_layout_is_read_as_well(tmp_path):
    path = write(tmp_path / "train.json")
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    assert read_annotations(path).images == [IMAGE]


def test_nothing_is_left_when_writing_fails(tmp_path):
    with pytest.raises(RuntimeError), json_list(tmp_path / "train.json", {}, "images") as writer:
        writer.add(IMAGE)
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []


def test_a_file_cut_short_is_named(tmp_path):
    path = write(tmp_path / "train.json", [IMAGE, {**IMAGE, "image_id": 13}])
    text = path.read_text()
    path.write_text(text[: text.index("\n]}")])
    with pytest.raises(UserError, match=r"train\.json is cut short"):
        read_annotations(path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match=r"train\.json, line \d: not valid JSON"):
        read_annotations(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.update(image_id="12"), "image_id must be a whole number, found '12'"),
        (lambda image: image.pop("width"), "the key 'width' is missing"),
        (lambda image: image.update(height=0), "height must be a whole number >= 1, found 0"),
        (lambda image: image.update(captions=[]), r"captions must be a list of length >= 1, found \[\]"),
        (lambda image: image["captions"][0].pop("raw"), r"captions\[0\]: the key 'raw' is missing"),
        (lambda image: image["captions"][0]["tokens"].append(""), r"tokens\[5\] must be text of length >= 1"),
        (
            lambda image: image["captions"][0]["phrases"][0].update(end=6),
            r"captions\[0\]: phrase 0 to 6, head 1, does not fit 5 tokens",
        ),
        (lambda image: image["captions"][0]["phrases"][0].update(head=3), "head 3, does not fit"),
        (lambda image: image["captions"][0]["phrases"][0].update({"class": None}), "both a class and a head"),
        (lambda image: image["captions"][0]["phrases"][0].update(boxes=[[5, 0, 4, 9]]), "is not x1 <= x2"),
        (lambda image: image["captions"][0]["phrases"][0].update(boxes=[["1", 2, 3, 4]]), r"s\[0\]\[0\] must be a num"),
        (lambda image: image["captions"][0]["phrases"][0].update(boxes=[[1, 2, 3]]), "must be a list of length >= 4"),
        (lambda image: image.update(width=True), "width must be a whole number, found True"),
        (lambda image: image.update(image_id=-7), "image_id must be a whole number >= 0, found -7"),
        (lambda image: image.update(image_id=2**63), "image_id must be a whole number <= 9223372036854775807"),
    ],
)
def test_a_broken_record_is_named_with_file_image_and_key(tmp_path, change, message):
    broken = copy.deepcopy(IMAGE)
    broken["image_id"] = 99
    change(broken)
    with pytest.raises(UserError, match=message) as caught:
        read_annotations(write(tmp_path / "train.json", [IMAGE, broken]))
    assert "train.json: image number 1 (image_id" in str(caught.value)


def test_missing_foreign_and_repeated_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist. Write it with `xmodaler prepare annotations`"):
        read_annotations(tmp_path / "train.json")
    with pytest.raises(UserError, match="its split is 'val', expected 'train'"):
        read_annotations(write(tmp_path / "train.json", split="val"), "train")
    with pytest.raises(UserError, match="image 12 is duplicated"):
        read_annotations(write(tmp_path / "train.json", [IMAGE, IMAGE]))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match="is not an annotation file"):
        read_annotations(tmp_path / "other.json")


def test_the_grounding_reference_has_phrases_with_class_and_box_and_their_union():
    # boxes of chain 7: x 0..20 and 30..50, y 10..40 and 5..30 -> union 0, 5, 50, 40; the others lack a class or a box
    assert gvd_reference(IMAGE) == {
        "image_id": 12,
        "image_size": [500, 400],
        "captions": [
            {
                "tokens": ["two", "men", "watch", "a", "dog"],
                "process_idx": [1],
                "process_clss": ["man"],
                "process_bnd_box": [[0, 5, 50, 40]],
            }
        ],
    }


def test_the_caption_reference_has_the_sentences_as_written():
    assert coco_reference(IMAGE, 5) == ({"id": 12}, [{"image_id": 12, "id": 5, "caption": "Two men watch a dog ."}])
