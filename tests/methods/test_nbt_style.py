"""NBT-style: the loss and one step by hand, training against one word at a time, decoding, an epoch on both hosts."""

import math

import pytest
import torch

from slow_beam import slow_beam
from test_two_hosts import ROOT, curve, needs_upstream, sample  # noqa: F401  (sample is a fixture)
from toys import TWO_IMAGES, WORDS, captions_of, for_test, toy_config, toy_model, toy_sample, trained_once
from xmodaler_ssattn import keys
from xmodaler_ssattn.data.word_pairs import pair_rule
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import build_losses, kfg
from xmodaler_ssattn.methods.nbt_style import pointer_loss
from xmodaler_ssattn.modeling.sampling import sample_captions

SETTING = {
    "MODEL__DECODER": "SentinelDecoder",
    "MODEL__SS_ATTENTION__ENABLED": False,
    "LOSSES__NAMES": ["CrossEntropy", "PointerLoss"],
    "LOSSES__WORD_ATTENTION__WEIGHT": 2.0,
}
CONFIG = ROOT / "configs" / "sample" / "nbt_style.yaml"
# (caption, word, region) of each image; the first word of the first caption has two regions.
PAIRS = [[[0, 0, 1], [0, 0, 4], [1, 1, 0]], [[1, 2, 1]]]


def with_pairs():
    return [
        {**image, keys.WORD_PAIRS: torch.tensor(table), keys.PAIR_WEIGHTS: torch.ones(len(table))}
        for image, table in zip(TWO_IMAGES, PAIRS, strict=True)
    ]


def test_the_loss_by_hand():
    attention = torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.2, 0.6], [0.7, 0.2, 0.1]], requires_grad=True)
    words, regions = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 1])
    # word 0: mean (0.5 + 0.1) / 2 = 0.3; word 1 has no region: sentinel 0.6; word 2: 0.2
    loss = pointer_loss(attention, words, regions, torch.ones(3))
    assert loss.item() == pytest.approx(-(math.log(0.3) + math.log(0.6) + math.log(0.2)) / 3)
    # weights 3 and 1: (3 * 0.5 + 1 * 0.1) / 4 = 0.4
    weighted = pointer_loss(attention[:1], words[:2], regions[:2], torch.tensor([3.0, 1.0]))
    assert weighted.item() == pytest.approx(-math.log(0.4))


def test_without_pairs_every_word_points_to_the_sentinel_and_a_share_of_zero_is_finite():
    none = torch.zeros(0, dtype=torch.long)
    attention = torch.tensor([[0.75, 0.25], [1.0, 0.0]], requires_grad=True)
    loss = pointer_loss(attention[:1], none, none, torch.zeros(0))
    assert loss.item() == pytest.approx(-math.log(0.25))
    both = pointer_loss(attention, none, none, torch.zeros(0))
    both.backward()
    assert both.isfinite() and attention.grad.isfinite().all()


def test_one_step_is_the_softmax_over_regions_and_sentinel(tmp_path):
    model = toy_model(tmp_path, **SETTING).eval()
    decoder = model.decoder
    batch = dict(model.encode(model.preprocess_batch([for_test(toy_sample(1, 4)), for_test(toy_sample(2, 2))])))
    before, word = dict(batch), torch.tensor([1, 3])
    model.step(batch, word, 0)
    assert batch[keys.ALPHA].shape == (2, 5)
    torch.testing.assert_close(batch[keys.ALPHA].sum(1), torch.ones(2))
    assert batch[keys.ALPHA][1, 2:4].tolist() == [0, 0]  # padding, between the regions and the sentinel
    for image, count in ((0, 4), (1, 2)):
        x = torch.cat(
            [torch.zeros(8), before[kfg.GLOBAL_FEATS][image], model.token_embed.embeddings.weight[word[image]].relu()]
        )
        h, c = decoder.lstm1(x.unsqueeze(0))
        s = decoder.sentinel_x(x).sigmoid() * c[0].tanh()
        att = decoder.att
        projected = [*before[kfg.P_ATT_FEATS][image, :count], decoder.sentinel_att(s)]
        scores = torch.stack([att.w_alpha((att.w_h(h[0]) + p).relu())[0] for p in projected])
        alpha = scores.softmax(0)
        torch.testing.assert_close(batch[keys.ALPHA][image, :count], alpha[:count])
        torch.testing.assert_close(batch[keys.ALPHA][image, 4], alpha[-1])
        values = [*before[kfg.ATT_FEATS][image, :count], decoder.sentinel_embed(s)]
        v_hat = sum(a * v for a, v in zip(alpha, values, strict=True))
        state = decoder.lstm2(torch.cat([v_hat, h[0]]).unsqueeze(0))
        torch.testing.assert_close(batch[kfg.G_HIDDEN_STATES][1][image], state[0][0])


