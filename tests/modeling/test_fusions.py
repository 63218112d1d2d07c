"""The fusions beyond the paper on two and three regions, checked by hand, and the control that puts p and c into V."""

import math

import pytest
import torch

from slow_beam import slow_beam
from toys import CLASSES, RAW, WORDS, captions_of, for_test, toy_config, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.data.mapper import Flickr30kEntitiesDataset
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.fusions import StateCondition, fuse_log

SUM, LOG = {}, {"MODEL__SS_ATTENTION__FUSION": "log"}
STATE = {"MODEL__SS_ATTENTION__STATE_DIM": 2}


def test_the_product_weighs_alpha_by_beta_to_the_kappa():
    # alpha = (1/4, 3/4) from scores 0 and ln 3; beta = (2/3, 1/3); kappa 2: 1/4 * 4/9 : 3/4 * 1/9 = 4 : 3
    scores = torch.tensor([[[0.0, math.log(3.0)]]])
    log_beta = torch.tensor([[2 / 3, 1 / 3]]).log()
    gamma = fuse_log(scores, log_beta, torch.tensor(2.0))
    torch.testing.assert_close(gamma, torch.tensor([[[4 / 7, 3 / 7]]]))


def test_kappa_zero_gives_alpha_and_an_even_beta_changes_nothing():
    scores = torch.tensor([[[0.0, 1.0, -2.0]], [[3.0, 3.0, 0.0]]])
    uneven = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]).log()
    torch.testing.assert_close(fuse_log(scores, uneven, torch.tensor(0.0)), scores.softmax(-1))
    torch.testing.assert_close(fuse_log(scores, torch.full((2, 3), 1 / 3).log(), torch.tensor(5.0)), scores.softmax(-1))


def test_beta_of_the_state_starts_as_beta_and_then_follows_the_comparison():
    condition = StateCondition(hidden_size=1, semantic_size=2, dim=1)
    log_beta = torch.tensor([[0.25, 0.75]]).log()
    classes = torch.eye(2).unsqueeze(0)
    h = torch.tensor([[1.0], [-1.0]])
    started = condition(h, condition.keys(classes), log_beta).exp()
    torch.testing.assert_close(started, torch.tensor([[[0.25, 0.75]] * 2]))
    with torch.no_grad():
        condition.w_s.weight.fill_(math.log(3.0))
        condition.w_e.weight.copy_(torch.tensor([[1.0, 0.0]]))
    # h = 1: the first region's weight times 3, 3/4 : 3/4; h = -1: divided by 3, 1/12 : 9/12
    moved = condition(h, condition.keys(classes), log_beta).exp()
    torch.testing.assert_close(moved, torch.tensor([[[0.5, 0.5], [0.1, 0.9]]]))


@pytest.mark.parametrize("overrides", [LOG, STATE, LOG | STATE], ids=["log", "state", "log of a state's beta"])
def test_beam_search_equals_the_slow_beam_under_every_fusion(tmp_path, overrides):
    model = toy_model(tmp_path, **overrides).eval()
    with torch.no_grad():
        model.predictor.logits.weight.mul_(4.0)
        model.predictor.logits.bias[0] += 2.0
        if model.decoder.state_condition is not None:
            model.decoder.state_condition.w_s.weight.normal_(0, 2.0)
        # Four images of which some end early, so that the others' inputs are moved.
        samples = [for_test(toy_sample(i, regions)) for i, regions in ((1, 4), (2, 2), (3, 3), (4, 1))]
        captions = captions_of(model, samples)
        for sample, caption in zip(samples, captions, strict=True):
            words, score, regions = slow_beam(model, sample, 3, 6)
            assert str(caption) == " ".join(WORDS[w - 1] for w in words)
            assert caption.log_prob == pytest.approx(score, abs=1e-5)
            assert [w.region for w in caption.words] == regions


def test_padding_gets_no_weight_under_the_product(tmp_path):
    model = toy_model(tmp_path, **LOG).eval()
    inputs = dict(model.encode(model.preprocess_batch([for_test(toy_sample(1, 4)), for_test(toy_sample(2, 2))])))
    model.step(inputs, torch.tensor([1, 1]), 0)
    gamma = inputs[keys.GAMMA]
    torch.testing.assert_close(gamma.sum(1), torch.ones(2))
    assert gamma[1, 2:].tolist() == [0.0, 0.0]


def test_a_fusion_samples_the_same_other_weights(tmp_path):
    plain = toy_model(tmp_path, **SUM).state_dict()
    for overrides in (LOG, STATE):
        other = toy_model(tmp_path, **overrides).state_dict()
        assert set(plain) < set(other)
        assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_an_unknown_fusion_and_a_negative_width_are_refused_together(tmp_path):
    with pytest.raises(UserError, match=r"FUSION: expected one of \('sum', 'log'\), got 'product'") as error:
        toy_model(tmp_path, MODEL__SS_ATTENTION__FUSION="product", MODEL__SS_ATTENTION__STATE_DIM=-1)
    assert "STATE_DIM: expected 0 (off) or more, got -1" in str(error.value)


def test_the_control_reads_positions_and_classes_as_part_of_v(tmp_path):
    overrides = {"MODEL__SS_ATTENTION__ENABLED": False, "MODEL__VISUAL_EMBED__NAME": "SpatialSemanticEmbedding"}
    model = toy_model(tmp_path, **overrides).train()
    linear = model.visual_embed.embeddings
    assert linear.in_features == RAW + 5 + CLASSES
    sample = toy_sample(1, 2)
    stacked = torch.cat([sample[kfg.ATT_FEATS], sample[keys.SPATIAL], sample[keys.CLASS_PROBS]], dim=1)
    once = model.encode(model.preprocess_batch([sample]))
    torch.testing.assert_close(once[kfg.ATT_FEATS][0], torch.relu(linear(stacked)))
    # One row per caption in training.
    rows = model.encode(model.preprocess_batch([sample]), torch.tensor([0, 0]))
    torch.testing.assert_close(rows[kfg.ATT_FEATS][1], torch.relu(linear(stacked)))


def test_the_data_set_brings_class_probabilities_to_the_control(tmp_path):
    baseline = {"MODEL__SS_ATTENTION__ENABLED": False, "LOSSES__NAMES": ["CrossEntropy"]}
    plain = toy_config(tmp_path, **baseline)
    control = toy_config(tmp_path, MODEL__VISUAL_EMBED__NAME="SpatialSemanticEmbedding", **baseline)
    classes = [Flickr30kEntitiesDataset.from_config(cfg)["inputs"].num_classes for cfg in (plain, control)]
    assert classes == [None, CLASSES]
