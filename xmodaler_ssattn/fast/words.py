"""The input words of a rollout: given, or sampled during the run by scheduled sampling.

Letters: N captions (longest first), M words in all, packed step after step, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn.fast.rollout import step_slices
from xmodaler_ssattn.host import TokenBaseEmbedding, kfg
from xmodaler_ssattn.modeling.definition import follows
from xmodaler_ssattn.modeling.sampling import replace_some


def packs(token_embed: Any) -> bool:
    """Whether an embedding works on words without their position in the caption."""
    return (
        follows(token_embed, TokenBaseEmbedding)
        and getattr(token_embed, "embeddings_pos", None) is None
        and getattr(token_embed, "embeddings_token_type", None) is None
        # Scheduled sampling keeps the mask of a word, which only a plain dropout has.
        and (token_embed.embeddings_dropout is None or follows(token_embed.embeddings_dropout, nn.Dropout))
    )


class WordSource:
    """Embedded words times their columns of the attention LSTM, step by step and all at once.

    Args:
        token_embed: the host's word embedding (``packs`` must be True).
        tokens, rows: (M,) int64, the ground-truth input words and their captions, packed.
        sizes: the number of captions that have a word at each step.
        ss_prob: probability of replacing a word by one of the model's own, never at the first step. A tensor ()
            is treated as above 0.
        sample, static: see ``replace_some``; only used when ``ss_prob`` > 0.
    """

    def __init__(
        self,
        token_embed: Any,
        tokens: Tensor,
        sizes: list[int],
        rows: Tensor,
        ss_prob: float | Tensor,
        sample: Callable[[Tensor], Tensor],
        static: bool = False,
    ):
        self.token_embed = token_embed
        self.sizes = sizes
        self._samples = isinstance(ss_prob, Tensor) or ss_prob > 0
        self._tokens = tokens.clone() if self._samples else tokens
        self._rows = rows
        self._at = step_slices(sizes)
        self._ss_prob, self._sample, self._static = ss_prob, sample, static
        self._x1: Tensor | None = None

    def prepare(self, weight: Tensor, constant: Tensor) -> None:
        """``weight`` (4H, word embedding): the word's columns; ``constant`` (N, 4H): the part without words."""
        self._weight, self._constant = weight, constant
        dropout = self.token_embed.embeddings_dropout
        self._mask = None
        if self._samples and dropout is not None and self.token_embed.training:
            # A word is embedded twice, for the run and for the gradient, with one mask for both.
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
        """x1 of the words at step ``t``; ``h2`` (n, H) are the language LSTM's states of the previous step."""
        now = self._at[t]
        if self._x1 is not None:
            return self._x1[now]
        if t > 0:
            self._tokens[now] = replace_some(self._tokens[now], h2, self._ss_prob, self._sample, self._static)
        return self._product(now)

    def x1(self) -> Tensor:
        """(M, 4H) x1 of all words with its autograd graph; called after the run, when the words are known."""
        return self._x1 if self._x1 is not None else self._product(slice(0, len(self._tokens)))


def _without_dropout(token_embed: Any, tokens: Tensor) -> Tensor:
    dropout, token_embed.embeddings_dropout = token_embed.embeddings_dropout, None
    try:
        return token_embed({kfg.G_TOKENS_IDS: tokens})[kfg.G_TOKEN_EMBED]
    finally:
        token_embed.embeddings_dropout = dropout
