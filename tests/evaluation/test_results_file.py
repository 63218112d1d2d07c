"""The results file: what goes in comes out, and what is wrong is named."""

import json

import numpy as np
import pytest

from xmodaler_ssattn.caption import Attention, GroundedCaption, GroundedWord
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.results import (
    ImageResult,
    Results,
    decode_array,
    encode_array,
    gvd_predictions,
    read_results,
    sentence_of,
    write_results,
)

BOXES = np.array([[0.1, 0.2, 10.3, 20.4], [5, 6, 7, 8]], dtype=np.float32)


def grounded(text, regions, **more):
    words = [
        GroundedWord(word, region, tuple(float(v) for v in BOXES[region]), float(np.float32(0.1)))
        for word, region in zip(text.split(), regions)
    ]
    return GroundedCaption(words, boxes_px=BOXES, image_size=(30.0, 40.0), **more)


def example():
    attention = Attention(np.eye(2, dtype=np.float32), np.array([0.25, 0.75], np.float32), np.ones((2, 2), np.float32))
    greedy = grounded("men men", [0, 1])
    main = grounded("two men", [1, 0], attention=attention, greedy=greedy, log_prob=-3.5)
    header = {"split": "val", "epoch": 3, "ground_by": "gamma", "scores": {"CIDEr": 0.5, "F1_all": float("nan")}}
    return Results((ImageResult(7, main), ImageResult(8, "plain text")), {"men": "man"}, header)


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, example(), save_attention=True)
    read = read_results(path)
    assert read.header == {**example().header, "scores": {"CIDEr": 0.5, "F1_all": None}}
    assert read.object_words == {"men": "man"}
    first, second = read.images
    original = example().images[0].caption
    assert (first.image_id, str(first.caption), first.caption.log_prob) == (7, "two men", -3.5)
    assert str(first.caption.greedy) == "men men" and first.caption.image_size == (30.0, 40.0)
    for word, expected in zip(first.caption.words, original.words):
        assert (word.text, word.region) == (expected.text, expected.region)
        assert np.float32(word.box_px).tolist() == np.float32(expected.box_px).tolist()  # exact in float32
        assert np.float32(word.weight) == np.float32(expected.weight)
    assert first.caption.boxes_px.tolist() == BOXES.tolist()
    assert first.caption.attention.beta.tolist() == [0.25, 0.75]
    assert first.caption.attention.alpha.tolist() == np.eye(2).tolist()
    assert second.caption == "plain text" and not isinstance(second.caption, GroundedCaption)


def test_boxes_and_attention_are_left_out_unless_requested(tmp_path):
    write_results(tmp_path / "r.json", example())
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["images"][0]
    assert "boxes_px" not in record and "attention" not in record["caption"]
    word = record["caption"]["words"][1]
    assert word == {"text": "men", "region": 0, "box_px": [0.1, 0.2, 10.3, 20.4], "weight": 0.1}


def test_an_array_survives_as_float16():
    array = np.array([[0.5, 1e-3], [1.5, 0.0]], np.float32)
    assert decode_array(encode_array(array)).tolist() == array.astype(np.float16).astype(np.float32).tolist()
    with pytest.raises(UserError, match="not a float16 array"):
        decode_array({"dtype": "float16", "shape": [3], "base64": "AAA="})


def test_a_baseline_without_beta_keeps_none(tmp_path):
    attention = Attention(np.ones((1, 2), np.float32), None, np.ones((1, 2), np.float32))
    results = Results((ImageResult(1, grounded("dog", [0], attention=attention)),))
    write_results(tmp_path / "r.json", results, save_attention=True)
    assert read_results(tmp_path / "r.json").images[0].caption.attention.beta is None


def test_a_sentence_keeps_repeated_object_words_with_their_positions():
    words = grounded("men see a men", [0, 0, 1, 1]).words
    sentence = sentence_of(words, {"men": "man"})
    assert sentence["clss"] == ["man", "man"] and sentence["idx_in_sent"] == [0, 3]
    assert np.float32(sentence["bbox"]).tolist() == BOXES.tolist()


def test_grounding_takes_the_greedy_caption_and_refuses_plain_text():
    predictions = gvd_predictions(example().images[:1], {"men": "man"})
    assert predictions["7"][0]["idx_in_sent"] == [0, 1]  # "men men", not "two men"
    with pytest.raises(UserError, match="image 8: its caption has no regions"):
        gvd_predictions(example().images, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema="other"), 'expected an object with "schema"'),
        (lambda d: d.update(version=2), "version 2 is not the one this program reads"),
        (lambda d: d.update(images={}), "a list images"),
        (lambda d: d["images"][0].update(image_id="x"), "image x: image_id must be a whole number, found 'x'"),
        (lambda d: d["images"][0].update(image_size=[1]), "image 7: image_size must be a list of length 2"),
        (lambda d: d["images"][0].update(caption=None), "image 7: caption must be an object, found None"),
        (
            lambda d: d["images"][0]["caption"]["words"][0].update(box_px=[1, 2, 3]),
            r"image 7: caption.words\[0\].box_px must be a list of length 4, found \[1, 2, 3\]",
        ),
        (
            lambda d: d["images"][0]["greedy"]["words"][1].update(region=-1),
            r"image 7: greedy.words\[1\].region must be a whole number >= 0, found -1",
        ),
        (
            lambda d: d["images"][0]["caption"]["words"][0].update(weight=None),
            r"image 7: caption.words\[0\].weight must be a number, found None",
        ),
        (lambda d: d["images"].append(3), "image number 2: it must be an object, found 3"),
        (lambda d: d["images"].append(d["images"][0]), "image 7 is duplicated"),
    ],
)
def test_a_wrong_field_is_named_with_its_image(tmp_path, change, message):
    path = tmp_path / "r.json"
    write_results(path, example())
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_results(path)
