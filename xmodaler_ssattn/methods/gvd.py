"""The regions of Grounded Video Description (Zhou et al., CVPR 2019), on our region features.

    s_i = log(c_i M) + 0.1 (U v_i + u)                    the class head: the detector's opinion, changed by training
    r_i = dropout(ReLU(W [LN(v_i); LN(l_i); LN(softmax(s_i))]))          l_i = dropout(ReLU(W_l p_i)), 300 numbers
    r   <- two layers of self-attention over r_1 .. r_K                  with GVDContextEncoder

LN has no weights. M adds up the columns of the detector's classes that name a class of the captions. Source:
misc/model.py:113-135 and 300-351, misc/transformer.py:81-138 of facebookresearch/grounded-video-description.
``gvd_loss.py`` has the losses.

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

Letters: B images, K regions, D feature size, C columns with the background, N classes of the captions, E embedded size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.region_choice import columns_of_classes
from xmodaler_ssattn.host import (
    EMBEDDING_REGISTRY,
    ENCODER_REGISTRY,
    UpDownEncoder,
    VisualBaseEmbedding,
    configurable,
    kfg,
)
from xmodaler_ssattn.modeling.ss_attention import SPATIAL_SIZE
from xmodaler_ssattn.partners import require_grounded_captioner
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
