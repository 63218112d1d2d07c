"""Teacher forcing with all words of a caption in few large products. Equals ``modeling/forcing.py``, faster.

Letters: B images, S captions per image, N = B S, T words, M words to predict in all, H hidden size.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.fast import ss_decoder
from xmodaler_ssattn.fast.graphs import CapturedForcing
from xmodaler_ssattn.fast.words import WordSource, packs
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.captioner import GroundedCaptioner
from xmodaler_ssattn.modeling.definition import follows
from xmodaler_ssattn.modeling.forcing import CaptionPlan, WordStates, encoded_rows, word_states


class FastForcing:
    """``forcing.word_states`` at once or by captured graphs, for one captioner; None if the result would differ.

    It is used only if no method that it reimplements is overridden, neither in the captioner nor in its parts, and if a
    comparison at the first training step found no difference.

    Attributes:
        agrees: the result of that comparison; None before it.
    """

    def __init__(self, captured: CapturedForcing | None = None):
        self.captured = captured
        self.agrees: bool | None = None

    def __call__(self, model: GroundedCaptioner, batch: dict, ss_prob: float) -> WordStates | None:
        if model.training and self.agrees is None:
            self.compare(model, batch)
        if not self.suits(model):
            return None
        states = self.captured(model, batch, ss_prob) if self.captured is not None else None
        return states if states is not None else words_at_once(model, batch, ss_prob)

    def suits(self, model: GroundedCaptioner) -> bool:
        """Whether ``model`` may process all words of a caption in few large products."""
        return (
            self.agrees is not False
            and follows(model, GroundedCaptioner, "step", "with_rows")
            and model.encoder_skips_words
            and model.predicts_from_state
            and packs(model.token_embed)
            and ss_decoder.rolls_out(model.decoder)
        )

    def compare(self, model: GroundedCaptioner, batch: dict) -> None:
        """Compare one caption at once and word by word; a difference disables the fast way, with a warning."""
        self.agrees = not self.suits(model) or ways_agree(model, batch)
        if not self.agrees:
            logging.getLogger(__name__).warning(
                "Teacher forcing in few large products gives other states or gradients than %s word by word. Training "
                "continues word by word, which is slower. Something changes the decoder, the embeddings or the "
                "captioner in a way that the fast version does not detect.",
                type(model.decoder).__name__,
            )


def words_at_once(model: GroundedCaptioner, batch: dict, ss_prob: float) -> WordStates:
    """``forcing.word_states`` by one rollout over all captions."""
    tokens = batch[kfg.G_TOKENS_IDS]
    plan = CaptionPlan.of(batch[keys.CAPTION_LENGTHS], tokens.shape[1], tokens.device)
    inputs, rows = encoded_rows(model, batch, plan)
    given = tokens.reshape(-1)[plan.words]
    words = WordSource(model.token_embed, given, plan.sizes, plan.rows, ss_prob, model.sample_words)
    hidden, scores = ss_decoder.roll_out(model.decoder, rows, words)
    states = WordStates(inputs, hidden, plan.words, plan.order[plan.rows], rows=rows, plan=plan)
    if not any(key in batch for key in keys.NEED_ATTENTION):
        return states
    alpha, gamma = ss_decoder.attention(model.decoder, rows, scores, plan.rows)
    return states._replace(alpha=alpha, gamma=gamma)


def given_at_once(model: GroundedCaptioner, states: WordStates, tokens: Tensor, v_hat: Tensor) -> Tensor | None:
    """``word_by_word`` of ``methods/second_pass.py`` where ``words_at_once`` equals ``word_states``, else None."""
    if states.plan is None or model.fast_forcing is None or not model.fast_forcing.suits(model):
        return None
    plan, rows = states.plan, states.rows
    given = tokens.reshape(-1)[plan.words]
    words = WordSource(model.token_embed, given, plan.sizes, plan.rows, 0.0, model.sample_words)
    packed = v_hat.transpose(0, 1).flatten(0, 1)[plan.cells]
    return ss_decoder.roll_out_given(model.decoder, rows, words, packed)


# Largest allowed norm of a difference, relative to the values. Typical: 1e-6 with float32, 1e-3 with TF32 products.
TOLERANCE = 5e-3


def ways_agree(model: GroundedCaptioner, batch: dict) -> bool:
    """Whether the words of one caption give the same states, attention and gradients at once and word by word.

    It uses the longest caption of the batch, without dropout and autocast, and restores the model's modes and gradients
    and the random state. Reading the result synchronises with the device once.
    """
    one = _one_caption(batch)
    modes = [(module, module.training) for module in model.modules()]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    devices = [model.device] if model.device.type == "cuda" else []
    found = []
    with torch.random.fork_rng(devices), torch.autocast(model.device.type, enabled=False), torch.enable_grad():
        try:
            model.eval()
            for way in (words_at_once, word_states):
                states = way(model, one, 0.0)
                values = [value for value in (states.hidden, states.alpha, states.gamma) if value is not None]
                gradients: tuple = ()
                if states.hidden.requires_grad:
                    total = sum(_uneven_sum(value) for value in values)
                    gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
                found.append([*(value.detach() for value in values), *gradients])
        finally:
            for module, training in modes:
                module.training = training
    return len(found[0]) == len(found[1]) and all(
        float((a.float() - b.float()).norm()) <= TOLERANCE * float(b.float().norm()) + 1e-6
        for a, b in zip(*found, strict=True)
    )


def _uneven_sum(value: Tensor) -> Tensor:
    """The sum with a different weight for each number, so that errors in their gradients cannot cancel."""
    return (value.flatten() * torch.linspace(-1, 1, value.numel(), device=value.device, dtype=value.dtype)).sum()


def _one_caption(batch: dict) -> dict:
    """The longest caption of a batch and its image, as a batch."""
    lengths, captions = batch[keys.CAPTION_LENGTHS], batch[keys.CAPTIONS_PER_IMAGE]
    row = max(range(len(lengths)), key=lengths.__getitem__)
    place = {len(lengths) // captions: row // captions, len(lengths): row}  # of rows per image, and per caption
    one = dict(batch)
    for key, value in batch.items():
        count = len(value) if isinstance(value, list) or (isinstance(value, Tensor) and value.dim()) else None
        if count in place:
            one[key] = value[place[count] : place[count] + 1]
    return one | {keys.CAPTIONS_PER_IMAGE: 1}
