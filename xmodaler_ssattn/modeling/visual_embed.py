"""A visual embedding that also reads positions and class probabilities: a control experiment, not in the paper.

It tests whether the spatial-semantic branch helps by the way it uses p and c, or only because the model gets them:
the Up-Down baseline with this embedding gets both as part of V.
"""

from __future__ import annotations

from typing import Any

import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.host import EMBEDDING_REGISTRY, VisualBaseEmbedding, kfg
from xmodaler_ssattn.modeling.ss_attention import SPATIAL_SIZE
from xmodaler_ssattn.partners import require_grounded_captioner


@EMBEDDING_REGISTRY.register()
class SpatialSemanticEmbedding(VisualBaseEmbedding):
    """[V, p, c] (B, K, D + 5 + C) -> (B, K, E), with the layers of the host's ``VisualBaseEmbedding`` after it.

    MODEL.VISUAL_EMBED.IN_DIM stays D, the width of the stored features; MODEL.SS_ATTENTION.NUM_CLASSES is C.
    """

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        require_grounded_captioner(
            cfg, "SpatialSemanticEmbedding", "whose preprocess_batch drops positions and class probabilities"
        )
        arguments = super().from_config(cfg)
        arguments["in_dim"] += SPATIAL_SIZE + cfg.MODEL.SS_ATTENTION.NUM_CLASSES
        return arguments

    @classmethod
    def reads(cls, cfg: Any) -> set[str]:
        """The sample keys that it reads in addition to ATT_FEATS; see ``data/inputs.py``."""
        return {keys.SPATIAL, keys.CLASS_PROBS}

    def forward(self, batched_inputs: dict) -> dict:
        """Replace ATT_FEATS (B, K, D) by the embedding of [ATT_FEATS, SPATIAL, CLASS_PROBS]."""
        parts = [batched_inputs[key] for key in (kfg.ATT_FEATS, keys.SPATIAL, keys.CLASS_PROBS)]
        return super().forward({**batched_inputs, kfg.ATT_FEATS: torch.cat(parts, dim=-1)})
