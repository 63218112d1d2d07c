"""A transformer in place of the two LSTMs: one class, and training, greedy decoding, beams and sampling work.

Its states are of another kind: each layer keeps what it has read so far, (N, t, H), and that grows from word to word.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from slow_beam import slow_beam, word_log_probs
from toys import WORDS, captions_of, for_test, losses_of, toy_config, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.host import DECODER_REGISTRY, configurable, kfg
from xmodaler_ssattn.modeling.grounded_decoder import GroundedDecoder
from xmodaler_ssattn.modeling.sampling import sample_captions

CACHE = "TOY_CACHE"


class Layer(nn.Module):
    """Attention to the words so far, attention to the regions, and a feed-forward part; no heads, no norms."""

    def __init__(self, size: int, regions_size: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.region_query, self.region_key = nn.Linear(size, size), nn.Linear(regions_size, size)
        self.region_value = nn.Linear(regions_size, size)
        self.wide, self.narrow = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x, cache, feats, ext_mask):
        """x (N, H), cache (N, t, H), feats (B, K, E) -> x (N, H), cache (N, t + 1, H), alpha (N, K)."""
        cache = torch.cat([cache, x.unsqueeze(1)], dim=1)
        scores = self.key(cache) @ self.query(x).unsqueeze(2)
        x = x + (scores.softmax(1) * self.value(cache)).sum(1)
        query = self.region_query(x).view(len(feats), -1, x.shape[1])
        scores = query @ self.region_key(feats).transpose(1, 2)
        alpha = (scores if ext_mask is None else scores + ext_mask.unsqueeze(1)).softmax(-1)
        x = x + (alpha @ self.region_value(feats)).flatten(0, 1)
        return x + self.narrow(F.relu(self.wide(x))), cache, alpha.flatten(0, 1)


@DECODER_REGISTRY.register()
class ToyTransformer(GroundedDecoder):
    @configurable
    def __init__(self, *, hidden_size: int, token_embed_dim: int, visual_embed_dim: int, max_seq_len: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.w_in = nn.Linear(token_embed_dim, hidden_size)
        self.positions = nn.Parameter(torch.randn(max_seq_len + 1, hidden_size))
        self.layers = nn.ModuleList([Layer(hidden_size, visual_embed_dim) for _ in range(2)])

    @classmethod
    def from_config(cls, cfg):
        return {
            "hidden_size": cfg.MODEL.DECODER_DIM,
            "token_embed_dim": cfg.MODEL.TOKEN_EMBED.DIM,
            "visual_embed_dim": cfg.MODEL.VISUAL_EMBED.OUT_DIM,
            "max_seq_len": cfg.MODEL.MAX_SEQ_LEN,
        }

    @classmethod
    def add_config(cls, cfg):
        """No keys of its own."""

    def preprocess(self, batched_inputs):
        feats = batched_inputs[kfg.ATT_FEATS]
        return {**batched_inputs, **self.initial_states(feats, len(feats))}

    def initial_states(self, like, rows):
        return {CACHE: [like.new_zeros(rows, 0, self.hidden_size) for _ in self.layers]}

    def forward(self, batched_inputs):
        caches = batched_inputs[CACHE]
        x = self.w_in(batched_inputs[kfg.G_TOKEN_EMBED]) + self.positions[caches[0].shape[1]]
        grown = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, cache, alpha = layer(x, cache, batched_inputs[kfg.ATT_FEATS], batched_inputs[kfg.EXT_ATT_MASKS])
            grown.append(cache)
        return {CACHE: grown, kfg.G_HIDDEN_STATES: [x], keys.ALPHA: alpha, keys.GAMMA: alpha}


SETTING = {
    "MODEL__DECODER": "ToyTransformer",
    "MODEL__SS_ATTENTION__ENABLED": False,
    "LOSSES__NAMES": ["CrossEntropy"],
}
TRAINING = [toy_sample(1, 5, [[1, 2, 4], [1, 3]]), toy_sample(2, 2, [[5, 1], [3, 3, 1, 2]])]
# Captions end at different steps.
IMAGES = [for_test(toy_sample(image_id, 1 + image_id % 4)) for image_id in range(1, 9)]


def loss_of(model, cfg, samples, ss_prob=0.0):
    return losses_of(cfg, model, samples, ss_prob)["CrossEntropy Loss(G)"]


def trained(tmp_path, **overrides):
    """Some steps of teacher forcing, half of them with words of the model's own."""
    cfg, model = toy_config(tmp_path, **SETTING, **overrides), toy_model(tmp_path, **SETTING, **overrides)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    torch.manual_seed(3)
    first = loss_of(model, cfg, TRAINING).item()
    for step in range(8):
        optimizer.zero_grad()
        loss_of(model, cfg, TRAINING, 0.25 * (step % 2)).backward()
        optimizer.step()
    assert loss_of(model, cfg, TRAINING).item() < 0.8 * first
    assert not model.fast_forcing.suits(model)
    return model.eval()


