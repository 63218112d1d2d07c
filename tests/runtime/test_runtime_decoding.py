"""Greedy decoding and beam search against every sentence there is."""

import itertools

import pytest
import torch
from torch import nn

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.runtime import BeamSearcher, DecodeStrategy, GreedyDecoder, kfg

V, T = 4, 3  # words 0 (end), 1, 2, 3 and at most three of them


class TwoWordMemory(nn.Module):
    """log p(word | image, the last two words) from a table: a state that must follow its beam.

    The table is (B, V, V, V): image, word before last, last word, next word.
    """

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.encoder = None
        self.visual_embed = lambda inputs: {}
        self.token_embed = lambda inputs: {}
        self.predictor = lambda inputs: {kfg.G_LOGITS: inputs["LOGITS"]}

    def get_extended_attention_mask(self, inputs):
        return {}

    @property
    def decoder(self):
        return self

    def preprocess(self, inputs):
        zeros = torch.zeros(inputs[kfg.ATT_FEATS].size(0), 1)
        return {**inputs, kfg.G_HIDDEN_STATES: [zeros], kfg.G_CELL_STATES: [zeros]}

    def forward(self, inputs):
        image, last = inputs[kfg.ATT_FEATS][:, 0, 0].long(), inputs[kfg.G_TOKENS_IDS]
        before_last = inputs[kfg.G_HIDDEN_STATES][0][:, 0].long()
        state = [last.float().unsqueeze(1)]
        return {"LOGITS": self.table[image, before_last, last], kfg.G_HIDDEN_STATES: state, kfg.G_CELL_STATES: state}


def toy(seed: int, images: int = 3) -> tuple[TwoWordMemory, dict]:
    table = 2 * torch.randn(images, V, V, V, generator=torch.Generator().manual_seed(seed))
    feats = torch.arange(images).float().view(images, 1, 1)
    return TwoWordMemory(table), {kfg.ATT_FEATS: feats, kfg.IDS: list(range(images))}


def all_sentences(model: TwoWordMemory, image: int) -> list[tuple[float, tuple[int, ...]]]:
    """(log-probability, words padded with 0) of every sentence, best first."""
    logp = model.table[image].log_softmax(-1)
    scored = {}
    for words in itertools.product(range(V), repeat=T):
        end = words.index(0) if 0 in words else T
        sentence = words[:end] + (0,) * (T - end)
        history = (0, 0, *sentence)
        scored[sentence] = sum(float(logp[history[i], history[i + 1], sentence[i]]) for i in range(min(end + 1, T)))
    return sorted(((score, sentence) for sentence, score in scored.items()), reverse=True)


