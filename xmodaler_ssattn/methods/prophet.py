"""After Prophet attention (Liu et al., NeurIPS 2020): the attention learns from one that knows the words of the phrase.

    u_t         = W_u mean(e(y_i), ..., e(y_j))         y_i..y_j: the phrase of the word at t, or the word itself
    alpha-hat_t = softmax(W_a f(W_h u_t + W_v v_i))     with the decoder's own W_a, W_h and W_v
    L           = L_ce(alpha) + CROSS_ENTROPY_WEIGHT L_ce(alpha-hat) + WEIGHT / M sum_t |alpha_t - alpha-hat_t|_1

where the last sum has the words inside a phrase. alpha-hat has no recurrence, so that it is computed for all words at
once; the second cross-entropy is that of the two LSTMs with the v-hat of alpha-hat. Decoding uses alpha alone.

No code of the method is public, and this was built from its abstract. The original reads the words with a bidirectional
LSTM instead of their mean.

Letters: N captions, T words, M words to predict in all, K regions, A attention size, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import LOSSES_REGISTRY, META_ARCH_REGISTRY, configurable, kfg
from xmodaler_ssattn.losses.base import Loss, check_weights
from xmodaler_ssattn.methods.second_pass import (
    SecondPassCaptioner,
    in_order_of_words,
    own_random_numbers,
    require_captioner,
)
from xmodaler_ssattn.modeling.forcing import WordStates
from xmodaler_ssattn.partners import losses_of, require_outputs

DISTANCES = ("l1", "kl")


def span_means(embedded: Tensor, spans: Tensor) -> Tensor:
    """The mean embedding of each word's phrase; of a word outside phrases, its own embedding.

    Args:
        embedded: (N, T, D).
        spans: (N, T, 2) int64, see ``keys.WORD_SPANS``.

    Returns:
        (N, T, D); row t depends only on the words of its phrase.

    >>> words = torch.tensor([[[1.0], [3.0], [5.0]]])
    >>> span_means(words, torch.tensor([[[0, 2], [0, 2], [0, 0]]])).flatten().tolist()
    [2.0, 2.0, 5.0]
    """
    at = torch.arange(embedded.shape[1], device=embedded.device)
    inside = (spans[..., :1] <= at) & (at < spans[..., 1:])
    # Outside phrases, the row of the identity.
    inside = torch.where(spans[..., 1:] > 0, inside, at.unsqueeze(1) == at)
    share = inside.to(embedded.dtype)
    return torch.bmm(share / share.sum(2, keepdim=True), embedded)


def attention_distance(alpha: Tensor, prophet: Tensor, distance: str) -> Tensor:
    """|alpha - alpha-hat|_1, or KL(alpha-hat || alpha): (M, K), (M, K) -> (M,).

    >>> one = attention_distance(torch.tensor([[0.7, 0.3]]), torch.tensor([[0.4, 0.6]]), "l1")
    >>> round(float(one), 4)
    0.6
    """
    if distance == "l1":
        return (alpha - prophet).abs().sum(1)
    tiny = torch.finfo(alpha.dtype).tiny
    return (prophet * (prophet.clamp_min(tiny).log() - alpha.clamp_min(tiny).log())).sum(1)


@META_ARCH_REGISTRY.register()
class ProphetCaptioner(SecondPassCaptioner):
    """The captioner with alpha-hat in training.

    Args:
        attends: whether training computes alpha-hat.
        second_pass: whether training also forces the captions with the v-hat of alpha-hat.
    """

    @configurable
    def __init__(self, *, attends: bool = True, second_pass: bool = True, **parts: Any) -> None:
        super().__init__(**parts)
        self.attends, self.second_pass = attends, second_pass
        with own_random_numbers():
            self.prophet_query = nn.Linear(self.token_embed.embeddings.embedding_dim, self.decoder.hidden_size)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        settings = cfg.LOSSES.PROPHET
        attends = keys.WORD_SPANS in cls.reads(cfg)
        second_pass = attends and settings.CROSS_ENTROPY_WEIGHT > 0
        return {**super().from_config(cfg), "attends": attends, "second_pass": second_pass}

    @classmethod
    def reads(cls, cfg: Any) -> set[str]:
        """The phrases, in training with ProphetLoss."""
        settings = cfg.LOSSES.PROPHET
        used = losses_of(cfg, "ProphetLoss") and (settings.WEIGHT > 0 or settings.CROSS_ENTROPY_WEIGHT > 0)
        return {keys.WORD_SPANS} if used else set()

    def further_outputs(self, batch: dict, states: WordStates, outputs: dict) -> dict:
        """PROPHET_ALPHA and WORD_ALPHA (M, K), IN_PHRASE (M,), and SECOND_CROSS_ENTROPY () of the second pass."""
        if not self.attends:
            return {}
        require_outputs(batch, [keys.WORD_SPANS], "ProphetCaptioner", "Flickr30kEntitiesDataset provides it.")
        rows, plan = states.rows, states.plan
        assert rows is not None and plan is not None
        spans, words = (batch[key][plan.order] for key in (keys.WORD_SPANS, kfg.G_TARGET_IDS))
        query = self.prophet_query(span_means(self.embedded(words.clamp(min=0)), spans))
        mask = rows.get(kfg.EXT_ATT_MASKS)
        scores = self.decoder.att.scores(query.flatten(0, 1), rows[kfg.P_ATT_FEATS], mask)
        alpha, _, v_hat = self.decoder.pooled(scores, None, rows)
        found = {
            keys.WORD_ALPHA: states.alpha,
            keys.PROPHET_ALPHA: in_order_of_words(alpha, states),
            keys.IN_PHRASE: in_order_of_words(spans[..., 1] > 0, states),
        }
        if self.second_pass:
            found[keys.SECOND_CROSS_ENTROPY] = self.second_cross_entropy(batch, states, outputs, v_hat)
        return found


@LOSSES_REGISTRY.register()
class ProphetLoss(Loss):
    """The second cross-entropy, and the distance of the two attentions, for the host's trainer.

    Args:
        weight, cross_entropy_weight: of the distance and of the second cross-entropy, at least 0.
        distance: ``l1`` or ``kl``.
        stop_gradient: whether the distance trains only alpha.
    """

    learns_from_captions = "words"
    source = "ProphetCaptioner provides it in training."

    @configurable
    def __init__(
        self,
        *,
        weight: float = 0.1,
        cross_entropy_weight: float = 1.0,
        distance: str = "l1",
        stop_gradient: bool = False,
    ):
        super().__init__()
        check_weights("LOSSES.PROPHET", WEIGHT=weight, CROSS_ENTROPY_WEIGHT=cross_entropy_weight)
        if distance not in DISTANCES:
            raise UserError(f"LOSSES.PROPHET.DISTANCE: expected one of {DISTANCES}, got {distance!r}.")
        self.weight, self.cross_entropy_weight = weight, cross_entropy_weight
        self.distance, self.stop_gradient = distance, stop_gradient

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        require_captioner(cfg, "ProphetLoss", ProphetCaptioner)
        return {key.lower(): value for key, value in cfg.LOSSES.PROPHET.items()}

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's training output; returns its losses whose weight is above 0."""
        losses = {}
        if self.cross_entropy_weight:
            (second,) = self.read(outputs_dict, keys.SECOND_CROSS_ENTROPY)
            losses["Prophet Cross-Entropy"] = self.cross_entropy_weight * second
        if self.weight:
            alpha, prophet, in_phrase = self.read(outputs_dict, keys.WORD_ALPHA, keys.PROPHET_ALPHA, keys.IN_PHRASE)
            prophet = prophet.detach() if self.stop_gradient else prophet
            distances = attention_distance(alpha, prophet, self.distance) * in_phrase
            losses["Prophet Attention Loss"] = self.weight * distances.sum() / len(alpha)
        return losses
