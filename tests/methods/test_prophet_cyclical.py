"""After Prophet attention, and Cyclical: their parts by hand, their losses against the obvious version, and what is
equal to the plain model."""

import math

import pytest
import torch

from toys import TWO_IMAGES, captions_of, for_test, toy_config, toy_model, trained_once
from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.fast import ss_decoder
from xmodaler_ssattn.host import build_losses, build_model, kfg
from xmodaler_ssattn.methods.cyclical import CyclicalLoss
from xmodaler_ssattn.methods.prophet import ProphetLoss, attention_distance, span_means

UPDOWN = {"MODEL__SS_ATTENTION__ENABLED": False}
PLAIN = {**UPDOWN, "LOSSES__NAMES": ["CrossEntropy"]}
PROPHET = {
    **UPDOWN,
    "MODEL__META_ARCHITECTURE": "ProphetCaptioner",
    "LOSSES__NAMES": ["CrossEntropy", "ProphetLoss"],
}
CYCLICAL = {
    **UPDOWN,
    "MODEL__META_ARCHITECTURE": "CyclicalCaptioner",
    "LOSSES__NAMES": ["CrossEntropy", "CyclicalLoss"],
}
METHODS = {"prophet": PROPHET, "cyclical": CYCLICAL}
# (caption, start, end) of each image of TWO_IMAGES, whose captions are [1 2 4], [1 3] and [5], [3 3 1 2].
SPANS = [[[0, 0, 2], [1, 1, 2]], [[1, 1, 4]]]


def with_spans(samples=TWO_IMAGES, spans=SPANS):
    return [
        {**s, keys.WORD_SPANS: torch.tensor(table, dtype=torch.long).view(-1, 3)}
        for s, table in zip(samples, spans, strict=True)
    ]


def both(tmp_path, overrides, **more):
    overrides = {**overrides, **{key.replace(".", "__"): value for key, value in more.items()}}
    return toy_config(tmp_path, **overrides), toy_model(tmp_path, **overrides).train()


# --- parts by hand ------------------------------------------------------------------------------------
def test_the_query_of_a_word_is_the_mean_of_its_phrase_or_its_own_embedding():
    words = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [5.0, 7.0], [9.0, 9.0]]])
    spans = torch.tensor([[[0, 2], [0, 2], [0, 0], [3, 4]]])
    assert span_means(words, spans).tolist() == [[[2, 1], [2, 1], [5, 7], [9, 9]]]
    shuffled = words[:, [1, 0, 2, 3]]  # the order inside the phrase does not matter
    assert span_means(shuffled, spans).tolist() == [[[2, 1], [2, 1], [5, 7], [9, 9]]]


@pytest.mark.parametrize("position", range(5))
def test_only_the_rows_of_its_phrase_change_with_a_word(position):
    words = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    spans = torch.tensor([[[0, 0], [1, 4], [1, 4], [1, 4], [0, 0]]])
    changed = words.clone()
    changed[0, position] += 1
    differs = (span_means(words, spans) != span_means(changed, spans)).any(2)[0].tolist()
    phrase = range(1, 4) if position in range(1, 4) else [position]
    assert [i for i, other in enumerate(differs) if other] == list(phrase)


def test_the_distances_by_hand():
    alpha, prophet = torch.tensor([[0.7, 0.3], [1.0, 0.0]]), torch.tensor([[0.4, 0.6], [1.0, 0.0]])
    # |0.7 - 0.4| + |0.3 - 0.6| = 0.6
    assert attention_distance(alpha, prophet, "l1").tolist() == pytest.approx([0.6, 0])
    kl = 0.4 * math.log(0.4 / 0.7) + 0.6 * math.log(0.6 / 0.3)
    assert attention_distance(alpha, prophet, "kl").tolist() == pytest.approx([kl, 0])
    one = torch.ones(1, 1)
    assert attention_distance(one, one, "l1").item() == attention_distance(one, one, "kl").item() == 0


