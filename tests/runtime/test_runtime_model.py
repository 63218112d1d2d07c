"""Stock layers, batches and losses, by hand and against the slow obvious version."""

import math
import random

import pytest
import torch

from runtime.toy_host import toy_config
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.runtime import (
    BaseAttention,
    CrossEntropy,
    Encoder,
    LabelSmoothing,
    RnnAttEncoderDecoder,
    UpDownDecoder,
    UpDownEncoder,
    build_model,
    decode_sequence,
    expand_tensor,
    kfg,
    load_vocab,
    pad_tensor,
)


def sample(image: int, regions: int, captions: list[list[int]] | None = None) -> dict:
    torch.manual_seed(image)
    ret = {kfg.IDS: image, kfg.ATT_FEATS: torch.randn(regions, 6)}
    if captions is not None:
        ret[kfg.SEQ_PER_SAMPLE] = torch.tensor(len(captions))
        ret[kfg.G_TOKENS_IDS] = [torch.tensor([0, *words]) for words in captions]
        ret[kfg.G_TARGET_IDS] = [torch.tensor([*words, 0]) for words in captions]
    return ret


def test_pad_tensor_flattens_lists_and_marks_real_entries():
    rows = [[torch.tensor([1, 2]), torch.tensor([3])], [torch.tensor([4, 5, 6]), torch.tensor([7])]]
    padded, mask = pad_tensor(rows, -1, use_mask=True)
    assert padded.tolist() == [[1, 2, -1], [3, -1, -1], [4, 5, 6], [7, -1, -1]]
    assert mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert mask.dtype == torch.float32
    assert pad_tensor([torch.ones(1, 2)], 0, use_mask=False).shape == (1, 1, 2)


def test_expand_tensor_repeats_rows_in_place_or_blockwise():
    x = torch.tensor([[1], [2]])
    assert expand_tensor(x, 2).tolist() == [[1], [1], [2], [2]]
    assert expand_tensor(x, 2, dim=0).tolist() == [[1], [2], [1], [2]]
    assert expand_tensor(x, 1) is x
    assert expand_tensor(None, 3) is None


def test_vocabulary_and_sentences(tmp_path):
    (tmp_path / "v.txt").write_text("a\ncafé\n", encoding="utf-8")
    vocab = load_vocab(tmp_path / "v.txt")
    assert vocab == [".", "a", "café"]
    assert load_vocab("") is None
    assert decode_sequence(vocab, torch.tensor([[2, 1, 0, 2], [0, 1, 1, 1], [1, 1, 1, 1]])) == ["café a", "", "a a a a"]
    with pytest.raises(IndexError, match="predicted word 3, but the vocabulary ends at 2"):
        decode_sequence(vocab, torch.tensor([[3]]))


def test_attention_equals_the_sum_written_out():
    torch.manual_seed(0)
    attention = BaseAttention(hidden_size=3, att_embed_size=4, att_embed_dropout=0.0)
    h, v, p = torch.randn(1, 3), torch.randn(1, 3, 5), torch.randn(1, 3, 4)
    mask = torch.tensor([[0.0, 0.0, -10000.0]])  # the third region is padding
    scores = [attention.w_alpha(torch.tanh(attention.w_h(h[0]) + p[0, k])).item() for k in range(2)]
    weights = [math.exp(score) for score in scores]
    expected = (weights[0] * v[0, 0] + weights[1] * v[0, 1]) / sum(weights)
    torch.testing.assert_close(attention(h, v, p, mask)[0], expected)


def test_global_feature_is_the_mean_over_real_regions():
    feats = torch.tensor([[[1.0], [3.0], [9.0]], [[2.0], [4.0], [6.0]], [[5.0], [5.0], [5.0]]])
    masks = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    batch = {kfg.ATT_FEATS: feats, kfg.ATT_MASKS: masks}
    # (1 + 3) / 2 = 2, (2 + 4 + 6) / 3 = 4, no region: 0 and not NaN
    assert UpDownEncoder()(batch, mode="v")[kfg.GLOBAL_FEATS].tolist() == [[2.0], [4.0], [0.0]]
    assert UpDownEncoder()({**batch, kfg.ATT_MASKS: None})[kfg.GLOBAL_FEATS][0].item() == pytest.approx(13 / 3)
    given = torch.zeros(3, 1)
    assert UpDownEncoder()({**batch, kfg.GLOBAL_FEATS: given})[kfg.GLOBAL_FEATS] is given
    assert UpDownEncoder()(batch, mode="t") == {} == Encoder()(batch)


