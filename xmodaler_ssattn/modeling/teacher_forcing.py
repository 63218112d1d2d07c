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
from xmodaler_ssattn.modeling.words import WordSource, packs, replace_some

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


def forces_at_once(model: GroundedCaptioner) -> bool:
    """Whether all words of a caption can go through in few large products, instead of word by word."""
    return model.decoder.rolls_out and packs(model.token_embed)


def word_states(model: GroundedCaptioner, batch: dict, ss_prob: float) -> WordStates:
    """Captions are ordered by length, longest first, and their words packed step after step.

    Args:
        ss_prob: scheduled sampling: probability of feeding the model's own word, never at the first step.
    """
    tokens = batch[kfg.G_TOKENS_IDS]
    plan = CaptionPlan.of(batch[keys.CAPTION_LENGTHS], tokens.shape[1], tokens.device)
    images = plan.order.div(batch[keys.CAPTIONS_PER_IMAGE], rounding_mode="floor")
    inputs = model.encode(batch, images)
    if forces_at_once(model):
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