def test_the_weights_of_the_loss_and_the_words_that_count():
    outputs = {
        keys.WORD_ALPHA: torch.tensor([[0.7, 0.3], [0.5, 0.5], [1.0, 0.0]]),
        keys.PROPHET_ALPHA: torch.tensor([[0.4, 0.6], [1.0, 0.0], [0.0, 1.0]]),
        keys.IN_PHRASE: torch.tensor([True, True, False]),
        keys.SECOND_CROSS_ENTROPY: torch.tensor(2.0),
    }
    losses = ProphetLoss(weight=0.5, cross_entropy_weight=0.25)(outputs)
    # 0.5 (0.6 + 1) / 3 words; 0.25 x 2; the third word is in no phrase
    assert losses["Prophet Attention Loss"].item() == pytest.approx(0.8 / 3)
    assert losses["Prophet Cross-Entropy"].item() == 0.5
    assert ProphetLoss(weight=0.0, cross_entropy_weight=0.0)({}) == {}
    assert CyclicalLoss(weight=3.0)(outputs)["Reconstruction Loss"] == 6 and CyclicalLoss(weight=0.0)({}) == {}


# --- the losses against the obvious version ------------------------------------------------------------
def slow_second_pass(model, queries) -> tuple[float, float]:
    """One caption, one word after another: (second cross-entropy, sum of |alpha - alpha-hat| in phrases / words).

    Args:
        queries: (image, caption, word) -> scores of the K regions from its phrase or word.
    """
    surprises, distance = [], 0.0
    for image, sample in enumerate(TWO_IMAGES):
        encoded = model.encode(model.preprocess_batch([for_test(sample)]))
        for caption, (tokens, targets) in enumerate(
            zip(sample[kfg.G_TOKENS_IDS], sample[kfg.G_TARGET_IDS], strict=True)
        ):
            own, second = model.with_rows(encoded, 1), model.with_rows(encoded, 1)
            for t, (word, target) in enumerate(zip(tokens, targets, strict=True)):
                model.step(own, word.view(1), t)
                spans = [s for c, *s in SPANS[image] if c == caption and s[0] <= t < s[1]]
                alpha = queries(model, encoded, sample[kfg.G_TARGET_IDS][caption], t, spans, own)
                v_hat = alpha @ encoded[kfg.ATT_FEATS][0]
                second[keys.GIVEN_V_HAT] = v_hat.view(1, -1)
                model.step(second, word.view(1), t)
                surprises.append(-model.predictor(second)[kfg.G_LOGITS].log_softmax(1)[0, target])
                if spans:
                    distance += float((own[keys.ALPHA][0] - alpha).abs().sum().detach())
    return float(torch.stack(surprises).mean().detach()), distance / len(surprises)


def prophet_alpha(model, encoded, targets, t, spans, own):
    words = model.token_embed.embeddings(targets).relu()
    start, end = spans[0] if spans else (t, t + 1)
    query = model.prophet_query(words[start:end].mean(0, keepdim=True))
    return model.decoder.att.scores(query, encoded[kfg.P_ATT_FEATS], None)[0, 0].softmax(0)


def localized_alpha(model, encoded, targets, t, spans, own):
    said = model.predictor(own)[kfg.G_LOGITS].argmax(1)
    query = model.localizer(model.token_embed.embeddings(said).relu())
    return (encoded[kfg.P_ATT_FEATS][0] @ query[0]).softmax(0)


@pytest.mark.parametrize("fast", [True, False])
def test_prophets_losses_are_those_of_one_caption_after_another(tmp_path, monkeypatch, fast):
    cfg, model = both(tmp_path, PROPHET, **{"LOSSES.PROPHET.WEIGHT": 1.0})
    if not fast:
        monkeypatch.setattr(ss_decoder, "rolls_out", lambda decoder: False)
    losses, _ = trained_once(cfg, model, with_spans())
    cross_entropy, distance = slow_second_pass(model, prophet_alpha)
    assert losses["Prophet Cross-Entropy"].item() == pytest.approx(cross_entropy, rel=1e-5)
    assert losses["Prophet Attention Loss"].item() == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("first", ["CrossEntropy", "FusedCrossEntropy"])
