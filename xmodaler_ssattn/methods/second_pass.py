"""The common part of methods with a second teacher-forced pass, whose v-hat are given.

Such a method trains the plain decoder twice on the same captions: with its own attention, and with regions that were
chosen from words that are already known. Decoding is that of the plain decoder.

Letters: N captions, T words, M words to predict in all, K regions, E embedded feature size, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.fast.teacher_forcing import given_at_once
from xmodaler_ssattn.fast.words import packs
from xmodaler_ssattn.host import META_ARCH_REGISTRY, configurable, kfg
from xmodaler_ssattn.modeling.captioner import GroundedCaptioner
from xmodaler_ssattn.modeling.decoder import SSAttentionDecoder
from xmodaler_ssattn.modeling.forcing import WordStates
from xmodaler_ssattn.modeling.loop import each_word


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Layers made inside get random numbers of their own, so that all other weights equal those of the plain model."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed() + 1)
        yield


class SecondPassCaptioner(GroundedCaptioner):
    """A ``GroundedCaptioner`` whose losses also read the cross-entropy of a second pass.

    Raises:
        UserError: parts whose attention cannot be replaced, or that read words in another way.
    """

    @configurable
    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        problems = []
        name = type(self).__name__
        # A derived class with another ``forward`` may not read the given v-hat.
        reads = getattr(type(self.decoder), "forward", None) is SSAttentionDecoder.forward
        if not reads or self.decoder.state_condition is not None:
            problems.append(
                f"MODEL.DECODER: {name} needs SSAttentionDecoder, or a class with its forward, and "
                "MODEL.SS_ATTENTION.STATE_DIM 0, so that v-hat can be given for all words at once; got "
                f"{type(self.decoder).__name__}."
            )
        if not self.predicts_from_state:
            problems.append(f"MODEL.PREDICTOR: {name} needs BasePredictor, got {type(self.predictor).__name__}.")
        if not packs(self.token_embed):
            problems.append(f"MODEL.TOKEN_EMBED: {name} needs TokenBaseEmbedding without positions and types.")
        raise_all(problems, f"{name} cannot be built")

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        if cfg.MODEL.CAPTURE_GRAPHS:
            raise UserError(
                f"MODEL.CAPTURE_GRAPHS: {cls.__name__} reads the embedded regions, which captured graphs do not "
                "return. Set MODEL.CAPTURE_GRAPHS: False."
            )
        return super().from_config(cfg)

    def second_cross_entropy(self, batch: dict, states: WordStates, outputs: dict, v_hat: Tensor) -> Tensor:
        """The mean cross-entropy () of the same words with v-hat (N, T, E) instead of the decoder's attention."""
        tokens = batch[kfg.G_TOKENS_IDS]
        hidden = given_at_once(self, states, tokens, v_hat)
        if hidden is None:
            hidden = word_by_word(self, states, tokens, v_hat)
        targets = outputs[kfg.G_TARGET_IDS]
        found = self._predict(states._replace(hidden=hidden, logits=None), targets)
        if keys.CROSS_ENTROPY in found:
            return found[keys.CROSS_ENTROPY]
        return F.cross_entropy(found[kfg.G_LOGITS], targets)

    def embedded(self, words: Tensor) -> Tensor:
        """(N, T) int64 -> (N, T, word embedding)."""
        return self.token_embed({kfg.G_TOKENS_IDS: words.flatten()})[kfg.G_TOKEN_EMBED].view(*words.shape, -1)


def word_by_word(model: GroundedCaptioner, states: WordStates, tokens: Tensor, v_hat: Tensor) -> Tensor:
    """The language LSTM's state for every word if step t reads ``v_hat[:, t]`` instead of the decoder's own v-hat.

    Args:
        states: of the first pass over the same captions.
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


def in_order_of_words(grid: Tensor, states: WordStates) -> Tensor:
    """(N, T, ...), captions in the order of the plan -> (M, ...)."""
    assert states.plan is not None
    return grid.transpose(0, 1).flatten(0, 1)[states.plan.cells]


def in_grid(packed: Tensor, states: WordStates, steps: int) -> Tensor:
    """(M,) -> (N, ``steps``), 0 where there is no word; the inverse of ``in_order_of_words``."""
    assert states.plan is not None
    rows = len(states.plan.order)
    return packed.new_zeros(steps * rows).index_copy(0, states.plan.cells, packed).view(steps, rows).t()


def require_captioner(cfg: Any, loss: str, captioner: type) -> None:
    """Refuse a loss whose inputs only ``captioner``, or a class derived from it, returns."""
    if not issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), captioner):
        name = captioner.__name__
        raise UserError(
            f"LOSSES.NAMES contains {loss}, whose inputs are returned only by {name}, but MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE!r}. Set MODEL.META_ARCHITECTURE: {name}."
        )
