"""Training and decoding use one model, also where a class is derived from ours.

What training computes is compared with a loop that is written here: one caption, one word, ``encode`` and ``step``, as
decoding calls them.
"""

import logging

import pytest
import torch
from torch import nn

from toys import CLASSES, TWO_IMAGES, gradients_of, toy_config, toy_model, toy_sample
from xmodaler_ssattn import keys
from xmodaler_ssattn.fast.teacher_forcing import _one_caption
from xmodaler_ssattn.host import (
    BasePredictor,
    TokenBaseEmbedding,
    UpDownEncoder,
    VisualBaseEmbedding,
    build_losses,
    kfg,
)
from xmodaler_ssattn.modeling import GroundedCaptioner, SSAttentionDecoder
from xmodaler_ssattn.modeling.accelerators import ATTACHED
from xmodaler_ssattn.modeling.ss_attention import TopDownAttention, fuse
from xmodaler_ssattn.modeling.visual_embed import SpatialSemanticEmbedding


def forces_at_once(model) -> bool:
    return model.fast_forcing.suits(model)


def trained_loss(model, samples=TWO_IMAGES) -> tuple[float, dict]:
    """The cross-entropy of a training step, and the gradients of the decoder."""
    model.train().zero_grad()
    out = model(model.preprocess_batch(samples))
    if model.fuse_loss:
        loss = out[keys.CROSS_ENTROPY]
    else:
        loss = nn.functional.cross_entropy(out[kfg.G_LOGITS], out[kfg.G_TARGET_IDS])
    loss.backward()
    return float(loss.detach()), gradients_of(model)


def slow_loss(model, samples=TWO_IMAGES) -> tuple[float, dict]:
    """The same, one word of one caption at a time."""
    model.train().zero_grad()
    surprises = []
    for sample in samples:
        for tokens, targets in zip(sample[kfg.G_TOKENS_IDS], sample[kfg.G_TARGET_IDS], strict=True):
            one = {**sample, kfg.SEQ_PER_SAMPLE: 1, kfg.G_TOKENS_IDS: [tokens], kfg.G_TARGET_IDS: [targets]}
            inputs = model.with_rows(model.encode(model.preprocess_batch([one])), 1)
            for t, (word, target) in enumerate(zip(tokens, targets, strict=True)):
                model.step(inputs, word.view(1), t)
                surprises.append(-model.predictor(inputs)[kfg.G_LOGITS].log_softmax(1)[0, target])
    loss = torch.stack(surprises).mean()
    loss.backward()
    return float(loss.detach()), gradients_of(model)