def test_the_reconstruction_is_that_of_one_caption_after_another(tmp_path, monkeypatch, fast, first):
    cfg, model = both(tmp_path, CYCLICAL, **{"LOSSES.NAMES": [first, "CyclicalLoss"]})
    if not fast:
        monkeypatch.setattr(ss_decoder, "rolls_out", lambda decoder: False)
    losses, _ = trained_once(cfg, model, TWO_IMAGES)
    assert losses["Reconstruction Loss"].item() == pytest.approx(slow_second_pass(model, localized_alpha)[0], rel=1e-5)


def test_a_hook_on_the_predictor_does_not_make_the_second_pass_the_first_one(tmp_path):
    cfg, model = both(tmp_path, CYCLICAL)
    losses, gradients = trained_once(cfg, model)
    model.predictor.register_forward_hook(lambda *call: None)
    hooked, others = trained_once(cfg, model)
    torch.testing.assert_close(hooked, losses)
    torch.testing.assert_close(others["localizer.weight"], gradients["localizer.weight"])


def test_the_localizer_gives_equal_words_of_an_image_equal_regions_and_padding_none(tmp_path):
    _, model = both(tmp_path, CYCLICAL)
    encoded = model.encode(model.preprocess_batch([for_test(sample) for sample in TWO_IMAGES]))
    share = model.localized(torch.tensor([[1, 2, 1], [3, 1, 1]]), encoded).softmax(2)
    assert torch.equal(share[0, 0], share[0, 2]) and not torch.equal(share[0, 0], share[0, 1])
    assert not torch.allclose(share[0, 0], share[1, 1])  # another image
    assert share[1, :, 2:].abs().max() == 0  # two of its five regions are real


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("attention", ["sum", "log"])
def test_with_spatial_semantic_attention_both_ways_give_the_same_gradients(tmp_path, monkeypatch, name, attention):
    overrides = {"MODEL__SS_ATTENTION__ENABLED": True, "MODEL__SS_ATTENTION__FUSION": attention}
    cfg, model = both(tmp_path, {**METHODS[name], **overrides})
    fast = trained_once(cfg, model, with_spans())
    monkeypatch.setattr(ss_decoder, "rolls_out", lambda decoder: False)
    slow = trained_once(cfg, model, with_spans())
    assert fast[0].keys() == slow[0].keys() and len(fast[0]) > 1
    for found, wanted in zip(fast, slow, strict=True):
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_what_each_option_of_prophet_trains(tmp_path):
    query, alpha = "prophet_query.weight", "decoder.att.w_h.weight"
    first = [[[0, 0, 1]], []]  # alpha of a first word depends on no alpha-hat
    for stop in (False, True):
        more = {"LOSSES.NAMES": ["ProphetLoss"], "LOSSES.PROPHET.CROSS_ENTROPY_WEIGHT": 0.0}
        cfg, model = both(tmp_path, PROPHET, **more, **{"LOSSES.PROPHET.STOP_GRADIENT": stop})
        _, gradients = trained_once(cfg, model, with_spans(spans=first))
        assert (query in gradients) is not stop
        assert gradients[alpha].abs().max() > 0
        assert not model.second_pass
    more = {"LOSSES.NAMES": ["ProphetLoss"], "LOSSES.PROPHET.WEIGHT": 0.0}
    cfg, model = both(tmp_path, PROPHET, **more)
    assert trained_once(cfg, model, with_spans())[1][query].abs().max() > 0


# --- equal to the plain model --------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_decoding_is_bit_equal_to_the_plain_model(tmp_path, name):
    model, plain = toy_model(tmp_path, **METHODS[name]).eval(), toy_model(tmp_path, **PLAIN).eval()
    own = plain.state_dict()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in own.items())
    samples = [for_test(sample) for sample in TWO_IMAGES]
    for found, wanted in zip(captions_of(model, samples), captions_of(plain, samples), strict=True):
        assert (found.words, found.log_prob) == (wanted.words, wanted.log_prob)
        assert found.greedy.words == wanted.greedy.words


