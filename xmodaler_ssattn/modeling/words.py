"""The words that enter a rollout: given, or drawn on the way by scheduled sampling.

Letters: N captions (longest first), M words in all, packed step after step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn.fast.rollout import step_slices
from xmodaler_ssattn.host import TokenBaseEmbedding, kfg
from xmodaler_ssattn.modeling.definition import follows


def packs(token_embed: nn.Module) -> bool:
    """Whether an embedding may be given words without their place in the caption."""
    return (
        follows(token_embed, TokenBaseEmbedding)
        and getattr(token_embed, "embeddings_pos", None) is None
        and getattr(token_embed, "embeddings_token_type", None) is None
        # Scheduled sampling keeps the mask of a word, which only a plain dropout has.
        and (token_embed.embeddings_dropout is None or follows(token_embed.embeddings_dropout, nn.Dropout))
    )


def draw_words(logits: Tensor) -> Tensor:
    """(n, V) -> (n,) one word a row, drawn from softmax(logits).

    argmax(p / e) with e ~ Exp(1) is what torch.multinomial does; that also asks the device whether p is
    valid, and waits for the answer.
    """
    p = logits.float().softmax(dim=-1)
    return (p / torch.empty_like(p).exponential_(1)).argmax(dim=-1)


def replace_some(
    words: Tensor, hidden: Tensor, prob: float | Tensor, draw: Callable[[Tensor], Tensor], static: bool = False
) -> Tensor:
    """Scheduled sampling: each of the (n,) words is, with probability ``prob``, one drawn from its state.

    Args:
        hidden: (n, H) states of the language LSTM of the step before.
        draw: (k, H) -> (k,) words.
        static: shapes may not depend on chance, as for a captured graph.
    """
    chosen = torch.rand(len(words), device=words.device) < prob
    if static or words.device.type != "cpu":
        # Which rows were chosen is known on the device alone: drawing for all is cheaper than waiting for it.
        return torch.where(chosen, draw(hidden), words)
    index = chosen.nonzero().squeeze(1)
    return words.index_copy(0, index, draw(hidden[index])) if len(index) else words


class WordSource:
    """Embedded words times their columns of the attention LSTM, given step by step and all at once.

    Args:
        token_embed: the host's word embedding (``packs`` holds).
        tokens: (M,) int64 ground-truth input words, packed.
        sizes: captions that have a word at each step.
        rows: (M,) int64, the caption of each word.
        ss_prob: probability of replacing a word by one drawn from the model, never at the first step.
            A tensor () counts as above 0.
        draw: (h2 of some captions (n, H)) -> (n,) words drawn from the model; only used when ``ss_prob`` > 0.
        static: shapes may not depend on chance, as for a captured graph.
    """

    def __init__(
        self,
        token_embed: nn.Module,
        tokens: Tensor,
        sizes: list[int],
        rows: Tensor,
        ss_prob: float | Tensor = 0.0,
        draw: Callable[[Tensor], Tensor] | None = None,
        static: bool = False,
    ):
        self.token_embed = token_embed
        self.sizes = sizes
        self._samples = isinstance(ss_prob, Tensor) or ss_prob > 0
        self._tokens = tokens.clone() if self._samples else tokens
        self._rows = rows
        self._at = step_slices(sizes)
        self._ss_prob = ss_prob
        self._draw = draw
        self._static = static
        self._x1: Tensor | None = None

    def prepare(self, weight: Tensor, constant: Tensor) -> None:
        """``weight`` (4H, word embedding): the word's columns; ``constant`` (N, 4H): all that no word changes."""
        self._weight, self._constant = weight, constant
        dropout = self.token_embed.embeddings_dropout
        self._mask = None
        if self._samples and dropout is not None and self.token_embed.training:
            # One mask for both times that a word is embedded: when it is drawn, and for the gradient.
            self._mask = dropout(constant.new_ones(len(self._tokens), weight.shape[1]))
        if not self._samples:
            self._x1 = self._product(slice(0, len(self._tokens)))

    def _product(self, now: slice) -> Tensor:
        if self._mask is None:
            embedded = self.token_embed({kfg.G_TOKENS_IDS: self._tokens[now]})[kfg.G_TOKEN_EMBED]
        else:
            embedded = _without_dropout(self.token_embed, self._tokens[now]) * self._mask[now]
        return F.linear(embedded.to(self._weight.dtype), self._weight) + self._constant[self._rows[now]]

    def x1_of_step(self, t: int, h2: Tensor) -> Tensor:
        """x1 of the words at step ``t``; ``h2`` (n, H) are the language LSTM's states of the step before."""
        now = self._at[t]
        if self._x1 is not None:
            return self._x1[now]
        if t > 0:
            self._tokens[now] = replace_some(self._tokens[now], h2, self._ss_prob, self._draw, self._static)
        return self._product(now)

    def x1(self) -> Tensor:
        """(M, 4H) x1 of all words with its graph; after the run, when the words are known."""
        return self._x1 if self._x1 is not None else self._product(slice(0, len(self._tokens)))


def _without_dropout(token_embed: nn.Module, tokens: Tensor) -> Tensor:
    dropout, token_embed.embeddings_dropout = token_embed.embeddings_dropout, None
    try:
        return token_embed({kfg.G_TOKENS_IDS: tokens})[kfg.G_TOKEN_EMBED]
    finally:
        token_embed.embeddings_dropout = dropout
