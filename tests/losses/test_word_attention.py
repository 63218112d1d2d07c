"""Supervision per word: the loss by hand, and the same loss and gradients on every path."""

import math

import pytest
import torch

from fast.test_graphs import Replayer
from toys import TWO_IMAGES, toy_config, toy_model, trained_once
from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.fast import ss_decoder
from xmodaler_ssattn.fast.graphs import CapturedForcing
from xmodaler_ssattn.host import LOSSES_REGISTRY, kfg
from xmodaler_ssattn.losses import WordAttentionLoss, word_attention_loss

NAME = "Word Attention Loss"
# (caption, word, region) of each image of TWO_IMAGES (five and two regions); the weights are uneven on purpose.
PAIRS = [([[0, 0, 4], [0, 2, 1], [0, 2, 3], [1, 0, 0]], [1, 0.5, 1, 2]), ([[1, 3, 1]], [1])]
WORDS = {"LOSSES__NAMES": ["CrossEntropy", "GroundingLoss", "WordAttentionLoss"]}


def with_pairs(samples=TWO_IMAGES, pairs=PAIRS):
    return [
        {**sample, keys.WORD_PAIRS: torch.tensor(table).view(-1, 3), keys.PAIR_WEIGHTS: torch.tensor(weights) * 1.0}
        for sample, (table, weights) in zip(samples, pairs, strict=True)
    ]


def loss(attention, *pairs, **settings) -> float:
    words, regions, weights = zip(*pairs) if pairs else ((), (), ())
    parts = torch.tensor(words).long(), torch.tensor(regions).long(), torch.tensor(weights).float()
    return word_attention_loss(torch.tensor(attention), *parts, **settings).item()


def test_the_loss_is_minus_the_mean_logarithm_of_the_attention_to_the_right_regions():
    alpha = torch.tensor([0.0, math.log(3)]).softmax(0).tolist()  # 1/4, 3/4
    assert loss([alpha], (0, 1, 1.0)) == pytest.approx(-math.log(0.75))
    # three pairs of two words: (log 4 + log 4/3 + log 2) / 3
    two = [alpha, [0.5, 0.5]]
    assert loss(two, (0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0)) == pytest.approx(math.log(4 * 4 / 3 * 2) / 3)
    # per word: ((log 4 + log 4/3) / 2 + log 2) / 2
    wanted = (math.log(16 / 3) / 2 + math.log(2)) / 2
    assert loss(two, (0, 0, 1.0), (0, 1, 1.0), (1, 0, 1.0), reduction="words") == pytest.approx(wanted)
    # uneven weights: (3 log 4 + 1 log 2) / 4
    assert loss(two, (0, 0, 3.0), (1, 1, 1.0)) == pytest.approx((3 * math.log(4) + math.log(2)) / 4)


def test_the_papers_gamma_is_divided_by_its_sum():
    # alpha (1/4, 3/4) + 0.5 (1/2, 1/2) = (1/2, 1), of 3/2
    assert loss([[0.5, 1.0]], (0, 1, 1.0)) == pytest.approx(-math.log(2 / 3))


@pytest.mark.parametrize("reduction", ["pairs", "words"])
def test_no_pair_gives_0_and_a_weight_that_became_0_stays_finite(reduction):
    assert loss([[0.25, 0.75]], reduction=reduction) == 0
    assert math.isfinite(loss([[0.0, 1.0]], (0, 0, 1.0), reduction=reduction))
    attention = torch.tensor([[0.25, 0.75]], requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    word_attention_loss(attention, none, none, torch.zeros(0), reduction=reduction).backward()
    assert attention.grad.tolist() == [[0, 0]]


def test_the_gradient_of_the_scores_is_the_closed_form():
    """d L / d a = (|R| alpha - 1[R]) / n for a word with the regions R."""
    scores = torch.tensor([[0.3, -1.0, 0.7]], dtype=torch.float64, requires_grad=True)
    alpha = scores.softmax(1)
    word_attention_loss(alpha, torch.tensor([0, 0]), torch.tensor([0, 2]), torch.ones(2).double()).backward()
    torch.testing.assert_close(scores.grad, (2 * alpha.detach() - torch.tensor([[1.0, 0, 1]])) / 2)


def test_the_order_of_regions_and_of_pairs_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    alpha = torch.rand(3, 4, generator=generator).softmax(1)
    words, regions, weights = torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0]), torch.tensor([1.0, 2.0, 0.5])
    order, pairs = torch.tensor([2, 0, 3, 1]), torch.tensor([2, 0, 1])
    moved = order.argsort()[regions]
    torch.testing.assert_close(
        word_attention_loss(alpha, words, regions, weights),
        word_attention_loss(alpha[:, order], words[pairs], moved[pairs], weights[pairs]),
    )


