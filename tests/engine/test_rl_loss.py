"""The loss of self-critical training against autograd through the drawing, word by word."""

import pytest
import torch

from toys import toy_config, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.engine.rl_trainer import forced_batch
from xmodaler_ssattn.host import LOSSES_REGISTRY, kfg
from xmodaler_ssattn.losses.reward import reward_loss
from xmodaler_ssattn.modeling.sampling import sample_captions

UNK = 6
# Three images of 4, 2 and 3 regions, one of them duplicated; three sampled captions each.
SAMPLES = [toy_sample(5, 4), toy_sample(7, 2), toy_sample(5, 4), toy_sample(8, 3)]
S = 3


def setting(tmp_path, **overrides):
    model = toy_model(tmp_path, **overrides).eval()
    batch = model.preprocess_batch(SAMPLES)
    torch.manual_seed(4)
    sents = sample_captions(model, batch, samples=S).sents
    sents[0] = 0  # an empty caption, and one that was cut at T words, are among them
    sents[4] = torch.tensor([1, 2, 3, 1, 5, 2])
    return model, batch, sents, torch.randn(len(sents))


def fast(tmp_path, model, batch, sents, advantages):
    model.zero_grad()
    forced = forced_batch(batch, sents)
    forced |= {kfg.REWARDS: advantages, keys.SUPPRESSED_WORD: model.greedy_decoder.unk_token_id}
    (loss,) = LOSSES_REGISTRY.get("SelfCriticalLoss")(toy_config(tmp_path))(model(forced)).values()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def slow(model, batch, sents, advantages):
    """The drawing with its graph: one word after the other on shared features, finished captions multiplied by 0."""
    model.zero_grad()
    state = model.with_rows(model.encode(batch), len(sents))
    word, unfinished, total, words = torch.zeros(len(sents), dtype=torch.long), torch.ones(len(sents)), 0.0, 0.0
    for t in range(sents.shape[1]):
        model.step(state, word, t)
        logits = model.predictor(state)[kfg.G_LOGITS]
        if model.greedy_decoder.unk_token_id is not None:
            logits = torch.cat([logits[:, :UNK], torch.full_like(logits[:, UNK:], float("-inf"))], dim=1)
        word = sents[:, t]
        logp = logits.log_softmax(1).gather(1, word.unsqueeze(1)).squeeze(1)
        total = total + (unfinished * advantages * logp).sum()
        words = words + unfinished.sum()
        unfinished = unfinished * (word != 0)
    loss = -total / words
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def assert_same(one, other):
    torch.testing.assert_close(one[0], other[0], atol=1e-5, rtol=1e-5)
    for name in other[1]:
        # A parameter that nothing reads has no gradient, or zeros.
        ours, expected = (torch.zeros(()) if g[1][name] is None else g[1][name] for g in (one, other))
        assert torch.allclose(ours, expected, atol=1e-5, rtol=1e-4), name


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"MODEL__SS_ATTENTION__ENABLED": False},
        {"MODEL__SS_ATTENTION__FUSION": "log"},
        {"DECODE_STRATEGY__SUPPRESS_UNK": False},
        # Dropout everywhere: in this stage it is off. Inside the recurrence it would also need the loop.
        {"MODEL__TOKEN_EMBED__DROPOUT": 0.5, "MODEL__PRED_DROPOUT": 0.5, "MODEL__UPDOWN__DROPOUT1": 0.5},
    ],
    ids=["full", "updown", "log", "unk", "dropout"],
)
def test_loss_and_every_gradient_equal_those_of_drawing_with_a_graph(tmp_path, overrides):
    model, batch, sents, advantages = setting(tmp_path, **overrides)
    assert_same(fast(tmp_path, model, batch, sents, advantages), slow(model, batch, sents, advantages))
    assert any(p.grad.abs().max() > 1e-3 for p in model.parameters() if p.grad is not None)


