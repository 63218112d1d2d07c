"""Teacher forcing: the states of the language LSTM behind every word of a batch's captions.

Letters: B images, S captions an image, N = B S, T words, M words to predict in all, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.collate import CaptionPlan
from xmodaler_ssattn.modeling.words import WordSource, replace_some

if TYPE_CHECKING:
    from xmodaler_ssattn.modeling.captioner import GroundedCaptioner


class WordStates(NamedTuple):
    """The state from which each of the M words is predicted.

    Attributes:
        inputs: the encoded batch, with what the losses read.
        hidden: (M, H).
        words: (M,) int64, index of the word in the flattened (N, T) tokens and targets.
        captions: (M,) int64, the word's caption.
    """

    inputs: dict
    hidden: Tensor
    words: Tensor
    captions: Tensor


def word_states(model: GroundedCaptioner, batch: dict, ss_prob: float, at_once: bool | None = None) -> WordStates:
    """Captions are ordered by length, longest first, and their words packed step after step.

    Args:
        ss_prob: scheduled sampling: probability of feeding the model's own word, never at the first step.
        at_once: all words in few large products instead of word by word; None: where the model allows it.
    """
    tokens = batch[kfg.G_TOKENS_IDS]
    plan = CaptionPlan.of(batch[keys.CAPTION_LENGTHS], tokens.shape[1], tokens.device)
    images = plan.order.div(batch[keys.CAPTIONS_PER_IMAGE], rounding_mode="floor")
    inputs = model.encode(batch, images)
    if model.forces_at_once if at_once is None else at_once:
        given = tokens.reshape(-1)[plan.words]
        words = WordSource(model.token_embed, given, plan.sizes, plan.rows, ss_prob, model.draw_words)
        hidden = model.decoder.roll_out(inputs, words)
    else:
        hidden = _step_through(model, inputs, tokens[plan.order], ss_prob)
        hidden = hidden.transpose(0, 1).flatten(0, 1)[plan.cells]
    return WordStates(inputs, hidden, plan.words, plan.order[plan.rows])


def _step_through(model: GroundedCaptioner, inputs: dict, tokens: Tensor, ss_prob: float) -> Tensor:
    """The decoder word by word over (N, T) tokens; (N, T, H) hidden states of the language LSTM."""
    state = model.with_rows(inputs, tokens.shape[0])
    hidden: list[Tensor] = []
    for t in range(tokens.shape[1]):
        word = tokens[:, t]
        if ss_prob > 0 and t > 0:
            word = replace_some(word, hidden[-1], ss_prob, model.draw_words)
        model.step(state, word, t)
        hidden.append(state[kfg.G_HIDDEN_STATES][-1])
    return torch.stack(hidden, dim=1)


# Norm of a difference between the two ways, relative to the values. Float32 gives 1e-6, TF32 products 1e-3.
TOLERANCE = 5e-3


def ways_agree(model: GroundedCaptioner, batch: dict) -> bool:
    """Whether the words of one caption give the same states and gradients at once and word by word.

    The longest caption of the batch, without dropout and autocast. The model's modes and gradients and the random state
    are left as they were. Reading the answer waits for the device once.
    """
    one = _one_caption(batch)
    modes = [(module, module.training) for module in model.modules()]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    devices = [model.device] if model.device.type == "cuda" else []
    found = []
    with torch.random.fork_rng(devices), torch.autocast(model.device.type, enabled=False), torch.enable_grad():
        try:
            model.eval()
            for at_once in (True, False):
                hidden = word_states(model, one, 0.0, at_once=at_once).hidden
                # No two states count the same, so that one state's gradient cannot hide behind another's.
                slope = torch.linspace(-1, 1, hidden.numel(), device=hidden.device, dtype=hidden.dtype)
                gradients: tuple = ()
                if hidden.requires_grad:
                    total = (hidden.flatten() * slope).sum()
                    gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
                found.append([hidden.detach(), *gradients])
        finally:
            for module, training in modes:
                module.training = training
    return len(found[0]) == len(found[1]) and all(
        float((a.float() - b.float()).norm()) <= TOLERANCE * float(b.float().norm()) + 1e-6
        for a, b in zip(*found, strict=True)
    )


def _one_caption(batch: dict) -> dict:
    """The longest caption of a batch and its image, as a batch."""
    lengths, captions = batch[keys.CAPTION_LENGTHS], batch[keys.CAPTIONS_PER_IMAGE]
    row = max(range(len(lengths)), key=lengths.__getitem__)
    image = row // captions
    one = dict(batch)
    for key, value in batch.items():
        if isinstance(value, (Tensor, list)) and len(value) == len(lengths) // captions:
            one[key] = value[image : image + 1]
    for key in (kfg.G_TOKENS_IDS, kfg.G_TARGET_IDS):
        one[key] = batch[key][row : row + 1]
    return one | {keys.CAPTION_LENGTHS: lengths[row : row + 1], keys.CAPTIONS_PER_IMAGE: 1}