MODELS = {
    "updown": {"MODEL__SS_ATTENTION__ENABLED": False, "LOSSES__NAMES": ["CrossEntropy", "WordAttentionLoss"]},
    "sum": WORDS,
    "renormalised": {**WORDS, "MODEL__SS_ATTENTION__RENORMALIZE": True},
    "product": {**WORDS, "MODEL__SS_ATTENTION__FUSION": "log"},
}


@pytest.mark.parametrize("on", ["alpha", "gamma"])
@pytest.mark.parametrize("name", MODELS)
def test_the_words_at_once_and_in_graphs_equal_the_word_by_word_loop(tmp_path, monkeypatch, name, on):
    overrides = {**MODELS[name], "LOSSES__WORD_ATTENTION__ATTENTION": on}
    cfg, model = toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train()
    fast = trained_once(cfg, model, with_pairs())
    assert model.fast_forcing.agrees
    model.fast_forcing.captured = CapturedForcing(Replayer())
    replayed = trained_once(cfg, model, with_pairs())
    assert len(model.fast_forcing.captured) == 1
    with monkeypatch.context() as patch:
        patch.setattr(ss_decoder, "rolls_out", lambda decoder: False)
        slow = trained_once(cfg, model, with_pairs())
    for other in (fast, replayed):
        torch.testing.assert_close(other[0], slow[0], atol=1e-6, rtol=1e-5)
        for key, gradient in slow[1].items():
            torch.testing.assert_close(other[1][key], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_the_loss_of_the_model_is_that_of_the_step_that_predicts_the_word(tmp_path):
    """The obvious version: each caption alone, word by word; step t reads word t and predicts the next one."""
    overrides = {**WORDS, "LOSSES__WORD_ATTENTION__WEIGHT": 1.0}
    cfg, model = toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train()
    total = count = 0.0
    for sample, (table, weights) in zip(TWO_IMAGES, PAIRS, strict=True):
        encoded = model.encode(model.preprocess_batch([sample]))
        for (caption, word, region), weight in zip(table, weights, strict=True):
            state = model.with_rows(encoded, 1)
            for t, token in enumerate(sample[kfg.G_TOKENS_IDS][caption][: word + 1]):
                model.step(state, token.view(1), t)
            total -= weight * math.log(state[keys.ALPHA][0, region].item())
            count += weight
    assert trained_once(cfg, model, with_pairs())[0][NAME].item() == pytest.approx(total / count, rel=1e-5)


def test_on_alpha_beta_gets_no_gradient_and_on_gamma_it_does(tmp_path):
    names = {"LOSSES__NAMES": ["WordAttentionLoss"]}
    for on, learns in (("alpha", False), ("gamma", True)):
        overrides = {**names, "LOSSES__WORD_ATTENTION__ATTENTION": on}
        cfg, model = toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train()
        # Only the first word of each caption: a later state depends on beta through the words before it.
        first = [([[0, 0, 4]], [1.0]), ([[1, 0, 1]], [1.0])]
        _, gradients = trained_once(cfg, model, with_pairs(pairs=first))
        assert bool(gradients["decoder.ss_attention.w_b.weight"].abs().max() > 1e-8) is learns
        assert gradients["decoder.att.w_alpha.weight"].abs().max() > 0


@pytest.mark.parametrize("fusion", ["sum", "log"])
def test_gradients_of_the_rollout_with_the_attention_agree_with_finite_differences(tmp_path, fusion):
    overrides = {"MODEL__SS_ATTENTION__ACTIVATION": "tanh", "MODEL__SS_ATTENTION__FUSION": fusion}
    model = toy_model(tmp_path, **overrides).double().train()
    samples = [
        {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in sample.items()}
        for sample in with_pairs()
    ]
    batch = model.preprocess_batch(samples)
    parameters = {name: p for name, p in model.named_parameters() if "predictor" not in name}

    def outputs(*values):
        held = dict(zip(parameters, values, strict=True))
        out = torch.func.functional_call(model, held, (batch,))
        return out[keys.WORD_ALPHA], out[keys.WORD_GAMMA], out[kfg.G_LOGITS]

    assert model.fast_forcing.suits(model)
    assert torch.autograd.gradcheck(outputs, tuple(parameters.values()), atol=1e-6, fast_mode=True)


def test_a_decoder_of_another_state_is_supervised_in_the_loop(tmp_path):
    overrides = {**WORDS, "MODEL__SS_ATTENTION__STATE_DIM": 2, "LOSSES__WORD_ATTENTION__ATTENTION": "gamma"}
    cfg, model = toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train()
    losses, gradients = trained_once(cfg, model, with_pairs())
    assert losses[NAME] > 0
    assert gradients["decoder.state_condition.w_s.weight"].abs().max() > 0


def test_weight_0_is_bit_equal_to_a_run_without_the_loss(tmp_path):
    without = {"LOSSES__NAMES": WORDS["LOSSES__NAMES"][:2]}
    zero = {**WORDS, "LOSSES__WORD_ATTENTION__WEIGHT": 0.0}
    (losses, gradients), (same, equal) = (
        trained_once(toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train())
        for overrides in (without, zero)
    )
    assert losses == same
    assert all(torch.equal(gradients[name], equal[name]) for name in gradients)


def test_an_image_without_a_pair_and_a_batch_without_any(tmp_path):
    overrides = WORDS
    cfg, model = toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train()
    some = trained_once(cfg, model, with_pairs(pairs=[PAIRS[0], ([], [])]))[0][NAME]
    assert some > 0
    losses, gradients = trained_once(cfg, model, with_pairs(pairs=[([], []), ([], [])]))
    assert losses[NAME] == 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize(
    ("table", "weights", "message"),
    [
        ([[0, 4, 0]], [1], r"image 1: the pair \[0, 4, 0\] in WORD_PAIRS names a caption, word or region"),
        ([[2, 0, 0]], [1], "the pair"),
        ([[0, 0, 5]], [1], "the pair"),
        ([[0, -1, 0]], [1], "the pair"),
        ([[0, 0, 0]], [0], "PAIR_WEIGHTS must be finite and above 0"),
        ([[0, 0, 0]], [math.nan], "PAIR_WEIGHTS must be finite and above 0"),
        ([[0, 0, 0], [0, 1, 0]], [1], r"WORD_PAIRS has shape \(2, 3\), expected \(n, 3\) for PAIR_WEIGHTS of n = 1"),
    ],
)
def test_pairs_of_another_data_set_that_do_not_fit_are_refused(tmp_path, table, weights, message):
    model = toy_model(tmp_path, **WORDS)
    with pytest.raises(UserError, match=message):
        model.preprocess_batch(with_pairs(pairs=[(table, weights), PAIRS[1]]))
    with pytest.raises(UserError, match="image 2 lacks SSATTN_PAIR_WEIGHTS, SSATTN_WORD_PAIRS"):
        model.preprocess_batch([with_pairs()[0], TWO_IMAGES[1]])


def test_what_cannot_work_is_refused():
    for values, message in (
        ({"weight": -1.0}, "WEIGHT: expected a number >= 0, got -1.0"),
        ({"weight": math.nan}, "WEIGHT"),
        ({"attention": "beta"}, r"ATTENTION: expected one of \('alpha', 'gamma'\), got 'beta'"),
        ({"reduction": "sum"}, r"REDUCTION: expected one of \('pairs', 'words'\)"),
    ):
        with pytest.raises(UserError, match=message):
            WordAttentionLoss(**values)
    assert LOSSES_REGISTRY.get("WordAttentionLoss") is WordAttentionLoss
    with pytest.raises(KeyError, match="WordAttentionLoss needs SSATTN_WORD_ALPHA, SSATTN_WORD_PAIRS"):
        WordAttentionLoss()({})


def test_it_needs_a_captioner_that_returns_attention(tmp_path):
    cfg = toy_config(tmp_path, **WORDS)
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "RnnAttEncoderDecoder"
    with pytest.raises(UserError, match="WordAttentionLoss works only inside GroundedCaptioner"):
        WordAttentionLoss.from_config(cfg)
