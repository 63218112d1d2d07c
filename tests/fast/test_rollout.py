"""The rollout over whole captions against the decoder word by word: the same losses and gradients."""

import pytest
import torch

from toys import TWO_IMAGES, toy_config, toy_model, toy_sample, trained_once
from xmodaler_ssattn.fast import ss_decoder
from xmodaler_ssattn.fast.ss_decoder import rolls_out
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.forcing import CaptionPlan

SAMPLES = [*TWO_IMAGES, toy_sample(3, 1, [[2, 2], []])]


def both_ways(monkeypatch, cfg, model, ss_prob: float = 0.0):
    assert rolls_out(model.decoder)
    fast = trained_once(cfg, model, SAMPLES, ss_prob)
    with monkeypatch.context() as patch:
        patch.setattr(ss_decoder, "rolls_out", lambda decoder: False)
        slow = trained_once(cfg, model, SAMPLES, ss_prob)
    return fast, slow


def assert_same(fast, slow):
    torch.testing.assert_close(fast[0], slow[0], atol=1e-6, rtol=1e-5)
    for name, gradient in slow[1].items():
        torch.testing.assert_close(fast[1][name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("enabled", [True, False])
def test_loss_and_every_gradient_equal_the_word_by_word_loop(tmp_path, monkeypatch, activation, enabled):
    overrides = {"MODEL__SS_ATTENTION__ACTIVATION": activation, "MODEL__SS_ATTENTION__ENABLED": enabled}
    if not enabled:
        overrides["LOSSES__NAMES"] = ["CrossEntropy"]
    cfg = toy_config(tmp_path, **overrides)
    assert_same(*both_ways(monkeypatch, cfg, toy_model(tmp_path, **overrides).train()))


def test_the_product_of_alpha_and_beta_equals_the_loop_and_teaches_kappa(tmp_path, monkeypatch):
    overrides = {"MODEL__SS_ATTENTION__FUSION": "log"}
    fast, slow = both_ways(monkeypatch, toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train())
    assert_same(fast, slow)
    assert fast[1]["decoder.kappa"].abs() > 1e-6


def test_scheduled_sampling_that_always_takes_the_best_word_equals_the_loop(tmp_path, monkeypatch):
    cfg = toy_config(tmp_path)
    model = toy_model(tmp_path).train()
    sampled = []

    def best(hidden):
        sampled.append(len(hidden))
        return model.predictor.logits(hidden).argmax(1)

    monkeypatch.setattr(model, "sample_words", best)
    fast, slow = both_ways(monkeypatch, cfg, model, ss_prob=1.0)
    assert_same(fast, slow)
    # lengths with the end are 4 3 | 2 5 | 3 1: after the first step 5, 4, 2, 1 captions still have a word
    assert sampled[:4] == [5, 4, 2, 1]
    given = both_ways(monkeypatch, cfg, model, ss_prob=0.0)[0]
    name = "CrossEntropy Loss(G)"
    assert not torch.isclose(given[0][name], fast[0][name])  # sampling did change the words


def test_scheduled_sampling_with_dropout_on_words_uses_one_mask_for_both_passes(tmp_path, monkeypatch):
    model = toy_model(tmp_path, MODEL__TOKEN_EMBED__DROPOUT=0.5).train()
    monkeypatch.setattr(model, "sample_words", lambda hidden: torch.full((len(hidden),), 2))
    seen = []
    original = ss_decoder.roll_out

    def spy(decoder, inputs, words):
        hidden = original(decoder, inputs, words)
        again = torch.cat([words.x1_of_step(t, torch.zeros(n, 8)) for t, n in enumerate(words.sizes)])
        seen.append((again, words.x1()))
        return hidden

    monkeypatch.setattr(ss_decoder, "roll_out", spy)
    batch = model.preprocess_batch(SAMPLES)
    model({**batch, kfg.SS_PROB: 1.0})
    torch.testing.assert_close(*seen[0])
    assert (seen[0][0] != seen[0][0][0]).any()


def test_gradients_agree_with_finite_differences_in_double_precision(tmp_path):
    """Only the numbers decide: perturb a few weights of each matrix and look at the loss."""
    model = toy_model(tmp_path, MODEL__SS_ATTENTION__ACTIVATION="tanh").double().train()
    samples = [
        {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in s.items()} for s in SAMPLES
    ]

    def loss():
        out = model(model.preprocess_batch(samples))
        return torch.nn.functional.cross_entropy(out[kfg.G_LOGITS].double(), out[kfg.G_TARGET_IDS])

    model.zero_grad()
    loss().backward()
    for name, parameter in model.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in {0, len(flat) // 2, len(flat) - 1}:
            old, step = flat[index].item(), 1e-3
            with torch.no_grad():
                flat[index] = old + step
                above = loss().item()
                flat[index] = old - step
                below = loss().item()
                flat[index] = old
            # states inside the rollout are float32: differences are good to some 1e-4
            assert gradient[index].item() == pytest.approx((above - below) / (2 * step), abs=3e-4), name


def test_dropout_inside_the_recurrence_takes_the_loop(tmp_path):
    for key in ("DROPOUT1", "DROPOUT2", "ATT_EMBED_DROPOUT"):
        model = toy_model(tmp_path, **{f"MODEL__UPDOWN__{key}": 0.5})
        assert not rolls_out(model.train().decoder)
        assert rolls_out(model.eval().decoder)
        losses, _ = trained_once(toy_config(tmp_path), model.train(), SAMPLES, ss_prob=0.5)
        assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_beta_that_depends_on_the_state_takes_the_loop(tmp_path):
    overrides = {"MODEL__SS_ATTENTION__STATE_DIM": 2}
    model = toy_model(tmp_path, **overrides)
    assert not rolls_out(model.train().decoder)
    assert not rolls_out(model.eval().decoder)
    _, grads = trained_once(toy_config(tmp_path, **overrides), model.train(), SAMPLES)
    # W_s starts at 0: it learns at once, W_e from the second step on.
    assert grads["decoder.state_condition.w_s.weight"].abs().max() > 0
    assert not grads["decoder.state_condition.w_e.weight"].any()


def test_a_plan_orders_captions_longest_first_and_packs_step_after_step():
    # captions of 2, 3 and 1 words in a (3, 4) token matrix
    plan = CaptionPlan.of([2, 3, 1], 4, torch.device("cpu"))
    assert plan.order.tolist() == [1, 0, 2]
    assert plan.sizes == [3, 2, 1]
    # flattened index = caption * 4 + step: step 0 of captions 1, 0, 2; step 1 of 1, 0; step 2 of 1
    assert plan.words.tolist() == [4, 0, 8, 5, 1, 6]
    assert plan.rows.tolist() == [0, 1, 2, 0, 1, 0]
    # a (T, N) grid of steps and places in the order, flattened: step 0 of all three, step 1 of two, step 2 of one
    assert plan.cells.tolist() == [0, 1, 2, 3, 4, 6]


def test_captions_of_equal_length_keep_their_order():
    assert CaptionPlan.of([2, 2, 2], 2, torch.device("cpu")).order.tolist() == [0, 1, 2]