def assert_one_model(model, samples=TWO_IMAGES) -> None:
    trained, slow = trained_loss(model, samples), slow_loss(model, samples)
    assert trained[0] == pytest.approx(slow[0], abs=1e-6)
    assert set(trained[1]) == set(slow[1])
    for name, gradient in slow[1].items():
        torch.testing.assert_close(trained[1][name], gradient, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def replaced(part, new: type):
    """The object, of a derived class: what a project's own class built from the same config would be."""
    part.__class__ = new
    return part


class OwnFusion(SSAttentionDecoder):
    def _fuse(self, scores, alpha, h1, inputs):
        return super()._fuse(scores, alpha, h1, inputs).square()


class DetachedBeta(SSAttentionDecoder):
    """The same values with other gradients."""

    def _fuse(self, scores, alpha, h1, inputs):
        return fuse(alpha, inputs[keys.BETA].detach(), self.lambda_)


class OwnForward(SSAttentionDecoder):
    def forward(self, batched_inputs):
        out = super().forward(batched_inputs)
        h1, h2 = out[kfg.G_HIDDEN_STATES]
        return {**out, kfg.G_HIDDEN_STATES: [h1, h2 * 0.5]}


class OwnStates(SSAttentionDecoder):
    def initial_states(self, like, rows):
        return {key: [state + 0.3 for state in value] for key, value in super().initial_states(like, rows).items()}


class SharperAttention(TopDownAttention):
    def scores(self, h, p_att_feats, ext_mask):
        return 3.0 * super().scores(h, p_att_feats, ext_mask)


class OwnCell(nn.LSTMCell):
    def forward(self, x, state):
        h, c = super().forward(x, state)
        return h + 0.1, c


class LouderWords(TokenBaseEmbedding):
    def forward(self, batched_inputs):
        out = super().forward(batched_inputs)
        return {kfg.G_TOKEN_EMBED: out[kfg.G_TOKEN_EMBED] * (1.0 + batched_inputs.get(kfg.TIME_STEP, 0))}


class ScaledRegions(VisualBaseEmbedding):
    """Something behind the layers: with dropout outside, this would be done in another order."""

    def forward(self, batched_inputs):
        return {kfg.ATT_FEATS: super().forward(batched_inputs)[kfg.ATT_FEATS] + 1.0}


class EncoderOfWords(UpDownEncoder):
    def forward(self, batched_inputs, mode=None):
        if mode == "t":
            return {kfg.G_TOKEN_EMBED: batched_inputs[kfg.G_TOKEN_EMBED] + 0.2}
        return super().forward(batched_inputs, mode)


class OwnStep(GroundedCaptioner):
    def step(self, inputs, word, t):
        super().step(inputs, word, t)
        inputs[kfg.G_HIDDEN_STATES] = [state * 0.9 for state in inputs[kfg.G_HIDDEN_STATES]]


class PredictorOfBothStates(BasePredictor):
    def forward(self, batched_inputs):
        h1, h2 = batched_inputs[kfg.G_HIDDEN_STATES]
        return {kfg.G_LOGITS: self.logits(h1 + h2)}


class PredictorOfTheAttention(BasePredictor):
    """Reads what is there in decoding, and would not miss it in training."""

    def forward(self, batched_inputs):
        out = super().forward(batched_inputs)[kfg.G_LOGITS]
        gamma = batched_inputs.get(keys.GAMMA)
        return {kfg.G_LOGITS: out if gamma is None else out * gamma.amax(dim=1, keepdim=True)}


def own_cell(model) -> None:
    model.decoder.lstm2 = replaced(model.decoder.lstm2, OwnCell)


def biased_query(model) -> None:
    model.decoder.att.w_h = nn.Linear(8, 4, bias=True)


CHANGES = {
    "the fusion": lambda model: replaced(model.decoder, OwnFusion),
    "only gradients": lambda model: replaced(model.decoder, DetachedBeta),
    "a step of the decoder": lambda model: replaced(model.decoder, OwnForward),
    "the first states": lambda model: replaced(model.decoder, OwnStates),
    "the attention's scores": lambda model: replaced(model.decoder.att, SharperAttention),
    "a cell": own_cell,
    "a bias in the attention": biased_query,
    "the word embedding": lambda model: replaced(model.token_embed, LouderWords),
    "the region embedding": lambda model: replaced(model.visual_embed, ScaledRegions),
    "an encoder that reads words": lambda model: replaced(model.encoder, EncoderOfWords),
    "a step of the captioner": lambda model: replaced(model, OwnStep),
    "a predictor of both states": lambda model: replaced(model.predictor, PredictorOfBothStates),
    "a predictor of the attention": lambda model: replaced(model.predictor, PredictorOfTheAttention),
    "a hook on a cell": lambda model: model.decoder.lstm1.register_forward_hook(
        lambda m, a, out: (out[0] * 0.5, out[1])
    ),
    "a hook before the attention's product": lambda model: model.decoder.att.w_alpha.register_forward_pre_hook(
        lambda m, args: (args[0] * 2.0,)
    ),
    "a method of one object": lambda model: setattr(
        model.decoder.att, "scores", lambda h, p, mask: TopDownAttention.scores(model.decoder.att, h, p, mask) * 2.0
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_part_is_trained_as_it_is_decoded(tmp_path, change, caplog):
    plain = trained_loss(toy_model(tmp_path))
    model = toy_model(tmp_path)
    CHANGES[change](model)
    with caplog.at_level(logging.WARNING):
        assert_one_model(model)
    assert not caplog.records  # known before the first step: nothing to warn of
    # The change does change something, so that a fast path that overlooks it would be found.
    changed = trained_loss(model)
    assert set(plain[1]) != set(changed[1]) or not all(torch.allclose(plain[1][n], g) for n, g in changed[1].items())
    assert change == "the region embedding" or not forces_at_once(model)


def location(inputs: dict):
    """x1 of each region as a fraction, (rows, K, 1), from two sample keys; one of them has no K."""
    return inputs[keys.BOXES_PX][..., :1] / inputs[keys.IMAGE_SIZE][:, None, :1]


class DecoderOfLocations(SSAttentionDecoder):
    def preprocess(self, batched_inputs):
        out = super().preprocess(batched_inputs)
        return {**out, kfg.P_ATT_FEATS: out[kfg.P_ATT_FEATS] + location(batched_inputs)}


class StepOfLocations(SSAttentionDecoder):
    def forward(self, batched_inputs):
        moved = batched_inputs[kfg.P_ATT_FEATS] + location(batched_inputs)
        return super().forward({**batched_inputs, kfg.P_ATT_FEATS: moved})


class EncoderOfLocations(UpDownEncoder):
    def forward(self, batched_inputs, mode=None):
        out = super().forward(batched_inputs, mode)
        return out if mode == "t" else {kfg.GLOBAL_FEATS: out[kfg.GLOBAL_FEATS] + location(batched_inputs).sum(1)}


class EmbeddingOfLocations(VisualBaseEmbedding):
    def forward(self, batched_inputs):
        return {kfg.ATT_FEATS: super().forward(batched_inputs)[kfg.ATT_FEATS] + location(batched_inputs)}


class CaptionerOfLocations(GroundedCaptioner):
    def encode(self, batched_inputs, images=None):
        out = super().encode(batched_inputs, images)
        return {**out, kfg.ATT_FEATS: out[kfg.ATT_FEATS] + location(batched_inputs)}


class CaptionerWithOwnKey(GroundedCaptioner):
    def preprocess_batch(self, batched_inputs):
        ids = torch.tensor([[float(sample[kfg.IDS])] for sample in batched_inputs])
        return {**super().preprocess_batch(batched_inputs), "OWN_KEY": ids}

    def step(self, inputs, word, t):
        super().step(inputs, word, t)
        inputs[kfg.G_HIDDEN_STATES] = [state * inputs["OWN_KEY"] for state in inputs[kfg.G_HIDDEN_STATES]]


READERS = {
    "decoder, once": ("decoder", DecoderOfLocations),
    "decoder, per word": ("decoder", StepOfLocations),
    "encoder": ("encoder", EncoderOfLocations),
    "embedding": ("visual_embed", EmbeddingOfLocations),
    "captioner": (None, CaptionerOfLocations),
    "captioner, a key of its own": (None, CaptionerWithOwnKey),
}


@pytest.mark.parametrize("captions", [1, 2])
@pytest.mark.parametrize("reader", READERS)
def test_a_part_that_reads_the_batch_finds_its_own_captions_image(tmp_path, reader, captions):
    """Longest captions go first inside; with one caption per image a mistaken row would fit in shape."""
    samples = [toy_sample(1, 3, [[1], [2, 2, 5]][:captions]), toy_sample(2, 5, [[3, 3, 1, 2], [4]][:captions])]
    samples.append(toy_sample(3, 2, [[1, 2], [5]][:captions]))
    for index, sample in enumerate(samples):
        sample[keys.IMAGE_SIZE] = torch.tensor([40.0, 10.0]) * (index + 1)
    for overrides in ({}, {"MODEL__SHARE_REGION_DROPOUT": True}):
        part, new = READERS[reader]
        model = toy_model(tmp_path, **overrides)
        replaced(getattr(model, part) if part else model, new)
        assert_one_model(model, samples)
        # beta and sigma still meet image by image: - log beta of each image's first region, for each caption.
        out = model(model.preprocess_batch(samples))
        beta = model.encode(model.preprocess_batch(samples))[keys.BETA]
        words = sum(len(ids) for sample in samples for ids in sample[kfg.G_TARGET_IDS])
        loss = build_losses(toy_config(tmp_path))[1](out)["Grounding Loss"]
        assert float(loss) == pytest.approx(-captions * float(beta[:, 0].log().sum()) / words, abs=1e-6)


class Adapted(nn.Module):
    """A layer with something beside it, as low-rank adapters have it; it shows the old layer's weight."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer, self.beside = layer, nn.Linear(layer.in_features, layer.out_features)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return self.layer(x) + self.beside(x)


def unbiased(model) -> None:
    model.predictor.logits = nn.Linear(8, model.vocab_size, bias=False)


LAYERS = {
    "an adapter": lambda model: setattr(model.predictor, "logits", Adapted(model.predictor.logits)),
    "a hook on the layer": lambda model: model.predictor.logits.register_forward_hook(lambda m, args, out: out * 2.0),
    "a hook on the predictor": lambda model: model.predictor.register_forward_hook(
        lambda m, args, out: {kfg.G_LOGITS: out[kfg.G_LOGITS] * 2.0}
    ),
    "no bias": unbiased,
}


@pytest.mark.parametrize("change", LAYERS)
def test_the_fused_loss_sees_a_changed_last_layer(tmp_path, change):
    torch.manual_seed(1)
    model = toy_model(tmp_path, LOSSES__NAMES=["FusedCrossEntropy"])
    LAYERS[change](model)
    assert_one_model(model)


def test_only_a_plain_dropout_of_words_keeps_its_mask_in_scheduled_sampling(tmp_path):
    class Shift(nn.Module):
        def forward(self, x):
            return x + 1.0

    model = toy_model(tmp_path).train()
    model.token_embed.embeddings_dropout = Shift()
    batch = model.preprocess_batch(TWO_IMAGES)
    never, not_asked = (model({**batch, kfg.SS_PROB: probability})[kfg.G_LOGITS] for probability in (1e-12, 0.0))
    assert torch.equal(never, not_asked)


def test_a_dropout_that_is_on_by_itself_is_not_left_out(tmp_path):
    """Evaluation with dropout on, as for an estimate of uncertainty."""
    model = toy_model(tmp_path, MODEL__UPDOWN__DROPOUT2=0.5).eval()
    assert forces_at_once(model)
    model.decoder.dropout2.train()
    assert not forces_at_once(model)


def test_the_unchanged_model_takes_the_fast_way_and_is_one_model(tmp_path):
    for overrides in (
        {},
        {"MODEL__SS_ATTENTION__FUSION": "log"},
        {"MODEL__SS_ATTENTION__RENORMALIZE": True},
        {"MODEL__SS_ATTENTION__VISUAL_BIAS": False},
        {"MODEL__SS_ATTENTION__ENABLED": False, "LOSSES__NAMES": ["CrossEntropy"]},
    ):
        model = toy_model(tmp_path, **overrides)
        assert forces_at_once(model.train())
        assert_one_model(model)


@pytest.mark.parametrize("losses", [["CrossEntropy"], ["FusedCrossEntropy"]])
def test_without_the_accelerators_the_captioner_trains_the_same(tmp_path, monkeypatch, losses):
    fast = trained_loss(toy_model(tmp_path, LOSSES__NAMES=losses))
    monkeypatch.setattr(ATTACHED, "forcing", None)
    monkeypatch.setattr(ATTACHED, "linear_cross_entropy", None)
    model = toy_model(tmp_path, LOSSES__NAMES=losses)
    assert model.fast_forcing is None
    torch.testing.assert_close(trained_loss(model), fast, atol=1e-6, rtol=1e-5)


def test_a_subclass_that_only_builds_differently_keeps_the_fast_way(tmp_path):
    class Smaller(SSAttentionDecoder):
        @classmethod
        def from_config(cls, cfg):
            return super().from_config(cfg)

        def extra_repr(self):
            return "smaller"

    model = toy_model(tmp_path)
    replaced(model.decoder, Smaller)
    assert forces_at_once(model.train())


def test_a_change_that_no_class_shows_is_found_at_the_first_step_and_said(tmp_path, monkeypatch, caplog):
    """A project that patches our class in place: the class is still ours by name."""
    original = SSAttentionDecoder._fuse
    monkeypatch.setattr(SSAttentionDecoder, "_fuse", lambda self, *args: original(self, *args) * 0.5)
    model = toy_model(tmp_path)
    assert forces_at_once(model.train())
    with caplog.at_level(logging.WARNING):
        assert_one_model(model)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "other states or gradients than SSAttentionDecoder word by word" in caplog.text
    assert not forces_at_once(model)


def test_a_patch_that_changes_only_gradients_is_found_as_well(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(SSAttentionDecoder, "_fuse", DetachedBeta._fuse)
    model = toy_model(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert_one_model(model)
    assert "word by word" in caplog.text


def test_the_comparison_changes_neither_modes_nor_gradients_nor_the_random_state(tmp_path):
    model = toy_model(tmp_path, MODEL__TOKEN_EMBED__DROPOUT=0.5, MODEL__VISUAL_EMBED__DROPOUT=0.5).train()
    model.predictor.eval()  # a part that somebody has frozen
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    model.fast_forcing.compare(model, model.preprocess_batch(TWO_IMAGES))
    assert model.fast_forcing.agrees is True
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_embedding_derived_from_the_control_gets_all_that_it_reads_per_caption(tmp_path):
    class OwnControl(SpatialSemanticEmbedding):
        def forward(self, batched_inputs):
            assert batched_inputs[keys.CLASS_PROBS].shape[-1] == CLASSES
            return {kfg.ATT_FEATS: super().forward(batched_inputs)[kfg.ATT_FEATS] + 1.0}

    overrides = {"MODEL__SS_ATTENTION__ENABLED": False, "MODEL__VISUAL_EMBED__NAME": "SpatialSemanticEmbedding"}
    model = toy_model(tmp_path, **overrides)
    replaced(model.visual_embed, OwnControl)
    assert_one_model(model)


def test_training_without_a_region_embedding_works(tmp_path):
    overrides = {"MODEL__VISUAL_EMBED__NAME": "VisualIdentityEmbedding", "MODEL__VISUAL_EMBED__OUT_DIM": 6}
    assert_one_model(toy_model(tmp_path, **overrides))


class Float32Norm(nn.LayerNorm):
    """A layer norm as autocast has it on CUDA: float32 out of bfloat16."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


@pytest.mark.parametrize("norm", [nn.LayerNorm, Float32Norm])
def test_the_recurrence_runs_in_the_type_of_the_autocast_behind_every_norm(tmp_path, monkeypatch, norm):
    from xmodaler_ssattn.fast import rollout

    overrides = {"SOLVER__AMP": True, "MODEL__VISUAL_EMBED__USE_NORM": True, "MODEL__TOKEN_EMBED__USE_NORM": True}
    model = toy_model(tmp_path, **overrides).train()
    for embed in (model.visual_embed, model.token_embed):
        replaced(embed.embeddings_norm, norm)
    seen = []
    original = rollout.run

    def spy(x1_of_step, sizes, p, v, lambda_beta, prior, ext_mask, weights, activation):
        seen.append({p.dtype, v.dtype, *(weight.dtype for weight in weights[:-1])})  # all but the summed bias
        return original(x1_of_step, sizes, p, v, lambda_beta, prior, ext_mask, weights, activation)

    model.fast_forcing.agrees = True
    monkeypatch.setattr(rollout, "run", spy)
    out = model(model.preprocess_batch(TWO_IMAGES))
    losses = {}
    for loss in build_losses(toy_config(tmp_path, **overrides)):
        losses.update(loss(out))
    sum(losses.values()).backward()
    assert seen == [{torch.bfloat16}]
    assert out[kfg.G_LOGITS].dtype == torch.float32
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_the_comparison_takes_one_caption_of_everything_that_a_derived_captioner_adds(tmp_path):
    """Rows per image, rows per caption, and a value of the whole batch."""

    class More(GroundedCaptioner):
        def preprocess_batch(self, batched_inputs):
            batch = super().preprocess_batch(batched_inputs)
            rows = len(batch[keys.CAPTION_LENGTHS])
            return {**batch, "scale": torch.tensor(2.0), "image": torch.arange(2), "caption": torch.arange(rows)}

    model = toy_model(tmp_path)
    replaced(model, More)
    # the longest caption, of four words, is the second of the second image: row 3
    one = _one_caption(model.preprocess_batch(TWO_IMAGES))
    assert (one["image"].tolist(), one["caption"].tolist(), float(one["scale"])) == ([1], [3], 2.0)
    assert (one[keys.CAPTION_LENGTHS], one[kfg.IDS], one[keys.NUM_REGIONS]) == ([5], [2], [2])
    assert_one_model(model)
