"""Boxes on paper, and the caption object through everything that may happen to a str."""

import copy
import json
import pickle

import numpy as np
import pytest

from xmodaler_ssattn.boxes import area, iou, iou_plus_one, spatial_vectors
from xmodaler_ssattn.caption import Attention, GroundedCaption, GroundedWord, ground_words


def test_area_and_overlap_of_two_boxes():
    a, b = np.array([[0, 0, 10, 10]]), np.array([[5, 5, 15, 15], [10, 0, 20, 10], [0, 0, 10, 10]])
    assert area(b).tolist() == [100, 100, 100]
    # 5 x 5 = 25 of 100 + 100 - 25; touching boxes share nothing; equal boxes share all
    assert iou(a, b) == pytest.approx(np.array([[25 / 175, 0.0, 1.0]]))
    # one pixel more on every side: 6 x 6 = 36 of 121 + 121 - 36; 1 x 11 = 11 of 121 + 121 - 11
    assert iou_plus_one(a, b) == pytest.approx(np.array([[36 / 206, 11 / 231, 1.0]]))


def test_no_boxes_and_empty_boxes():
    assert iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)
    point = np.array([[2, 2, 2, 2]])
    assert iou(point, point).tolist() == [[0.0]]  # 0 / 0 is 0
    assert area(np.array([[5, 5, 1, 1]])).tolist() == [0.0]  # inverted
    with pytest.raises(ValueError, match=r"\(n, 4\)"):
        iou(np.zeros((2, 3)), np.zeros((1, 4)))


def test_the_spatial_vector_is_in_the_papers_order():
    # 200 x 100 image, box x 20..60, y 10..30: x1/W, x2/W, y1/H, y2/H, 40 * 20 / 20000
    p = spatial_vectors(np.array([[20, 10, 60, 30]]), 200, 100)
    assert p.dtype == np.float32 and p[0].tolist() == pytest.approx([0.1, 0.3, 0.1, 0.3, 0.04])
    whole = spatial_vectors(np.array([[0, 0, 200, 100]]), 200, 100)
    assert whole[0].tolist() == [0, 1, 0, 1, 1]
    with pytest.raises(ValueError, match="positive"):
        spatial_vectors(np.zeros((1, 4)), 0, 100)


def words() -> tuple[GroundedWord, ...]:
    return (GroundedWord("a", 0, (0.0, 0.0, 1.0, 1.0), 0.5), GroundedWord("dog", 2, (1.0, 2.0, 3.0, 4.0), 0.75))


def caption(**kwargs) -> GroundedCaption:
    return GroundedCaption(words(), boxes_px=np.ones((3, 4)), image_size=(10.0, 20.0), log_prob=-1.5, **kwargs)


def test_a_grounded_caption_is_a_string():
    assert caption() == "a dog" and caption().split() == ["a", "dog"] and {caption(): 1}["a dog"] == 1
    assert json.dumps({"caption": caption()}) == '{"caption": "a dog"}'
    assert GroundedCaption(()) == ""


@pytest.mark.parametrize("copied", [lambda c: pickle.loads(pickle.dumps(c)), copy.copy, copy.deepcopy])
def test_copies_keep_what_the_caption_carries(copied):
    attention = Attention(np.zeros((2, 3)), None, np.ones((2, 3)))
    original = caption(attention=attention, greedy=caption(), references=[caption()])
    twin = copied(original)
    assert type(twin) is GroundedCaption and twin == original and twin.words == words()
    assert twin.image_size == (10.0, 20.0) and twin.log_prob == -1.5
    assert np.array_equal(twin.boxes_px, original.boxes_px)
    assert np.array_equal(twin.attention.gamma, attention.gamma) and twin.attention.beta is None
    assert twin.greedy.words == words() and twin.references[0].words == words()


def test_companions_go_onto_a_copy():
    first = caption()
    both = first.with_companions(greedy=caption(), references=[caption()])
    assert first.greedy is None and both.greedy == "a dog" and both.references == ("a dog",)
    assert both.words == first.words and both.log_prob == -1.5


def test_words_take_the_region_with_the_largest_weight_ties_the_lowest():
    weights = np.array([[0.2, 0.5, 0.9], [0.4, 0.4, 0.9], [1.0, 0.0, 0.0]])
    boxes = np.array([[0, 0, 1, 1], [2, 2, 3, 3], [9, 9, 9, 9]], dtype=np.float32)
    grounded = ground_words(["x", "y"], weights, boxes, num_regions=2)  # the third column is padding
    assert [(w.text, w.region, w.weight) for w in grounded] == [("x", 1, 0.5), ("y", 0, 0.4)]
    assert grounded[0].box_px == (2.0, 2.0, 3.0, 3.0)
    assert ground_words([], weights, boxes, 2) == ()
    with pytest.raises(ValueError, match="without regions"):
        ground_words(["x"], weights, boxes, 0)