def searcher(cls, beam: int, vocab_path: str = "") -> DecodeStrategy:
    return cls(
        vocab_path=vocab_path, beam_size=beam, max_seq_len=T, bert_tokenizer=None, bos_token_id=0, eos_token_id=0
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_beam_of_all_words_finds_the_best_sentence_of_two_words(seed):
    """The first step keeps all V words, so that after the second nothing was lost."""
    model, batch = toy(seed)
    strategy = searcher(BeamSearcher, V)
    strategy.max_seq_len = 2
    best = [max(all_two_word(model, image)) for image in range(3)]
    ret = strategy(batch, False, model)
    assert [tuple(row) for row in ret[kfg.G_SENTS_IDS].tolist()] == [sentence for _, sentence in best]
    torch.testing.assert_close(ret[kfg.G_LOGP].sum(1), torch.tensor([score for score, _ in best]))


def all_two_word(model: TwoWordMemory, image: int) -> list[tuple[float, tuple[int, ...]]]:
    logp = model.table[image].log_softmax(-1)
    ended = [(float(logp[0, 0, 0]), (0, 0))]
    return ended + [(float(logp[0, 0, a] + logp[0, a, b]), (a, b)) for a in range(1, V) for b in range(V)]


@pytest.mark.parametrize("seed", range(20))
def test_beam_search_equals_its_slow_version_beam_by_beam(seed):
    model, batch = toy(seed)
    ret = searcher(BeamSearcher, 2)({**batch, "OUT_SIZE": 2}, False, model)
    for image in range(3):
        expected = slow_beam_search(model, image, beam=2)
        assert [tuple(row) for row in ret[kfg.G_SENTS_IDS][image].tolist()] == [sentence for _, sentence in expected]
        torch.testing.assert_close(ret[kfg.G_LOGP][image].sum(1), torch.tensor([score for score, _ in expected]))


def slow_beam_search(model: TwoWordMemory, image: int, beam: int) -> list[tuple[float, tuple[int, ...]]]:
    logp = model.table[image].log_softmax(-1)
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for _ in range(T):
        grown = []
        for score, words in beams:
            if 0 in words:
                grown.append((score, (*words, 0)))
            else:
                history = (0, 0, *words)
                grown += [(score + float(logp[history[-2], history[-1], w]), (*words, w)) for w in range(V)]
        beams = sorted(grown, reverse=True)[:beam]
    return beams


@pytest.mark.parametrize("seed", range(10))
def test_no_beam_scores_better_than_the_best_of_all_sentences_and_scores_are_true(seed):
    model, batch = toy(seed)
    ret = searcher(BeamSearcher, 3)(batch, False, model)
    for image in range(3):
        scores = {sentence: score for score, sentence in all_sentences(model, image)}
        found = ret[kfg.G_LOGP][image].sum().item()
        assert found == pytest.approx(scores[tuple(ret[kfg.G_SENTS_IDS][image].tolist())], abs=1e-5)
        assert found <= max(scores.values()) + 1e-5


@pytest.mark.parametrize("seed", range(10))
def test_greedy_takes_the_likeliest_word_each_time_and_a_beam_of_one_is_greedy(seed):
    model, batch = toy(seed)
    greedy = searcher(GreedyDecoder, 1)(batch, False, model)[kfg.G_SENTS_IDS]
    beam = searcher(BeamSearcher, 1)(batch, False, model)[kfg.G_SENTS_IDS]
    for image in range(3):
        words = []
        while len(words) < T and 0 not in words:
            history = (0, 0, *words)
            words.append(int(model.table[image, history[-2], history[-1]].argmax()))
        assert greedy[image].tolist() == beam[image].tolist() == words + [0] * (T - len(words))


def test_sampling_draws_words_in_proportion():
    table = torch.log(torch.tensor([0.5, 0.3, 0.2, 1e-9])).expand(1, V, V, V).contiguous()
    model = TwoWordMemory(table)
    batch = {kfg.ATT_FEATS: torch.zeros(3000, 1, 1), kfg.DECODE_BY_SAMPLE: True}
    torch.manual_seed(0)
    first = searcher(GreedyDecoder, 1)(batch, False, model)[kfg.G_SENTS_IDS][:, 0]
    # 4 standard deviations of a share of 0.5 in 3000 draws are 0.037
    for word, share in enumerate([0.5, 0.3, 0.2]):
        assert (first == word).float().mean().item() == pytest.approx(share, abs=0.037)


def test_the_callers_batch_stays_and_decoding_twice_gives_the_same(tmp_path):
    (tmp_path / "v.txt").write_text("a\nb\nc\n")
    model, batch = toy(0)
    keys = set(batch)
    for cls in (GreedyDecoder, BeamSearcher):
        strategy = searcher(cls, 2, str(tmp_path / "v.txt"))
        once, twice = strategy(batch, True, model), strategy(batch, True, model)
        assert once[kfg.OUTPUT] == twice[kfg.OUTPUT] and len(once[kfg.OUTPUT]) == 3
        assert set(batch) == keys


def test_what_cannot_work_is_refused():
    model, batch = toy(0)
    with pytest.raises(UserError, match="INFERENCE.VOCAB is empty"):
        searcher(GreedyDecoder, 1)(batch, True, model)
    with pytest.raises(ValueError, match="beam of 5 needs as many words; the vocabulary has 4"):
        searcher(BeamSearcher, 5)(batch, False, model)
    with pytest.raises(ValueError, match="at least 1, received 0"):
        searcher(BeamSearcher, 0)
