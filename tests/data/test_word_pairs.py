"""Which regions an object word is paired with, on boxes whose overlaps can be computed by hand."""

import numpy as np
import pytest

from data.entities_generator import phrase
from toys import toy_config
from xmodaler_ssattn.data.word_pairs import PairRule, pair_rule, regions_of_box, sample_pairs, word_pairs
from xmodaler_ssattn.errors import UserError

# IoU with the box (0, 0, 10, 10): 1, 80 / 100 = 0.8, 50 / 100 = 0.5 (not above 0.5), 25 / 175 = 1 / 7, 0.
REGIONS = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [5, 5, 15, 15], [50, 50, 60, 60]], dtype=np.float32)
BOX = [0, 0, 10, 10]


def caption(*phrases, words=6):
    return {"raw": "", "tokens": ["w"] * words, "phrases": list(phrases)}


def pairs(*phrases, words=20, rule=None):
    return word_pairs(REGIONS, caption(*phrases), words, rule or PairRule()).tolist()


def test_threshold_takes_all_regions_strictly_above_the_iou():
    assert pairs(phrase(0, 2, 1, "man", "1", BOX)) == [[1, 0, 1], [1, 1, 1]]
    assert pairs(phrase(0, 2, 1, "man", "1", BOX), rule=PairRule(min_iou=0.4)) == [[1, 0, 1], [1, 1, 1], [1, 2, 1]]


def test_best_takes_the_first_region_with_the_largest_iou():
    assert pairs(phrase(0, 2, 1, "man", "1", BOX), rule=PairRule("best")) == [[1, 0, 1]]
    # (0, 0, 10, 9): 90 / 100 with the first region and 80 / 90 with the second
    assert pairs(phrase(0, 1, 0, "man", "1", [0, 0, 10, 9]), rule=PairRule("best")) == [[0, 0, 1]]
    tied = np.array([0.2, 0.7, 0.7])
    assert regions_of_box(tied, PairRule("best"))[0].tolist() == [1]


def test_soft_gives_every_region_the_softmax_of_its_iou():
    found = np.array(pairs(phrase(0, 2, 1, "man", "1", BOX), rule=PairRule("soft", temperature=0.5)))
    wanted = np.exp(np.array([1, 0.8, 0.5, 1 / 7, 0]) / 0.5)
    assert found[:, :2].tolist() == [[1, region] for region in range(5)]
    np.testing.assert_allclose(found[:, 2], wanted / wanted.sum(), rtol=1e-6)
    # no region is above the IoU: the word does not count
    assert pairs(phrase(0, 2, 1, "man", "1", [90, 90, 99, 99]), rule=PairRule("soft")) == []


def test_a_phrase_of_several_boxes_is_its_union_and_else_each_of_them():
    # union of (0, 0, 5, 10) and (5, 0, 10, 10) = (0, 0, 10, 10)
    assert pairs(phrase(0, 1, 0, "men", "1", [0, 0, 5, 10], [5, 0, 10, 10])) == [[0, 0, 1], [0, 1, 1]]
    # the union (0, 0, 60, 60) overlaps no region by half: a region of any single box is right
    assert pairs(phrase(0, 1, 0, "men", "1", BOX, [50, 50, 60, 60])) == [[0, 0, 1], [0, 1, 1], [0, 4, 1]]


def test_words_without_a_pair():
    without_box = phrase(0, 1, 0, "man", "1")
    without_class = {**phrase(0, 1, 0, "man", "1", BOX), "class": None, "head": None}
    assert pairs() == pairs(without_box) == pairs(without_class) == []
    late = phrase(2, 4, 3, "man", "1", BOX)
    assert pairs(late, words=3) == []  # the fourth word is cut
    assert pairs(late, words=4) == [[3, 0, 1], [3, 1, 1]]
    assert word_pairs(np.zeros((0, 4)), caption(phrase(0, 1, 0, "man", "1", BOX)), 9, PairRule()).shape == (0, 3)


def test_the_pairs_of_a_sample_number_its_captions_also_when_one_comes_twice():
    of_caption = [
        np.array([[1, 4, 0.5]], np.float32),
        np.zeros((0, 3), np.float32),
        np.array([[0, 2, 1.0]], np.float32),
    ]
    table, weights = sample_pairs(of_caption, [2, 1, 0, 2])
    assert table.dtype == np.int64 and weights.dtype == np.float32
    assert table.tolist() == [[0, 0, 2], [2, 1, 4], [3, 0, 2]]
    assert weights.tolist() == [1.0, 0.5, 1.0]
    assert sample_pairs(of_caption, [1])[0].shape == (0, 3)


def test_the_rule_comes_from_the_config(tmp_path):
    names = {"LOSSES__NAMES": ["CrossEntropy", "WordAttentionLoss"]}
    assert pair_rule(toy_config(tmp_path)) is None  # the loss is not named
    assert pair_rule(toy_config(tmp_path, **names)) == PairRule("threshold", 0.5, 0.5)
    assert pair_rule(toy_config(tmp_path, **names, LOSSES__WORD_ATTENTION__WEIGHT=0.0)) is None
    bad = {"POSITIVES": "all", "MIN_IOU": 1.0, "TEMPERATURE": 0.0}
    with pytest.raises(UserError) as error:
        pair_rule(toy_config(tmp_path, **names, **{f"LOSSES__WORD_ATTENTION__{k}": v for k, v in bad.items()}))
    assert all(name in str(error.value) for name in bad)
