"""Intervals over images."""

import math

import numpy as np
import pytest

from xmodaler_ssattn.evaluation.bootstrap import difference, image_weights, interval
from xmodaler_ssattn.evaluation.forced import attention_accuracy, match_forced
from xmodaler_ssattn.evaluation.grounding import generated_replicates, match_generated
from xmodaler_ssattn.evaluation.metrics.cider import Cider

CAPTION = {"tokens": ["man"], "process_idx": [0], "process_clss": ["man"], "process_bnd_box": [[0, 0, 9, 9]]}
HIT = {"clss": ["man"], "idx_in_sent": [0], "bbox": [[0, 0, 9, 9]]}
MISS = {"clss": ["man"], "idx_in_sent": [0], "bbox": [[50, 50, 59, 59]]}


def test_each_replicate_samples_as_many_images_as_there_are():
    weights = image_weights(7, 40, seed=1)
    assert weights.shape == (40, 7) and (weights.sum(axis=1) == 7).all() and (weights == weights.round()).all()
    assert (weights == image_weights(7, 40, seed=1)).all() and not (weights == image_weights(7, 40, seed=2)).all()


def test_an_interval_leaves_out_what_is_zero_over_zero():
    low, high = interval(np.array([*range(101), math.nan]))  # 0 .. 100: quantiles are the values themselves
    assert (low, high) == pytest.approx((2.5, 97.5))
    assert all(math.isnan(v) for v in interval(np.array([math.nan])))


def test_the_spread_of_a_mean_is_that_of_its_standard_error():
    rows = np.random.default_rng(0).normal(size=400)
    values = Cider().values(rows, image_weights(400, 2000))["CIDEr"]
    assert values.std() == pytest.approx(rows.std() / 20, rel=0.1)


def test_grounding_replicates_are_scores_of_the_sampled_images():
    reference = [{"image_id": i, "captions": [CAPTION]} for i in (1, 2)]
    predictions = {"1": [HIT], "2": [MISS]}
    weights = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    scores = generated_replicates(match_generated(reference, predictions, str), weights)
    assert scores["precision_all"].tolist() == [1.0, 0.0, 0.5]
    forced = match_forced(reference, predictions)
    assert [attention_accuracy(forced, image_weights=row) for row in weights] == [1.0, 0.0, 0.5]


def test_a_paired_difference_that_never_changes_sign_is_clear_and_none_is_not():
    a = np.linspace(0, 1, 99)
    clear = difference(a, a + 0.1)
    assert clear["low"] == pytest.approx(0.1) and clear["high"] == pytest.approx(0.1)
    assert clear["p"] == pytest.approx(2 / 100)
    assert difference(a, a)["p"] == 1.0