def test_state_dict_has_upstreams_names_in_upstreams_order(tmp_path):
    model = build_model(toy_config(tmp_path, "MODEL.VISUAL_EMBED.LOCATION_SIZE", 5, "MODEL.TOKEN_EMBED.USE_NORM", True))
    lstm = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert list(model.state_dict()) == [
        "token_embed.embeddings.weight",
        "token_embed.embeddings_norm.weight", "token_embed.embeddings_norm.bias",
        "visual_embed.embeddings.weight", "visual_embed.embeddings.bias",
        "visual_embed.embeddings_pos.weight", "visual_embed.embeddings_pos.bias",
        *(f"decoder.lstm1.{name}" for name in lstm), *(f"decoder.lstm2.{name}" for name in lstm),
        "decoder.att.w_h.weight", "decoder.att.w_alpha.weight",
        "decoder.p_att_feats.weight", "decoder.p_att_feats.bias",
        "predictor.logits.weight", "predictor.logits.bias",
    ]  # fmt: skip


def test_states_are_made_where_the_weights_are(tmp_path):
    decoder = UpDownDecoder(toy_config(tmp_path)).double()
    states = decoder.init_states(3)
    assert [state.shape for state in states[kfg.G_CELL_STATES]] == [(3, 8), (3, 8)]
    assert states[kfg.G_HIDDEN_STATES][0].dtype == torch.float64
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="MODEL.DEVICE is cuda, but PyTorch sees no CUDA device"):
            build_model(toy_config(tmp_path, "MODEL.DEVICE", "cuda"))


@pytest.mark.parametrize("key, value", [("MODEL.TOKEN_EMBED.POSITION", "Sinusoid"), ("INFERENCE.VOCAB", "BERT")])
def test_what_only_upstream_has_is_refused_by_name(tmp_path, key, value):
    with pytest.raises(UserError, match="upstream X-modaler only"):
        build_model(toy_config(tmp_path, key, value))


def test_unknown_activation_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="Unknown ACTIVATION 'swish'; known: none, relu"):
        build_model(toy_config(tmp_path, "MODEL.TOKEN_EMBED.ACTIVATION", "swish"))


def test_training_batch_has_one_row_a_caption(tmp_path):
    model = build_model(toy_config(tmp_path))
    extra = {kfg.ATT_FEATS_LOC: torch.ones(2, 5), kfg.V_TARGET: torch.ones(2, 4), "SOMETHING": 1}
    samples = [{**sample(7, 2, [[1], [2, 3]]), **extra}, {**sample(9, 1, [[4], [5]]), **extra}]
    samples[1][kfg.ATT_FEATS_LOC] = torch.ones(1, 5)
    batch = model.preprocess_batch(samples)
    assert batch[kfg.IDS] == [7, 7, 9, 9]
    assert batch[kfg.G_TOKENS_IDS].tolist() == [[0, 1, 0], [0, 2, 3], [0, 4, 0], [0, 5, 0]]
    assert batch[kfg.G_TARGET_IDS].tolist() == [[1, 0, -1], [2, 3, 0], [4, 0, -1], [5, 0, -1]]
    assert batch[kfg.TOKENS_MASKS].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 0]]
    assert batch[kfg.ATT_MASKS].tolist() == [[1, 1], [1, 1], [1, 0], [1, 0]]
    torch.testing.assert_close(batch[kfg.ATT_FEATS][1], samples[0][kfg.ATT_FEATS])
    torch.testing.assert_close(batch[kfg.ATT_FEATS][3, :1], samples[1][kfg.ATT_FEATS])
    assert batch[kfg.ATT_FEATS_LOC].shape == (4, 2, 5)
    assert batch[kfg.V_TARGET].shape == (2, 2, 4)  # one row per image, as upstream
    assert "SOMETHING" not in batch


