"""Captions drawn for self-critical training: from the model's own distribution, all of an image on one encoding."""

from collections import Counter

import pytest
import torch

from toys import VOCAB_SIZE, for_test, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.sampling import sample_captions

UNK = 6
# Three images of 4, 2 and 1 regions, so two are padded; image 5 is duplicated.
SAMPLES = [toy_sample(5, 4), toy_sample(7, 2), toy_sample(5, 4), toy_sample(9, 1)]


def model_and_batch(tmp_path, **overrides):
    model = toy_model(tmp_path, **overrides).eval()
    return model, model.preprocess_batch([for_test(sample) for sample in SAMPLES])


@pytest.mark.parametrize("fusion", ["sum", "log"])
def test_the_greedy_caption_beside_drawn_ones_is_the_greedy_decoders_with_its_regions(tmp_path, fusion):
    model, batch = model_and_batch(tmp_path, MODEL__SS_ATTENTION__FUSION=fusion)
    decoded = model(batch, use_beam_search=False)[keys.DECODED]
    drawn = sample_captions(model, batch, samples=3, greedy_first=True)
    assert drawn.sents.shape == drawn.regions.shape == (16, 6)
    assert torch.equal(drawn.sents[::4], decoded.sents)
    length = decoded.gamma.shape[1]
    spoken = decoded.sents[:, :length] != 0
    assert torch.equal(drawn.regions[::4, :length][spoken], decoded.gamma.argmax(-1)[spoken])


def test_words_are_drawn_as_often_as_the_model_says_and_unk_never(tmp_path):
    model, batch = model_and_batch(tmp_path)
    with torch.no_grad():
        state = dict(model.encode(batch))
        model.step(state, torch.zeros(4, dtype=torch.long), 0)
        p = model.predictor(state)[kfg.G_LOGITS].softmax(-1)
    p[:, UNK] = 0
    p /= p.sum(1, keepdim=True)
    torch.manual_seed(0)
    drawn = sample_captions(model, batch, samples=4000)
    first = drawn.sents.view(4, 4000, 6)[:, :, 0]
    counts = torch.stack([(first == word).float().mean(1) for word in range(VOCAB_SIZE)], dim=1)
    # a share of 4000 draws is within 0.04 of p, five standard deviations and more (sqrt(0.25 / 4000) = 0.008)
    torch.testing.assert_close(counts, p, atol=0.04, rtol=0)
    assert (p > 0.08).sum() > 4 and not (drawn.sents == UNK).any()
    allowed = model_and_batch(tmp_path, DECODE_STRATEGY__SUPPRESS_UNK=False)[0]
    assert (sample_captions(allowed, batch, samples=50).sents == UNK).any()


def test_the_second_word_depends_on_the_first_of_the_same_caption(tmp_path):
    """Rows of states must stay with their captions: the most likely captions are those that the model finds likely."""
    model, batch = model_and_batch(tmp_path, MODEL__MAX_SEQ_LEN=2)
    torch.manual_seed(0)
    pairs = Counter(map(tuple, sample_captions(model, batch, samples=6000).sents.view(4, 6000, 2)[1].tolist()))

    def probabilities(words):
        state = dict(model.encode(batch))
        for t, word in enumerate([0, *words]):
            model.step(state, torch.full((4,), word), t)
        logits = model.predictor(state)[kfg.G_LOGITS][1]
        logits[UNK] = float("-inf")
        return logits.softmax(0)

    with torch.no_grad():
        for (one, two), count in pairs.most_common(4):
            expected = probabilities([])[one] * (probabilities([one])[two] if one else 1.0)
            assert count / 6000 == pytest.approx(float(expected), abs=0.03)


def test_after_its_end_a_caption_says_nothing_more(tmp_path):
    model, batch = model_and_batch(tmp_path)
    sents = sample_captions(model, batch, samples=200).sents
    ended = (sents == 0).cumsum(1) > 0
    assert ended.any() and not ended.all()
    assert not sents[ended].any()


def test_all_captions_of_an_image_share_one_encoding(tmp_path, monkeypatch):
    model, batch = model_and_batch(tmp_path)
    rows = []
    original = model.step

    def spy(inputs, word, t):
        rows.append((inputs[kfg.ATT_FEATS].shape[0], word.shape[0]))
        original(inputs, word, t)

    monkeypatch.setattr(model, "step", spy)
    sample_captions(model, batch, samples=5)
    assert set(rows) == {(4, 20)}


def test_one_seed_draws_one_set_of_captions_and_the_batch_stays_as_it_was(tmp_path):
    model, batch = model_and_batch(tmp_path)
    before = dict(batch)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(sample_captions(model, batch, samples=8).sents)
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert batch.keys() == before.keys() and all(batch[key] is before[key] for key in before)


@pytest.mark.parametrize("ground_by", ["alpha", "beta"])
def test_regions_follow_the_weights_that_ground_by_names(tmp_path, ground_by):
    model, batch = model_and_batch(tmp_path, INFERENCE__GROUND_BY=ground_by)
    regions = sample_captions(model, batch, samples=2, greedy_first=True).regions.view(4, 3, 6)
    if ground_by == "beta":
        chosen = model.encode(batch)[keys.BETA].argmax(1)
        assert torch.equal(regions[:, :, 0], chosen.unsqueeze(1).expand(-1, 3))
    else:
        decoded = model(batch, use_beam_search=False)[keys.DECODED]
        assert torch.equal(regions[:, 0, 0], decoded.alpha[:, 0].argmax(-1))
    assert not regions[3].any()  # an image of one region


def test_sampling_leaves_no_graph_and_works_in_bfloat16(tmp_path):
    model, batch = model_and_batch(tmp_path, SOLVER__AMP=True)
    drawn = sample_captions(model, batch, samples=3, greedy_first=True)
    assert not drawn.sents.requires_grad and drawn.sents.dtype == torch.int64
    assert int(drawn.sents.max()) < VOCAB_SIZE
