"""Greedy decoding and beam search against the slow, obvious versions."""

import pytest
import torch

from slow_beam import UNK, slow_beam, word_log_probs
from toys import WORDS, captions_of, for_test, toy_model, toy_sample
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling import SSAttentionDecoder
from xmodaler_ssattn.modeling.beam_search import best_candidates


@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_beam_search_equals_the_slow_beam_with_words_score_and_regions(tmp_path, width, seed):
    model = toy_model(tmp_path, seed=seed, DECODE_STRATEGY__BEAM_SIZE=width).eval()
    with torch.no_grad():
        # Sharper and less endless captions: the end word gets a chance.
        model.predictor.logits.weight.mul_(4.0)
        model.predictor.logits.bias[0] += 1.0
        samples = [for_test(toy_sample(i, regions)) for i, regions in ((1, 4), (2, 2))]
        captions = captions_of(model, samples)
        for sample, caption in zip(samples, captions, strict=True):
            words, score, regions = slow_beam(model, sample, width, 6)
            assert str(caption) == " ".join(WORDS[w - 1] for w in words)
            assert caption.log_prob == pytest.approx(score, abs=1e-5)
            assert [w.region for w in caption.words] == regions


@pytest.mark.parametrize("width", [2, 3])
def test_equal_scores_go_to_the_better_beam_and_the_earlier_word(tmp_path, width):
    model = toy_model(tmp_path, DECODE_STRATEGY__BEAM_SIZE=width).eval()
    with torch.no_grad():
        model.predictor.logits.weight.zero_()  # every word is as probable as every other, at every step
        model.predictor.logits.bias.zero_()
        sample = for_test(toy_sample(1, 3))
        (caption,) = captions_of(model, [sample])
        words, score, regions = slow_beam(model, sample, width, 6)
    assert caption.split() == [WORDS[w - 1] for w in words] and caption.log_prob == pytest.approx(score, abs=1e-5)
    assert [w.region for w in caption.words] == regions


def test_the_best_candidates_of_tied_scores_are_the_first():
    scores = torch.tensor([[[0.5, 1.0, 1.0], [1.0, 0.5, 2.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, float("-inf")]]])
    assert best_candidates(scores, 3).tolist() == [[5, 1, 2], [0, 1, 2]]


def test_images_that_end_early_leave_the_batch_and_change_nothing(tmp_path, monkeypatch):
    model = toy_model(tmp_path, seed=2).eval()
    samples = [for_test(toy_sample(i, 3)) for i in range(1, 9)]
    original = type(model.beam_searcher)._log_probs
    rows_seen = []

    def ends_at(sample) -> int:
        return sample[kfg.IDS] % 5  # 1 2 3 4 0 1 2 3 words, then the end is all but certain

    @torch.no_grad()
    def decode(chosen):
        embedded = [model.encode(model.preprocess_batch([s]))[kfg.ATT_FEATS][0] for s in chosen]
        step = iter(range(6))

        def log_probs(searcher, inputs, captioner):
            logp, t = original(searcher, inputs, captioner), next(step)
            width = len(logp) // len(inputs[kfg.ATT_FEATS])
            for row, feats in enumerate(inputs[kfg.ATT_FEATS]):
                which = next(i for i, known in enumerate(embedded) if torch.allclose(known, feats, atol=1e-5))
                logp[row * width : (row + 1) * width, 0] += 50.0 if t >= ends_at(chosen[which]) else -50.0
            rows_seen.append(len(inputs[kfg.ATT_FEATS]))
            return logp

        monkeypatch.setattr(type(model.beam_searcher), "_log_probs", log_probs)
        return model.decode_beam_search(model.preprocess_batch(chosen), True)[kfg.OUTPUT]

    together = decode(samples)
    # image 5 ends before step 1 (7 of 8 are too many to copy for), 1 and 6 before step 2, and so on
    assert rows_seen == [8, 8, 5, 3, 1]
    assert [len(caption.words) for caption in together] == [1, 2, 3, 4, 0, 1, 2, 3]
    for sample, caption in zip(samples, together, strict=True):
        (alone,) = decode([sample])
        assert alone == caption and [w.region for w in alone.words] == [w.region for w in caption.words]
        assert alone.log_prob == pytest.approx(caption.log_prob, abs=1e-4)


