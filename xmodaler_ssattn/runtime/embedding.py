"""Word and region embeddings: (table or linear layer) -> activation -> norm -> dropout."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xmodaler_ssattn.errors import UserError

from .config import CfgNode
from .configurable import configurable
from .constants import kfg
from .registry import EMBEDDING_REGISTRY

_ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "celu": nn.CELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def _after_layers(node: CfgNode, dim: int) -> dict[str, nn.Module]:
    """The layers after the table or the linear layer that are in the config."""
    layers: dict[str, nn.Module] = {}
    name = node.ACTIVATION.lower()
    if name != "none":
        if name not in _ACTIVATIONS:
            raise UserError(f"Unknown ACTIVATION {node.ACTIVATION!r}; known: none, {', '.join(_ACTIVATIONS)}.")
        alpha = {"alpha": node.ELU_ALPHA} if name in ("elu", "celu") else {}
        layers["embeddings_act"] = _ACTIVATIONS[name](**alpha)
    if node.DROPOUT > 0:
        layers["embeddings_dropout"] = nn.Dropout(node.DROPOUT)
    if node.USE_NORM:
        layers["embeddings_norm"] = nn.LayerNorm(dim)
    return layers


class _Embedding(nn.Module):
    """Has the optional layers under upstream's attribute names; an absent one is None."""

    def _add_layers(
        self,
        embeddings_act: nn.Module | None = None,
        embeddings_norm: nn.Module | None = None,
        embeddings_dropout: nn.Module | None = None,
        embeddings_pos: nn.Module | None = None,
    ) -> None:
        self.embeddings_act = embeddings_act
        self.embeddings_norm = embeddings_norm
        self.embeddings_dropout = embeddings_dropout
        self.embeddings_pos = embeddings_pos

    def _finish(self, embeddings: Tensor) -> Tensor:
        for layer in (self.embeddings_act, self.embeddings_norm, self.embeddings_dropout):
            if layer is not None:
                embeddings = layer(embeddings)
        return embeddings


@EMBEDDING_REGISTRY.register()
class TokenBaseEmbedding(_Embedding):
    """Word indices (...) int64 -> (..., dim)."""

    @configurable
    def __init__(self, *, dim: int, vocab_size: int, **kwargs: Any) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, dim)
        self._add_layers(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.TOKEN_EMBED
        if node.POSITION.lower() != "none" or node.TYPE_VOCAB_SIZE > 0:
            raise UserError(
                "MODEL.TOKEN_EMBED.POSITION and TYPE_VOCAB_SIZE belong to Transformer models, which are available "
                f"with upstream X-modaler only; received {node.POSITION!r} and {node.TYPE_VOCAB_SIZE}."
            )
        return {"dim": node.DIM, "vocab_size": cfg.MODEL.VOCAB_SIZE, **_after_layers(node, node.DIM)}

    def forward(self, batched_inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Embed ``G_TOKENS_IDS``, the current word (B,) or all words (B, T), as ``G_TOKEN_EMBED``."""
        if kfg.G_TOKENS_IDS not in batched_inputs:
            return {}
        return {kfg.G_TOKEN_EMBED: self._finish(self.embeddings(batched_inputs[kfg.G_TOKENS_IDS]))}


@EMBEDDING_REGISTRY.register()
class VisualBaseEmbedding(_Embedding):
    """Region features (B, K, in_dim) -> (B, K, out_dim), plus the boxes' embedding when LOCATION_SIZE > 0."""

    @configurable
    def __init__(self, *, in_dim: int, out_dim: int, **kwargs: Any) -> None:
        super().__init__()
        self.embeddings = nn.Linear(in_dim, out_dim)
        self._add_layers(**kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.VISUAL_EMBED
        layers = _after_layers(node, node.OUT_DIM)
        if node.LOCATION_SIZE > 0:
            layers["embeddings_pos"] = nn.Linear(5, node.OUT_DIM)
        return {"in_dim": node.IN_DIM, "out_dim": node.OUT_DIM, **layers}

    def forward(self, batched_inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Replace ``ATT_FEATS`` by its embedding."""
        embeddings = self.embeddings(batched_inputs[kfg.ATT_FEATS])
        if self.embeddings_pos is not None and kfg.ATT_FEATS_LOC in batched_inputs:
            embeddings = embeddings + self.embeddings_pos(batched_inputs[kfg.ATT_FEATS_LOC])
        return {kfg.ATT_FEATS: self._finish(embeddings)}


@EMBEDDING_REGISTRY.register()
class VisualIdentityEmbedding(nn.Module):
    """Does not change the region features."""

    @configurable
    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {}

    def forward(self, batched_inputs: dict[str, Any]) -> dict[str, Tensor]:
        return {}