@pytest.mark.parametrize(
    ("name", "zero"),
    [
        ("prophet", {"LOSSES.PROPHET.WEIGHT": 0.0, "LOSSES.PROPHET.CROSS_ENTROPY_WEIGHT": 0.0}),
        ("cyclical", {"LOSSES.CYCLICAL.WEIGHT": 0.0}),
    ],
)
def test_weight_0_is_bit_equal_to_a_run_without(tmp_path, name, zero):
    dropout = {"MODEL.TOKEN_EMBED.DROPOUT": 0.5, "MODEL.VISUAL_EMBED.DROPOUT": 0.5, "MODEL.PRED_DROPOUT": 0.5}
    found = []
    for overrides, more in ((METHODS[name], zero), (PLAIN, {})):
        cfg, model = both(tmp_path, overrides, **more, **dropout)
        torch.manual_seed(3)
        found.append(trained_once(cfg, model, TWO_IMAGES))
    assert found[0][0] == found[1][0] and found[0][1].keys() == found[1][1].keys()
    assert all(torch.equal(found[0][1][key], value) for key, value in found[1][1].items())


# --- what cannot work ----------------------------------------------------------------------------------
def test_losses_and_captioners_that_do_not_fit_are_refused(tmp_path):
    for loss, captioner in (("ProphetLoss", "ProphetCaptioner"), ("CyclicalLoss", "CyclicalCaptioner")):
        cfg = toy_config(tmp_path, **UPDOWN, LOSSES__NAMES=["CrossEntropy", loss])
        with pytest.raises(UserError, match=f"contains {loss}.*Set MODEL.META_ARCHITECTURE: {captioner}"):
            build_losses(cfg)
        cfg = toy_config(tmp_path, MODEL__META_ARCHITECTURE=captioner, MODEL__SS_ATTENTION__STATE_DIM=2)
        with pytest.raises(UserError, match=r"needs SSAttentionDecoder.* MODEL.SS_ATTENTION.STATE_DIM 0"):
            build_model(cfg)
        # Its forward does not read the given v-hat: the second pass would be the first one again.
        with pytest.raises(UserError, match=r"needs SSAttentionDecoder.* got SentinelDecoder"):
            build_model(
                toy_config(tmp_path, **UPDOWN, MODEL__META_ARCHITECTURE=captioner, MODEL__DECODER="SentinelDecoder")
            )
        cfg = toy_config(tmp_path, MODEL__META_ARCHITECTURE=captioner, MODEL__CAPTURE_GRAPHS=True)
        with pytest.raises(UserError, match=f"CAPTURE_GRAPHS: {captioner} reads the embedded regions"):
            build_model(cfg)
    with pytest.raises(UserError, match="WEIGHT: expected a number >= 0, got -1.0") as caught:
        ProphetLoss(weight=-1.0, cross_entropy_weight=math.nan)
    assert "CROSS_ENTROPY_WEIGHT: expected a number >= 0, got nan" in str(caught.value)
    with pytest.raises(UserError, match="DISTANCE: expected one of"):
        ProphetLoss(distance="l2")
    with pytest.raises(UserError, match="LOSSES.CYCLICAL"):
        CyclicalLoss(weight=math.inf)


def test_samples_without_phrases_or_with_wrong_ones_are_refused(tmp_path):
    cfg, model = both(tmp_path, PROPHET)
    with pytest.raises(KeyError, match="ProphetCaptioner needs SSATTN_WORD_SPANS"):
        trained_once(cfg, model, TWO_IMAGES)
    for table in ([[0, 0, 5]], [[2, 0, 1]], [[0, 1, 1]]):
        with pytest.raises(UserError, match="image 1: the phrase .* in WORD_SPANS"):
            model.preprocess_batch(with_spans(spans=[table, []]))
    found = model.preprocess_batch(with_spans())[keys.WORD_SPANS]
    none = [0, 0]
    assert found.tolist() == [
        [[0, 2], [0, 2], none, none, none],
        [none, [1, 2], none, none, none],
        [none] * 5,
        [none, [1, 4], [1, 4], [1, 4], none],
    ]


def test_a_batch_without_any_phrase_has_no_distance(tmp_path):
    cfg, model = both(tmp_path, PROPHET)
    losses, gradients = trained_once(cfg, model, with_spans(spans=[[], []]))
    assert losses["Prophet Attention Loss"] == 0 and torch.isfinite(losses["Prophet Cross-Entropy"])
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
