"""The two losses of Grounded Video Description that use object classes; its L_attn is ``WordAttentionLoss``.

    L_grd = - mean over pairs of log softmax_i(s_ik + a_it)_i      word at t of class k, s the scores of the class head
    L_cls = - mean over pairs of log S_ik                          S_i = softmax(s_i)

A pair is an object word at t and a region i whose IoU with the word's box is above 0.5; the mean is over the pairs of
LOSSES.WORD_ATTENTION whose word names a class. a_it are the scores of the attention before the softmax; log alpha_it
differs from them by a number per word, which the softmax removes. Source: misc/model.py:303-312 and 400-414,
misc/utils.py:255-259 and 524-530 of facebookresearch/grounded-video-description.

Letters: B images, K regions, N classes of the captions, M predicted words of the batch, n pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.classes import class_of_word
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.data.word_pairs import pair_rule
from xmodaler_ssattn.errors import raise_all
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.host import EMBEDDING_REGISTRY, LOSSES_REGISTRY, configurable, kfg
from xmodaler_ssattn.losses import word_attention_loss
from xmodaler_ssattn.losses.base import Loss, check_weights
from xmodaler_ssattn.methods.gvd import GVDRegionEmbedding
from xmodaler_ssattn.partners import needs_grounded_captioner

EMBEDDING = GVDRegionEmbedding.__name__


def grounding_weights(scores: Tensor, alpha: Tensor, images: Tensor, classes: Tensor, mask: Tensor) -> Tensor:
    """softmax over the regions of s_ik + log alpha_it, for each word.

    Args:
        scores: (B, K, 1 + N) float32.
        alpha: (M, K) float32.
        images, classes: (M,) int64, the word's image and class.
        mask: (B, K), 0 for padding.

    Returns:
        (M, K) float32; padding has weight 0.

    >>> two = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])  # the class scores are equal: only the attention decides
    >>> at = torch.tensor([0])
    >>> grounding_weights(two, torch.tensor([[0.2, 0.6]]), at, at + 1, torch.ones(1, 2))
    tensor([[0.2500, 0.7500]])
    """
    tiny = torch.finfo(alpha.dtype).tiny
    of_word = scores.transpose(1, 2)[images, classes] + alpha.clamp_min(tiny).log()
    return of_word.masked_fill(mask[images] == 0, float("-inf")).softmax(-1)


def region_class_loss(scores: Tensor, images: Tensor, regions: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """- the weighted mean over pairs of log S_ik; 0 without pairs.

    Args:
        scores: (B, K, 1 + N) float32.
        images, regions, classes, weights: (n,) of each pair.
    """
    log_s = scores.log_softmax(-1)[images, regions, classes]
    return -(weights * log_s).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


@LOSSES_REGISTRY.register()
class GVDClassLoss(Loss):
    """GROUNDING_WEIGHT L_grd + CLASS_WEIGHT L_cls for the host's trainer.

    Args:
        class_of_word: (V,) int64, for each word id the number of its class, 0 for a word that names none.
    """

    learns_from_captions = "pairs"
    source = f"GroundedCaptioner with {EMBEDDING} and the dataset Flickr30kEntitiesDataset provide it in training."

    @configurable
    def __init__(self, *, class_of_word: Tensor, grounding_weight: float = 0.1, class_weight: float = 0.1) -> None:
        super().__init__()
        check_weights("LOSSES.GVD", GROUNDING_WEIGHT=grounding_weight, CLASS_WEIGHT=class_weight)
        self.grounding_weight, self.class_weight = grounding_weight, class_weight
        self.class_of_word = class_of_word

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        problems = [needs_grounded_captioner(cfg, cls.__name__, "which does not return the attention of every word")]
        if not issubclass(EMBEDDING_REGISTRY.get(cfg.MODEL.VISUAL_EMBED.NAME), GVDRegionEmbedding):
            problems.append(
                f"MODEL.VISUAL_EMBED.NAME: {cls.__name__} needs the class head of {EMBEDDING}, got "
                f"{cfg.MODEL.VISUAL_EMBED.NAME!r}."
            )
        if pair_rule(cfg) is None:
            problems.append(
                f"LOSSES.NAMES: {cls.__name__} learns from the pairs of words and regions of WordAttentionLoss. Add "
                "that loss, with LOSSES.WORD_ATTENTION.WEIGHT above 0."
            )
        if cfg.MODEL.CAPTURE_GRAPHS:
            problems.append("MODEL.CAPTURE_GRAPHS: captured graphs do not return the class scores. Set it to False.")
        raise_all(filter(None, problems), f"{cls.__name__} cannot be used")
        weights = {key: cfg.LOSSES.GVD[key.upper()] for key in ("grounding_weight", "class_weight")}
        return {"class_of_word": class_numbers(cfg), **weights}

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's training output; returns the two weighted losses."""
        scores, alpha, (words, regions, weights), mask = self.read(
            outputs_dict, keys.REGION_CLASS_SCORES, keys.WORD_ALPHA, keys.WORD_PAIRS, keys.IMAGE_MASK
        )
        targets, caption, captions = self.read(
            outputs_dict, kfg.G_TARGET_IDS, keys.CAPTION_OF_WORD, keys.CAPTIONS_PER_IMAGE
        )
        self.class_of_word = self.class_of_word.to(targets.device)  # copied once
        images, classes = caption.div(captions, rounding_mode="floor"), self.class_of_word[targets]
        weights = weights * (classes[words] > 0)
        alpha = alpha[:, : scores.shape[1]]  # without a sentinel's column: the softmax below removes its share
        attention = grounding_weights(scores, alpha, images, classes, mask)
        grounding = word_attention_loss(attention, words, regions, weights)
        of_class = region_class_loss(scores, images[words], regions, classes[words], weights)
        return {"GVD Grounding Loss": self.grounding_weight * grounding, "GVD Class Loss": self.class_weight * of_class}

    def normaliser(self, outputs_dict: dict) -> Tensor:
        """The sum of the weights of the pairs whose word names a class."""
        words, _, weights = outputs_dict[keys.WORD_PAIRS]
        classes = self.class_of_word.to(weights.device)[outputs_dict[kfg.G_TARGET_IDS]]
        return (weights * (classes[words] > 0)).sum()


def class_numbers(cfg: Any) -> Tensor:
    """(V,) int64: word id -> number of the class that it names, from 1, by the rule of the annotations; 0: none."""
    words = ObjectWords.of_model(cfg.INFERENCE.VOCAB)
    number = {name: at for at, name in enumerate(words.classes, 1)}
    named = (class_of_word(word, number, words.lemmas) for word in read_lines(cfg.INFERENCE.VOCAB, "Vocabulary"))
    return torch.tensor([0, *(number[name] if name else 0 for name in named)])