def test_teacher_forcing_gives_the_loss_of_one_word_of_one_caption_at_a_time(tmp_path):
    model = trained(tmp_path)
    surprises = []
    for sample in TRAINING:
        for targets in sample[kfg.G_TARGET_IDS]:
            for t, target in enumerate(targets):
                logp, _ = word_log_probs(model, sample, targets[:t].tolist(), suppress_unk=False)
                surprises.append(-logp[target])
    loss = loss_of(model, toy_config(tmp_path, **SETTING), TRAINING)
    assert loss.item() == pytest.approx(torch.stack(surprises).mean().item(), abs=1e-5)


def test_greedy_takes_the_best_word_at_every_step_and_equals_a_beam_of_one(tmp_path):
    model = trained(tmp_path, DECODE_STRATEGY__BEAM_SIZE=1).requires_grad_(False)
    batch = model.preprocess_batch(IMAGES)
    greedy, beam = model.greedy_decode(batch, True), model.decode_beam_search(batch, True)
    assert torch.equal(greedy[kfg.G_SENTS_IDS], beam[kfg.G_SENTS_IDS])
    torch.testing.assert_close(greedy[kfg.G_LOGP], beam[kfg.G_LOGP])
    for sample, caption, other in zip(IMAGES, greedy[kfg.OUTPUT], beam[kfg.OUTPUT], strict=True):
        words: list[int] = []
        regions: list[int] = []
        while len(words) < 6:
            logp, gamma = word_log_probs(model, sample, words)
            if int(logp.argmax()) == 0:
                break
            words.append(int(logp.argmax()))
            regions.append(int(gamma.argmax()))
        assert caption.split() == other.split() == [WORDS[w - 1] for w in words]
        assert [w.region for w in caption.words] == [w.region for w in other.words] == regions


@pytest.mark.parametrize("width", [2, 3, 5])
def test_beam_search_equals_the_slow_beam(tmp_path, width):
    model = trained(tmp_path, DECODE_STRATEGY__BEAM_SIZE=width).requires_grad_(False)
    captions = captions_of(model, IMAGES)
    for sample, caption in zip(IMAGES, captions, strict=True):
        words, score, regions = slow_beam(model, sample, width, 6)
        assert caption.split() == [WORDS[w - 1] for w in words]
        assert caption.log_prob == pytest.approx(score, abs=1e-4)
        assert [w.region for w in caption.words] == regions
    assert len({str(caption) for caption in captions}) > 1


def test_sampled_captions_have_states_of_their_own(tmp_path):
    model = trained(tmp_path)
    batch = model.preprocess_batch(IMAGES)
    sampled = sample_captions(model, batch, 4, greedy_first=True).sents
    assert torch.equal(sampled[::5], model.greedy_decode(batch)[kfg.G_SENTS_IDS])
    assert len({tuple(words) for words in sampled.tolist()}) > 8