def test_a_batch_gives_the_logits_of_its_images_only_and_keeps_the_callers_batch(tmp_path):
    model = build_model(toy_config(tmp_path)).eval()
    samples = [sample(1, 3, [[1, 2, 3], [4]]), sample(2, 1, [[5], [6, 7]])]
    batch = model.preprocess_batch(samples)
    before = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
    together = model(batch)
    assert torch.equal(together[kfg.G_TOKENS_IDS], before[kfg.G_TOKENS_IDS])
    for key, value in before.items():
        assert torch.equal(batch[key], value), key
    for i, one in enumerate(samples):
        alone = model(model.preprocess_batch([one]))[kfg.G_LOGITS]
        torch.testing.assert_close(together[kfg.G_LOGITS][2 * i : 2 * i + 2, : alone.size(1)], alone)


def test_steps_after_the_longest_caption_have_zero_logits(tmp_path):
    model = build_model(toy_config(tmp_path)).eval()
    batch = model.preprocess_batch([sample(1, 2, [[1, 2]])])
    batch[kfg.G_TOKENS_IDS] = torch.tensor([[0, 1, 0, 0]])
    logits = model(batch)[kfg.G_LOGITS]
    assert logits.shape == (1, 4, 12)
    assert logits[:, :2].abs().sum() > 0 and logits[:, 2:].abs().sum() == 0


def test_scheduled_sampling_replaces_words_at_its_rate_and_only_while_training(tmp_path):
    model = build_model(toy_config(tmp_path))
    words, logits = torch.full((4000,), 3), torch.full((4000, 12), -50.0)
    logits[:, 8] = 50.0  # the model is sure of word 8
    torch.manual_seed(0)
    mixed = model._mix_own_words(words, logits, 0.25)
    assert set(mixed.tolist()) == {3, 8}
    assert (mixed == 8).float().mean().item() == pytest.approx(0.25, abs=0.03)  # 4 standard deviations are 0.027
    assert torch.equal(model._mix_own_words(words, logits, 0.0), words)

    batch = model.preprocess_batch([sample(1, 2, [[1, 2, 3]])])
    state = torch.get_rng_state()
    model.eval()({**batch, kfg.SS_PROB: 1.0})
    assert torch.equal(torch.get_rng_state(), state)


def test_scheduled_sampling_draws_one_uniform_and_one_word_for_each_caption():
    """The order of draws that both hosts share."""
    words, logits = torch.arange(1, 9), torch.randn(8, 12)
    torch.manual_seed(3)
    mixed = RnnAttEncoderDecoder._mix_own_words(words, logits, 0.5)
    torch.manual_seed(3)
    replaced = torch.empty(8).uniform_(0, 1) < 0.5
    drawn = torch.multinomial(torch.exp(logits), 1).view(-1)
    assert 0 < replaced.sum() < 8
    assert mixed.tolist() == [int(d) if r else int(w) for w, r, d in zip(words, replaced, drawn, strict=True)]


def outputs_for_losses() -> dict:
    logits = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]]]))
    return {kfg.G_LOGITS: logits.requires_grad_(), kfg.G_TARGET_IDS: torch.tensor([[1, 2, -1]])}


def test_cross_entropy_is_the_mean_over_words():
    # -(log 0.25 + log 0.6) / 2 = (1.386294 + 0.510826) / 2 = 0.948560
    loss = CrossEntropy()(outputs_for_losses())
    assert list(loss) == ["CrossEntropy Loss(G)"]
    assert loss["CrossEntropy Loss(G)"].item() == pytest.approx(0.948560, abs=1e-6)


def test_label_smoothing_by_hand_and_the_targets_stay():
    # q is 0.8 on the word and 0.2 / 2 = 0.1 on the two others; sum q log(q / p) over the two real words
    def divergence(q, p):
        return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))

    expected = (divergence([0.1, 0.8, 0.1], [0.5, 0.25, 0.25]) + divergence([0.1, 0.1, 0.8], [0.2, 0.2, 0.6])) / 2
    outputs = outputs_for_losses()
    loss = LabelSmoothing(label_smoothing=0.2)(outputs)
    assert list(loss) == ["LabelSmoothing(G) loss"]
    assert loss["LabelSmoothing(G) loss"].item() == pytest.approx(expected, abs=1e-6)
    assert outputs[kfg.G_TARGET_IDS].tolist() == [[1, 2, -1]]


def test_losses_without_logits_say_nothing():
    assert CrossEntropy()({}) == {} == LabelSmoothing(label_smoothing=0.1)({})


def test_random_states_are_not_touched_by_building_a_config(tmp_path):
    before = random.getstate(), torch.get_rng_state().tolist()
    toy_config(tmp_path)
    assert (random.getstate(), torch.get_rng_state().tolist()) == before