def test_finished_captions_get_no_gradient_after_their_end(tmp_path):
    model, batch, sents, advantages = setting(tmp_path)
    clean = fast(tmp_path, model, batch, sents, advantages)
    after = (sents == 0).cumsum(1) - (sents == 0).int() > 0
    assert after.any()
    assert_same(fast(tmp_path, model, batch, torch.where(after, 3, sents), advantages), clean)


def test_a_caption_no_better_than_its_baseline_gives_no_gradient(tmp_path):
    model, batch, sents, advantages = setting(tmp_path)
    loss, gradients = fast(tmp_path, model, batch, sents, torch.zeros_like(advantages))
    assert loss == 0 and all(not gradient.any() for gradient in gradients.values() if gradient is not None)


def test_sampled_captions_become_a_training_batch_by_hand(tmp_path):
    model = toy_model(tmp_path)
    batch = model.preprocess_batch([toy_sample(1, 2), toy_sample(2, 2)])
    #        ended, empty, cut at four words, ended by its last word; two captions an image
    sents = torch.tensor([[1, 2, 0, 0], [0, 0, 0, 0], [3, 3, 1, 2], [4, 5, 1, 0]])
    forced = forced_batch(batch, sents)
    assert forced[kfg.G_TOKENS_IDS].tolist() == [[0, 1, 2, 0], [0, 0, 0, 0], [0, 3, 3, 1], [0, 4, 5, 1]]
    assert forced[kfg.G_TARGET_IDS].tolist() == [[1, 2, 0, -1], [0, -1, -1, -1], [3, 3, 1, 2], [4, 5, 1, 0]]
    assert forced[keys.CAPTION_LENGTHS] == [3, 1, 4, 4]
    assert (forced[keys.CAPTIONS_PER_IMAGE], forced[keys.NUM_WORDS]) == (2, 12)
    assert forced[keys.SIGMA] is batch[keys.SIGMA]
    only_short = forced_batch(batch, sents[:2].repeat(2, 1))
    assert only_short[kfg.G_TOKENS_IDS].shape == (4, 3)


def test_the_model_says_whose_word_each_predicted_word_is(tmp_path):
    model = toy_model(tmp_path).eval()
    batch = forced_batch(model.preprocess_batch([toy_sample(1, 2)]), torch.tensor([[1, 0, 0], [2, 3, 0]]))
    out = model(batch)
    # the longer caption, number 1, comes first at each step: targets 2 1 | 3 0 | 0
    assert out[kfg.G_TARGET_IDS].tolist() == [2, 1, 3, 0, 0]
    assert out[keys.CAPTION_OF_WORD].tolist() == [1, 0, 1, 0, 1]


def test_the_loss_by_hand_with_and_without_a_suppressed_word():
    # p = 1/2, 1/4, 1/4; two words drawn, word 0 with advantage 3 and word 1 with advantage -1.
    logits = torch.tensor([[0.5, 0.25, 0.25]] * 2).log().requires_grad_()
    loss = reward_loss(logits, torch.tensor([0, 1]), torch.tensor([3.0, -1.0]))
    assert loss.item() == pytest.approx((3 * 0.6931 - 1.3863) / 2, abs=1e-4)
    # Without word 2 it is p = 2/3, 1/3: the loss's gradient on its logit is 0.
    (gradient,) = torch.autograd.grad(
        reward_loss(logits, torch.tensor([0, 1]), torch.tensor([3.0, -1.0]), suppressed=2), logits
    )
    # advantage (p - 1 for the drawn word, p for the other) / 2
    expected = [[3 * (2 / 3 - 1) / 2, 3 / 3 / 2, 0.0], [-2 / 3 / 2, -(1 / 3 - 1) / 2, 0.0]]
    torch.testing.assert_close(gradient, torch.tensor(expected))


def test_the_loss_names_what_it_misses(tmp_path):
    loss = LOSSES_REGISTRY.get("SelfCriticalLoss")(toy_config(tmp_path))
    with pytest.raises(KeyError, match=r"REWARDS.*ENGINE\.NAME SelfCriticalTrainer"):
        loss({kfg.G_LOGITS: None, kfg.G_TARGET_IDS: None, keys.CAPTION_OF_WORD: None})