def test_the_loss_of_the_model_is_that_of_one_word_at_a_time(tmp_path):
    cfg, model = toy_config(tmp_path, **SETTING), toy_model(tmp_path, **SETTING).train()
    assert model.encodes_per_image and not model.fast_forcing.suits(model)
    surprises = []
    for image, table in zip(TWO_IMAGES, PAIRS, strict=True):
        encoded = model.encode(model.preprocess_batch([image]))
        for number, tokens in enumerate(image[kfg.G_TOKENS_IDS]):
            state = model.with_rows(encoded, 1)
            for t, token in enumerate(tokens):
                model.step(state, token.view(1), t)
                found = [region for caption, word, region in table if (caption, word) == (number, t)]
                alpha = state[keys.ALPHA][0]
                surprises.append(-math.log((alpha[found].mean() if found else alpha[-1]).item()))
    losses, gradients = trained_once(cfg, model, with_pairs())
    assert losses["Pointer Loss"].item() == pytest.approx(2 * sum(surprises) / len(surprises), rel=1e-5)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(gradients[f"decoder.sentinel_{name}.weight"].abs().max() > 0 for name in ("x", "att", "embed"))


def test_beam_search_equals_the_slow_beam_and_the_sentinel_is_never_a_region(tmp_path):
    model = toy_model(tmp_path, **SETTING, INFERENCE__SAVE_ATTENTION=True).eval().requires_grad_(False)
    model.predictor.logits.weight.mul_(6.0)
    model.decoder.sentinel_att.weight.mul_(5.0)
    model.decoder.sentinel_att.bias.add_(3.0 * model.decoder.att.w_alpha.weight[0].sign())  # it takes most attention
    samples = [for_test(toy_sample(i, regions)) for i, regions in ((1, 4), (2, 2), (3, 3), (4, 1))]
    batch = model.preprocess_batch(samples)
    state = dict(model.encode(batch))
    model.step(state, torch.zeros(4, dtype=torch.long), 0)
    assert (state[keys.ALPHA].argmax(1) == 4).any()
    for one, caption in zip(samples, captions_of(model, samples), strict=True):
        words, score, regions = slow_beam(model, one, 3, 6)
        assert str(caption) == " ".join(WORDS[w - 1] for w in words)
        assert caption.log_prob == pytest.approx(score, abs=1e-5)
        assert [w.region for w in caption.words] == regions
        assert caption.attention.alpha.shape == (len(words), len(one[kfg.ATT_FEATS]))
        assert len(words) == 0 or caption.attention.alpha.sum(1).max() < 1
    sampled = sample_captions(model, batch, 3)
    assert int(sampled.regions.max()) < 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MODEL__SS_ATTENTION__ENABLED": True}, "ENABLED: expected False with MODEL.DECODER SentinelDecoder"),
        ({"MODEL__META_ARCHITECTURE": "RnnAttEncoderDecoder"}, "SentinelDecoder works only inside GroundedCaptioner"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        toy_model(tmp_path, **SETTING | change)


def test_the_loss_needs_a_sentinel_and_a_weight_and_asks_for_pairs(tmp_path):
    with pytest.raises(UserError, match="PointerLoss, which needs a sentinel: expected MODEL.DECODER SentinelDecoder"):
        build_losses(toy_config(tmp_path, **SETTING | {"MODEL__DECODER": "SSAttentionDecoder"}))
    with pytest.raises(UserError, match="WEIGHT: expected a number > 0 for PointerLoss, got 0.0"):
        build_losses(toy_config(tmp_path, **SETTING | {"LOSSES__WORD_ATTENTION__WEIGHT": 0.0}))
    assert pair_rule(toy_config(tmp_path, **SETTING)).positives == "threshold"


def test_an_epoch_on_the_sample_scenes(sample, tmp_path):  # noqa: F811
    history = curve("embedded", sample, tmp_path, 0, CONFIG, **{"SOLVER.EPOCH": "1"})
    assert len(history["losses"]) == 10 and history["losses"][-1] < history["losses"][0]


@needs_upstream
def test_both_hosts_give_one_loss_curve(sample, tmp_path):  # noqa: F811
    change = {"SOLVER.EPOCH": "1"}
    upstream, embedded = (curve(host, sample, tmp_path, 0, CONFIG, **change) for host in ("upstream", "embedded"))
    assert (upstream["host"], len(upstream["losses"])) == ("upstream", 10)
    assert embedded["losses"] == pytest.approx(upstream["losses"], abs=1e-4)
