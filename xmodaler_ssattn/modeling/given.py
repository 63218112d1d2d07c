"""Teacher forcing with given v-hat: the two LSTMs read pooled features that are known before, without attention.

A second pass over the captions of a batch, for methods that learn where to look from words that are known.

Letters: N captions, T words, M words to predict in all, E embedded feature size, H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.accelerators import ATTACHED
from xmodaler_ssattn.modeling.forcing import WordStates
from xmodaler_ssattn.modeling.loop import WordModel, each_word


def given_states(model: WordModel, states: WordStates, tokens: Tensor, v_hat: Tensor) -> Tensor:
    """``word_by_word``, or a faster way that equals it."""
    hidden = ATTACHED.given(model, states, tokens, v_hat) if ATTACHED.given is not None else None
    return word_by_word(model, states, tokens, v_hat) if hidden is None else hidden


def word_by_word(model: WordModel, states: WordStates, tokens: Tensor, v_hat: Tensor) -> Tensor:
    """The language LSTM's state for every word if step t reads ``v_hat[:, t]`` instead of the decoder's own v-hat.

    Args:
        states: of the first pass over the same captions; with ``rows`` and ``plan``.
        tokens: (N, T) int64 input words.
        v_hat: (N, T, E), captions in the order of ``states.plan``.

    Returns:
        (M, H), words in the order of ``states.hidden``.
    """
    plan, rows = states.plan, states.rows
    assert plan is not None and rows is not None
    tokens = tokens[plan.order]
    hidden: list[Tensor] = []

    def next_word(state: dict, t: int) -> Tensor | None:
        hidden.append(state[kfg.G_HIDDEN_STATES][-1])
        if t + 1 == tokens.shape[1]:
            return None
        state[keys.GIVEN_V_HAT] = v_hat[:, t + 1]
        return tokens[:, t + 1]

    first = {**model.with_rows(rows, len(tokens)), keys.GIVEN_V_HAT: v_hat[:, 0]}
    each_word(model, first, tokens[:, 0], tokens.shape[1], next_word)
    return torch.stack(hidden).flatten(0, 1)[plan.cells]