def test_greedy_equals_the_beam_searcher_called_directly_with_one_beam(tmp_path):
    model = toy_model(tmp_path, DECODE_STRATEGY__BEAM_SIZE=1).eval()
    samples = [for_test(toy_sample(i, 3)) for i in range(5)]
    batch = model.preprocess_batch(samples)
    greedy = model.greedy_decode(batch, True)
    beam = model.decode_beam_search(batch, True)
    assert torch.equal(greedy[kfg.G_SENTS_IDS], beam[kfg.G_SENTS_IDS])
    torch.testing.assert_close(greedy[kfg.G_LOGP], beam[kfg.G_LOGP])
    for one, other in zip(greedy[kfg.OUTPUT], beam[kfg.OUTPUT], strict=True):
        assert one == other and one.words == other.words


def test_greedy_takes_the_most_probable_word_at_every_step(tmp_path):
    model = toy_model(tmp_path, seed=3).eval()
    sample = for_test(toy_sample(4, 3))
    (caption,) = model.greedy_decode(model.preprocess_batch([sample]), True)[kfg.OUTPUT]
    words: list[int] = []
    while len(words) < 6:
        logp, gamma = word_log_probs(model, sample, words)
        if int(logp.argmax()) == 0:
            break
        words.append(int(logp.argmax()))
        assert caption.words[len(words) - 1].region == int(gamma.argmax())
    assert str(caption) == " ".join(WORDS[w - 1] for w in words)


@pytest.mark.parametrize("beam", [1, 3])
def test_unk_is_suppressed_by_default_and_only_then(tmp_path, beam):
    for suppress in (True, False):
        model = toy_model(tmp_path, DECODE_STRATEGY__SUPPRESS_UNK=suppress, DECODE_STRATEGY__BEAM_SIZE=beam).eval()
        with torch.no_grad():
            model.predictor.logits.bias[UNK] = 50.0  # UNK is always the best word
        batch = model.preprocess_batch([for_test(toy_sample(1, 3))])
        (caption,) = model(batch, use_beam_search=True, output_sents=True)[kfg.OUTPUT]
        assert ("UNK" in caption) is not suppress
        assert ("UNK" in caption.greedy) is not suppress


def test_a_caption_may_be_empty(tmp_path):
    model = toy_model(tmp_path).eval()
    with torch.no_grad():
        model.predictor.logits.bias[0] = 50.0
    (caption,) = captions_of(model, [for_test(toy_sample(1, 3))])
    assert caption == "" and caption.words == () and caption.greedy == ""


def test_captions_stop_at_the_longest_length(tmp_path):
    model = toy_model(tmp_path).eval()
    with torch.no_grad():
        model.predictor.logits.bias[0] = -50.0
    (caption,) = captions_of(model, [for_test(toy_sample(1, 3))])
    assert len(caption.words) == len(caption.greedy.words) == 6


def test_the_saved_attention_is_the_one_behind_the_words(tmp_path):
    model = toy_model(tmp_path, INFERENCE__SAVE_ATTENTION=True).eval()
    (caption,) = captions_of(model, [for_test(toy_sample(1, 4))])
    attention = caption.attention
    assert attention.alpha.shape == attention.gamma.shape == (len(caption.words), 4)
    assert [w.region for w in caption.words] == attention.gamma.argmax(1).tolist()
    assert attention.gamma == pytest.approx(attention.alpha + 0.5 * attention.beta, abs=1e-6)


@pytest.mark.parametrize("ground_by", ["gamma", "alpha", "beta"])
def test_the_key_decides_which_weights_choose_the_box(tmp_path, ground_by):
    model = toy_model(tmp_path, INFERENCE__GROUND_BY=ground_by, INFERENCE__SAVE_ATTENTION=True).eval()
    (caption,) = captions_of(model, [for_test(toy_sample(1, 4))])
    weights = getattr(caption.attention, ground_by)
    chosen = weights.argmax(-1)
    expected = [int(chosen)] * len(caption.words) if ground_by == "beta" else chosen.tolist()
    assert [w.region for w in caption.words] == expected


