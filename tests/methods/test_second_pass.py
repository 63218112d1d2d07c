"""A second pass with given v-hat: with the decoder's own v-hat it gives the decoder's own states."""

import pytest
import torch

from toys import TWO_IMAGES, toy_model
from xmodaler_ssattn import keys
from xmodaler_ssattn.fast.teacher_forcing import given_at_once, words_at_once
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.methods.second_pass import word_by_word
from xmodaler_ssattn.modeling.forcing import word_states

MODELS = {
    "updown": {"MODEL__SS_ATTENTION__ENABLED": False},
    "sum": {},
    "renormalised": {"MODEL__SS_ATTENTION__RENORMALIZE": True},
    "product": {"MODEL__SS_ATTENTION__FUSION": "log"},
    "beta of the state": {"MODEL__SS_ATTENTION__STATE_DIM": 2},
}


def double_batch(model) -> dict:
    """Two images with two captions each, in float64; the empty pairs ask for the attention of every word."""
    none = {keys.WORD_PAIRS: torch.zeros(0, 3), keys.PAIR_WEIGHTS: torch.zeros(0)}
    return model.preprocess_batch(
        [
            {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in {**s, **none}.items()}
            for s in TWO_IMAGES
        ]
    )


def own_v_hat(states, tokens) -> torch.Tensor:
    """(N, T, E): gamma V for one word after another; NaN where there is no word, which must not matter."""
    feats = states.rows[kfg.ATT_FEATS]
    v_hat = torch.full((*tokens.shape, feats.shape[2]), torch.nan, dtype=feats.dtype)
    step = states.plan.cells // len(tokens)
    for m, row in enumerate(states.plan.rows.tolist()):
        v_hat[row, step[m]] = states.gamma[m] @ feats[row]
    return v_hat


@pytest.mark.parametrize("name", MODELS)
def test_the_decoders_own_v_hat_gives_its_own_states(tmp_path, name):
    model = toy_model(tmp_path, **MODELS[name]).double().eval()
    batch = double_batch(model)
    tokens = batch[kfg.G_TOKENS_IDS]
    with torch.no_grad():
        states = word_states(model, batch, 0.0)
        v_hat = own_v_hat(states, tokens)
        slow, fast = (way(model, states, tokens, v_hat) for way in (word_by_word, given_at_once))
    torch.testing.assert_close(slow, states.hidden, atol=1e-12, rtol=0)
    if name == "beta of the state":
        assert fast is None
    else:
        torch.testing.assert_close(fast, states.hidden, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["updown", "sum"])
def test_both_ways_give_the_same_states_and_gradients_for_any_v_hat(tmp_path, name):
    model = toy_model(tmp_path, **MODELS[name]).double().eval()
    batch = double_batch(model)
    tokens = batch[kfg.G_TOKENS_IDS]
    v_hat = torch.rand(*tokens.shape, 5, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    v_hat.requires_grad_()
    parameters = [p for n, p in model.named_parameters() if "lstm" in n or "embed" in n]
    found = []
    for first, second in ((word_states, word_by_word), (words_at_once, given_at_once)):
        hidden = second(model, first(model, batch, 0.0), tokens, v_hat)
        uneven = (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum()
        found.append([hidden, *torch.autograd.grad(uneven, [v_hat, *parameters])])
    for slow, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-12, rtol=1e-10)
    assert found[0][1].abs().sum(-1).gt(0).sum() == len(found[0][0])  # only the v-hat of a word matters


def test_the_attention_has_no_part_in_the_second_pass(tmp_path):
    model = toy_model(tmp_path).double().eval()
    batch = double_batch(model)
    tokens = batch[kfg.G_TOKENS_IDS]
    states = word_states(model, batch, 0.0)
    v_hat = torch.zeros(*tokens.shape, 5, dtype=torch.double)
    hidden = word_by_word(model, states, tokens, v_hat)
    unused = torch.autograd.grad(hidden.sum(), list(model.decoder.att.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in unused)
    assert not torch.equal(hidden, states.hidden)
