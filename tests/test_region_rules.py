"""The rules that choose a word's region, on three regions whose overlaps can be computed by hand."""

import numpy as np
import pytest

from xmodaler_ssattn.region_rules import RULES, RegionRule

# Regions 0 and 1 overlap by 80 / 100 = 0.8, region 2 is apart; areas 100, 80, 400.
BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 70, 70]], dtype=np.float32)
# Background, man, dog, and a second column that also names a dog.
PROBS = np.array([[0.1, 0.6, 0.2, 0.1], [0.0, 0.2, 0.4, 0.4], [0.2, 0.3, 0.1, 0.4]], dtype=np.float32)
WEIGHTS = np.array([[0.35, 0.25, 0.4]] * 3, dtype=np.float32)
TEXTS = ["a", "man", "dog"]
COLUMNS = {"man": [1], "dog": [2, 3], "cat": []}  # no column names a cat


def scores(name, power=1.0):
    return RegionRule(name, power, COLUMNS).scores(TEXTS, WEIGHTS, BOXES, PROBS)


def test_argmax_is_the_attention_itself():
    assert scores("argmax") is WEIGHTS


def test_pooled_lets_overlapping_regions_vote_together():
    # 0.35 + 0.8 x 0.25 = 0.55, 0.25 + 0.8 x 0.35 = 0.53, 0.4
    np.testing.assert_allclose(scores("pooled"), [[0.55, 0.53, 0.4]] * 3, rtol=1e-6)


def test_class_multiplies_the_attention_of_object_words():
    wanted = [[0.35, 0.25, 0.4], [0.35 * 0.6, 0.25 * 0.2, 0.4 * 0.3], [0.35 * 0.3, 0.25 * 0.8, 0.4 * 0.5]]
    np.testing.assert_allclose(scores("class"), wanted, rtol=1e-6)
    np.testing.assert_allclose(scores("class", 0.5)[1], [0.35 * 0.6**0.5, 0.25 * 0.2**0.5, 0.4 * 0.3**0.5], rtol=1e-6)
    np.testing.assert_allclose(scores("class", 0.0), WEIGHTS)  # the power 0 is the attention


def test_the_controls_do_not_read_the_attention_of_object_words():
    np.testing.assert_allclose(scores("detector"), [WEIGHTS[0], [0.6, 0.2, 0.3], [0.3, 0.8, 0.5]], rtol=1e-6)
    wanted = [WEIGHTS[0], [60, 16, 120], [30, 64, 200]]
    np.testing.assert_allclose(scores("largest_detector"), wanted, rtol=1e-6)


def test_a_class_without_a_column_leaves_the_controls_without_attention():
    found = {name: RegionRule(name, 1.0, COLUMNS).scores(["cat"], WEIGHTS[:1], BOXES, PROBS)[0] for name in RULES}
    assert found["class"].tolist() == WEIGHTS[0].tolist()
    assert found["detector"].tolist() == [1, 1, 1]  # the first region
    assert found["largest_detector"].tolist() == [100, 80, 400]


@pytest.mark.parametrize("name", RULES)
def test_no_word_and_a_word_that_names_no_class(name):
    rule = RegionRule(name, 1.0, COLUMNS)
    assert rule.scores([], WEIGHTS[:0], BOXES, PROBS).shape == (0, 3)
    assert rule.scores(["runs"], WEIGHTS[:1], BOXES, PROBS).argmax() == (0 if name == "pooled" else 2)