def test_several_beams_come_out_when_requested_and_the_best_is_first(tmp_path):
    model = toy_model(tmp_path, DECODE_STRATEGY__BEAM_SIZE=3).eval()
    batch = model.preprocess_batch([for_test(toy_sample(1, 3)), for_test(toy_sample(2, 3))])
    three = model.decode_beam_search({**batch, "OUT_SIZE": 3})
    one = model.decode_beam_search(batch)
    assert three[kfg.G_SENTS_IDS].shape == (2, 3, 6)
    assert torch.equal(three[kfg.G_SENTS_IDS][:, 0], one[kfg.G_SENTS_IDS])
    totals = three[kfg.G_LOGP].sum(-1)
    assert (totals[:, :-1] >= totals[:, 1:]).all()


def test_sampling_draws_words_and_reports_their_log_probability(tmp_path):
    model = toy_model(tmp_path).eval()
    sample = for_test(toy_sample(1, 3))
    batch = {**model.preprocess_batch([sample]), kfg.DECODE_BY_SAMPLE: True}
    torch.manual_seed(0)
    sampled = [model.greedy_decode(batch) for _ in range(20)]
    assert len({tuple(out[kfg.G_SENTS_IDS][0].tolist()) for out in sampled}) > 1
    first = sampled[0][kfg.G_SENTS_IDS][0].tolist()
    logp, _ = word_log_probs(model, sample, [])
    assert float(sampled[0][kfg.G_LOGP][0, 0].detach()) == pytest.approx(float(logp[first[0]].detach()), abs=1e-6)


class Remembering(SSAttentionDecoder):
    """A state and a constant of its own: the words so far, and a copy of the features."""

    def initial_states(self, like, rows):
        return {**super().initial_states(like, rows), "OWN_STATE": like.new_zeros(rows, 1)}

    def preprocess(self, batched_inputs):
        out = super().preprocess(batched_inputs)
        return {**out, "OWN_FEATS": out[kfg.ATT_FEATS].clone()}

    def forward(self, batched_inputs):
        state, feats = batched_inputs["OWN_STATE"], batched_inputs["OWN_FEATS"]
        mean = feats.mean(1).repeat_interleave(len(state) // len(feats), dim=0)[:, :1]
        word = batched_inputs[kfg.G_TOKEN_EMBED] * (1.0 + state) + mean
        out = super().forward({**batched_inputs, kfg.G_TOKEN_EMBED: word})
        return {**out, "OWN_STATE": torch.tanh(state + 9.0 * out[kfg.G_HIDDEN_STATES][-1][:, :1])}


def test_states_of_a_derived_decoder_follow_their_beam(tmp_path):
    """The score of a caption is that of its words one after the other, and no image changes another's caption."""
    model = toy_model(tmp_path).eval()
    model.decoder.__class__ = Remembering
    samples = [for_test(toy_sample(i, 3)) for i in range(12)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        model.predictor.logits.bias[0] -= 0.4
        found = model(model.preprocess_batch(samples), use_beam_search=True)
        sents, scores = found[kfg.G_SENTS_IDS], found[kfg.G_LOGP].sum(1)
        assert 3 <= int((sents[:, 0] == 0).sum()) < 12  # a quarter ends at once, which lets them leave the search
        for sample, words, score in zip(samples, sents, scores, strict=True):
            inputs = model.with_rows(model.encode(model.preprocess_batch([sample])), 1)
            word, total = torch.zeros(1, dtype=torch.long), 0.0
            for t, following in enumerate(words):
                model.step(inputs, word, t)
                total += float(model.predictor(inputs)[kfg.G_LOGITS].log_softmax(1)[0, following])
                word = following.view(1)
                if following == 0:
                    break
            assert float(score) == pytest.approx(total, abs=1e-4)
