"""Supervision per word: the attention of the step that predicts an object word should be on the word's regions.

    L_attn = - sum_j w_j log a_j / n

over pairs j of a word and a region with weight w_j; a_j is the attention of the word's step to the region. With the
``threshold`` pairs of ``data/word_pairs.py``, ATTENTION alpha and REDUCTION pairs, this is the attention loss of
Grounded Video Description (misc/utils.py, LMCriterion); with ``soft`` pairs it is, up to a constant, the KL divergence
from the weights to the attention, as in POS-SCAN (misc/loss_wrapper.py). Pairs may also come from a file of any other
teacher.

Letters: M predicted words of the batch, K regions, n pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import LOSSES_REGISTRY, configurable
from xmodaler_ssattn.losses.base import Loss, check_weights
from xmodaler_ssattn.partners import needs_attention, require_grounded_captioner

REDUCTIONS = ("pairs", "words")
ATTENTIONS = {"alpha": keys.WORD_ALPHA, "gamma": keys.WORD_GAMMA}


def word_attention_loss(
    attention: Tensor, words: Tensor, regions: Tensor, weights: Tensor, *, reduction: str = "pairs"
) -> Tensor:
    """- sum_j w_j log a_j / n.

    Args:
        attention: (M, K) float32 weights >= 0; each row is divided by its sum (1 + lambda for the paper's gamma).
        words, regions: (n,) int64, row and column of each pair.
        weights: (n,) float32, >= 0.
        reduction: ``pairs`` divides by the sum of the weights, so that a word with many regions counts more (GVD);
            ``words`` makes each word's weights sum to 1 and divides by the number of words.

    Returns:
        () float32. 0, never NaN, without pairs.

    >>> alpha, at = torch.tensor([[0.25, 0.75]]), torch.tensor
    >>> round(float(word_attention_loss(alpha, at([0]), at([1]), at([1.0]))), 4)  # -log 0.75
    0.2877
    """
    tiny = torch.finfo(attention.dtype).tiny
    count = pair_count(len(attention), words, weights, reduction)
    if reduction == "words":
        weights = weights / _per_word(len(attention), words, weights)[words].clamp_min(tiny)
    share = attention[words, regions] / attention.sum(1)[words]
    # Attention that became 0 has no logarithm.
    return -(weights * share.clamp_min(tiny).log()).sum() / count.clamp_min(tiny)


def pair_count(num_words: int, words: Tensor, weights: Tensor, reduction: str) -> Tensor:
    """n, what ``word_attention_loss`` divides by: the sum of the weights, or the number of words that have a pair.

    Args:
        num_words: M. words, weights: (n,), as in ``word_attention_loss``.
    """
    if reduction == "words":
        return (_per_word(num_words, words, weights) > 0).sum()
    if reduction == "pairs":
        return weights.sum()
    raise ValueError(f"word_attention_loss: reduction must be one of {tuple(REDUCTIONS)}, got {reduction!r}.")


def _per_word(num_words: int, words: Tensor, weights: Tensor) -> Tensor:
    return weights.new_zeros(num_words).index_add(0, words, weights)


@LOSSES_REGISTRY.register()
class WordAttentionLoss(Loss):
    """WEIGHT times L_attn for the host's trainer.

    Args:
        weight: at least 0; with 0 the data set makes no pairs, and the loss is left out.
        attention: ``alpha`` or ``gamma``.
        reduction: see ``word_attention_loss``.
    """

    learns_from_captions = "pairs"

    @configurable
    def __init__(self, *, weight: float = 0.1, attention: str = "alpha", reduction: str = "pairs"):
        super().__init__()
        for key, value, allowed in (("ATTENTION", attention, ATTENTIONS), ("REDUCTION", reduction, REDUCTIONS)):
            if value not in allowed:
                raise UserError(f"LOSSES.WORD_ATTENTION.{key}: expected one of {tuple(allowed)}, got {value!r}.")
        check_weights("LOSSES.WORD_ATTENTION", WEIGHT=weight)
        self.weight, self.attention, self.reduction = weight, attention, reduction

    @classmethod
    def from_config(cls, cfg) -> dict:
        cfg = completed(cfg)
        require_grounded_captioner(cfg, "WordAttentionLoss", "which does not return the attention of every word")
        if problem := needs_attention(cfg, "WordAttentionLoss"):
            raise UserError(f"{problem} Remove WordAttentionLoss from LOSSES.NAMES.")
        settings = cfg.LOSSES.WORD_ATTENTION
        return {"weight": settings.WEIGHT, "attention": settings.ATTENTION, "reduction": settings.REDUCTION}

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's training output; returns ``{"Word Attention Loss": WEIGHT L_attn}``."""
        if self.weight == 0:
            return {}
        attention, pairs = self.read(outputs_dict, ATTENTIONS[self.attention], keys.WORD_PAIRS)
        return {"Word Attention Loss": self.weight * word_attention_loss(attention, *pairs, reduction=self.reduction)}

    def normaliser(self, outputs_dict: dict) -> Tensor:
        """See ``pair_count``."""
        pairs = outputs_dict[keys.WORD_PAIRS]
        return pair_count(len(outputs_dict[ATTENTIONS[self.attention]]), pairs.words, pairs.weights, self.reduction)
