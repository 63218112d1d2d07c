"""Grounded Video Description (Zhou et al., CVPR 2019) on our region features: its regions, and two of its losses.

    s_i = log(c_i M) + 0.1 (U v_i + u)                    the class head: the detector's opinion, changed by training
    r_i = dropout(ReLU(W [LN(v_i); LN(l_i); LN(softmax(s_i))]))          l_i = dropout(ReLU(W_l p_i)), 300 numbers
    r   <- two layers of self-attention over r_1 .. r_K                  with GVDContextEncoder

    L_grd = - mean over pairs of log softmax_i(s_ik + a_it)_i            word at t of class k
    L_cls = - mean over pairs of log S_ik                                S_i = softmax(s_i)

LN has no weights. M adds up the columns of the detector's classes that name a class of the captions. A pair is an
object word at t and a region i whose IoU with the word's box is above 0.5; the mean is over the pairs of
LOSSES.WORD_ATTENTION whose word names a class. a_it are the scores of the attention before the softmax; log alpha_it
differs from them by a number per word, which the softmax removes. GVD's L_attn is ``WordAttentionLoss``. Source:
misc/model.py:113-135, 300-351 and 400-414, misc/transformer.py:81-138, misc/utils.py:255-259 and 524-530 of
facebookresearch/grounded-video-description.

What differs from GVD:

* The class head. GVD copies the row of the detector's classifier whose class has the nearest GloVe vector, and puts a
  ReLU and dropout on it. Here the head starts from the class probabilities c of the region file. For classes with one
  column, softmax(s_i) is then that of copied rows, and U and u can learn the same changes; s_i itself differs by a
  number per region. A class that no column names starts at the mean of the others. GVD trains these weights with a
  tenth of the learning rate; with Adam the factor 0.1 has the same effect.
* v_i is the detector's last feature (pool5); GVD's has one more layer (fc7), which the feature files do not have.
* The self-attention has 8 equal heads, GVD's has 6 unequal ones (and the scale of one head). GVD attends to padding
  too; here padding is masked.
* Not contained: the second attention, over a grid of the image, and the attention LSTM's input [image, word] without
  h2. The decoder around the regions is Up-Down's, as in all rows.

Letters: B images, K regions, D feature size, C columns with the background, N classes of the captions, E embedded
size, M predicted words of the batch, n pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.classes import class_of_word
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.data.word_pairs import pair_rule
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.evaluation.region_choice import columns_of_classes
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.host import (
    EMBEDDING_REGISTRY,
    ENCODER_REGISTRY,
    LOSSES_REGISTRY,
    UpDownEncoder,
    VisualBaseEmbedding,
    configurable,
    kfg,
)
from xmodaler_ssattn.losses import word_attention_loss
from xmodaler_ssattn.losses.base import Loss, check_weights
from xmodaler_ssattn.modeling.ss_attention import SPATIAL_SIZE
from xmodaler_ssattn.partners import needs_grounded_captioner, require_grounded_captioner
from xmodaler_ssattn.precision import at_least_float32

HEAD_RATE = 0.1  # learning rate of the class head, as a factor
LOCATION_SIZE, LOCATION_DROPOUT = 300, 0.5
LAYERS, HEADS, CONTEXT_DROPOUT = 2, 8, 0.2
SMALLEST = 1e-8  # class probabilities have at most that many digits


def detector_scores(c: Tensor, columns: Tensor) -> Tensor:
    """The detector's opinion on the classes of the captions, before the softmax.

    Args:
        c: (..., C) class probabilities.
        columns: (C, 1 + N) 0/1, the columns that name each class. A class without one gets the mean of the others.

    Returns:
        (..., 1 + N) float32.

    >>> c = torch.tensor([0.2, 0.3, 0.5])  # background, men, man; the classes: background, man, dog
    >>> scores = detector_scores(c, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]]))
    >>> [round(x, 2) for x in scores.exp().tolist()]  # dog: the square root of 0.2 x 0.8
    [0.2, 0.8, 0.4]
    """
    named = columns.sum(0).clamp(max=1)
    scores = at_least_float32(c @ columns).clamp_min(SMALLEST).log() * named
    mean = scores.sum(-1, keepdim=True) / named.sum()
    return scores + (1 - named) * mean


def normalised(part: Tensor) -> Tensor:
    """A layer norm without weights over the last dimension, so that 2,048 numbers do not hide 5."""
    return F.layer_norm(part, part.shape[-1:])


def class_matrix(cfg: Any, user: str) -> Tensor:
    """(C, 1 + N) 0/1 for ``detector_scores``: background and the captions' classes in the order of their file.

    Raises:
        UserError: the columns have no names, or none of them names a class; see ``region_choice``.
    """
    words, columns = columns_of_classes(cfg, user)
    matrix = torch.zeros(cfg.MODEL.SS_ATTENTION.NUM_CLASSES, 1 + len(words.classes))
    matrix[0, 0] = 1
    for number, name in enumerate(words.classes, 1):
        matrix[list(columns.get(name, ())), number] = 1
    return matrix


@EMBEDDING_REGISTRY.register()
class GVDRegionEmbedding(VisualBaseEmbedding):
    """r_i (B, K, E), and the class head's scores as REGION_CLASS_SCORES (B, K, 1 + N).

    Args:
        columns: (C, 1 + N), see ``detector_scores``.
        in_dim, arguments: those of the host's ``VisualBaseEmbedding``; D is ``in_dim``.
    """

    reads_class_names = True  # the evaluator checks before training that they fit the regions

    @configurable
    def __init__(self, *, columns: Tensor, in_dim: int, **arguments: Any) -> None:
        classes = columns.shape[1]
        super().__init__(in_dim=in_dim + LOCATION_SIZE + classes, **arguments)
        self.location = nn.Sequential(nn.Linear(SPATIAL_SIZE, LOCATION_SIZE), nn.ReLU(), nn.Dropout(LOCATION_DROPOUT))
        self.class_head = nn.Linear(in_dim, classes)
        nn.init.zeros_(self.class_head.weight)
        nn.init.zeros_(self.class_head.bias)
        self.register_buffer("columns", columns, persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        user = f"MODEL.VISUAL_EMBED.NAME {cls.__name__}"
        require_grounded_captioner(cfg, user, "whose preprocess_batch drops positions and class probabilities")
        return {**super().from_config(cfg), "columns": class_matrix(cfg, user)}

    @classmethod
    def reads(cls, cfg: Any) -> set[str]:
        """The sample keys that it reads in addition to ATT_FEATS; see ``data/inputs.py``."""
        return {keys.SPATIAL, keys.CLASS_PROBS}

    def forward(self, batched_inputs: dict) -> dict:
        """Reads ATT_FEATS (B, K, D), SPATIAL (B, K, 5) and CLASS_PROBS (B, K, C)."""
        v, p, c = (batched_inputs[key] for key in (kfg.ATT_FEATS, keys.SPATIAL, keys.CLASS_PROBS))
        scores = detector_scores(c, self.columns) + HEAD_RATE * at_least_float32(self.class_head(v))
        parts = torch.cat([normalised(part) for part in (v, self.location(p), scores.softmax(-1))], dim=-1)
        return {**super().forward({**batched_inputs, kfg.ATT_FEATS: parts}), keys.REGION_CLASS_SCORES: scores}


@ENCODER_REGISTRY.register()
class GVDContextEncoder(UpDownEncoder):
    """Self-attention over an image's regions, then Up-Down's mean. Post-norm layers with E / 2 units; ``dim`` is E."""

    skips_words = True

    @configurable
    def __init__(self, *, dim: int) -> None:
        super().__init__()
        if dim % HEADS:
            raise UserError(
                f"MODEL.ENCODER GVDContextEncoder has {HEADS} heads: MODEL.VISUAL_EMBED.OUT_DIM must be a multiple of "
                f"{HEADS}, got {dim}."
            )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, HEADS, dim // 2, CONTEXT_DROPOUT, batch_first=True) for _ in range(LAYERS)
        )

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return {"dim": cfg.MODEL.VISUAL_EMBED.OUT_DIM}

    def forward(self, batched_inputs: dict, mode: str | None = None) -> dict:
        """Reads ATT_FEATS (B, K, E) and ATT_MASKS (B, K); returns the new ATT_FEATS and GLOBAL_FEATS (B, E)."""
        if mode not in (None, "v"):
            return {}
        feats = batched_inputs[kfg.ATT_FEATS]
        padded = batched_inputs.get(kfg.EXT_ATT_MASKS) is not None
        padding = batched_inputs[kfg.ATT_MASKS] == 0 if padded else None
        for layer in self.layers:
            feats = layer(feats, src_key_padding_mask=padding)
        return {kfg.ATT_FEATS: feats, **super().forward({**batched_inputs, kfg.ATT_FEATS: feats}, mode)}


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
    source = (
        "GroundedCaptioner with GVDRegionEmbedding and the dataset Flickr30kEntitiesDataset provide it in training."
    )

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
                f"MODEL.VISUAL_EMBED.NAME: {cls.__name__} needs the class head of GVDRegionEmbedding, got "
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
