"""The parts of a caption model: embeddings, encoders, the Up-Down decoder and the word predictor.

Letters: B images, N captions, K regions, D embedded feature size, H hidden size, A attention size.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from xmodaler_ssattn.errors import UserError

from .config import CfgNode, kfg
from .configurable import configurable
from .registry import DECODER_REGISTRY, EMBEDDING_REGISTRY, ENCODER_REGISTRY, PREDICTOR_REGISTRY

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
    """Table or linear layer -> activation -> norm -> dropout, under upstream's names; absent layers are None."""

    def __init__(
        self,
        embeddings: nn.Module,
        embeddings_act: nn.Module | None = None,
        embeddings_norm: nn.Module | None = None,
        embeddings_dropout: nn.Module | None = None,
        embeddings_pos: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
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
        super().__init__(nn.Embedding(vocab_size, dim), **kwargs)

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
        super().__init__(nn.Linear(in_dim, out_dim), **kwargs)

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
    """Does not change the region features; reads nothing of the config."""

    def __init__(self, cfg: CfgNode | None = None) -> None:
        super().__init__()

    def forward(self, batched_inputs: dict[str, Any]) -> dict[str, Tensor]:
        return {}


@ENCODER_REGISTRY.register()
class Encoder(nn.Module):
    """Adds nothing to the batch; reads nothing of the config."""

    def __init__(self, cfg: CfgNode | None = None) -> None:
        super().__init__()

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """No keys of its own."""

    def forward(self, batched_inputs: dict[str, Any], mode: str | None = None) -> dict[str, Tensor]:
        """``mode`` 'v': once, for the regions; 't': at each word; None: both."""
        return {}


@ENCODER_REGISTRY.register()
class UpDownEncoder(Encoder):
    """``GLOBAL_FEATS`` (B, D): the mean of the embedded regions (B, K, D) over the real ones."""

    def forward(self, batched_inputs: dict[str, Any], mode: str | None = None) -> dict[str, Tensor]:
        if mode not in (None, "v"):
            return {}
        if batched_inputs.get(kfg.GLOBAL_FEATS) is not None:
            return {kfg.GLOBAL_FEATS: batched_inputs[kfg.GLOBAL_FEATS]}
        feats, masks = batched_inputs[kfg.ATT_FEATS], batched_inputs.get(kfg.ATT_MASKS)
        if masks is None:
            return {kfg.GLOBAL_FEATS: feats.mean(1)}
        return {kfg.GLOBAL_FEATS: (feats * masks.unsqueeze(-1)).sum(1) / masks.sum(-1, keepdim=True).clamp(min=1)}


class Decoder(nn.Module, metaclass=ABCMeta):
    """Predicts one word per call. A subclass sets ``hidden_size`` and ``num_layers``."""

    hidden_size: int
    num_layers: int

    @abstractmethod
    def forward(self, batched_inputs: dict[str, Any]) -> dict[str, Any]:
        """Read the state of the last word and the current word; return the new state."""

    def preprocess(self, batched_inputs: dict[str, Any]) -> dict[str, Any]:
        """The computation that is done once, before the first word."""
        return batched_inputs

    def init_states(self, batch_size: int) -> dict[str, list[Tensor]]:
        """Zero states, ``num_layers`` of (batch_size, hidden_size), where the decoder's weights are."""
        weight = next(self.parameters())
        return {
            key: [weight.new_zeros(batch_size, self.hidden_size) for _ in range(self.num_layers)]
            for key in (kfg.G_HIDDEN_STATES, kfg.G_CELL_STATES)
        }


class BaseAttention(nn.Module):
    """a_k = w_alpha . tanh(W_h h + p_k), alpha = softmax(a + mask), result sum_k alpha_k v_k."""

    def __init__(self, *, hidden_size: int, att_embed_size: int, att_embed_dropout: float) -> None:
        super().__init__()
        self.w_h = nn.Linear(hidden_size, att_embed_size, bias=False)
        self.act = nn.Tanh()
        self.w_alpha = nn.Linear(att_embed_size, 1, bias=False)
        self.dropout = nn.Dropout(att_embed_dropout) if att_embed_dropout > 0 else None
        self.softmax = nn.Softmax(dim=-1)

    def forward(
        self, hidden_states: Tensor, att_feats: Tensor, p_att_feats: Tensor, att_masks: Tensor | None = None, **kwargs
    ) -> Tensor:
        """(N, H), (N, K, D), (N, K, A), (N, K) added to the scores -> (N, D)."""
        hidden = self.act(self.w_h(hidden_states).unsqueeze(1) + p_att_feats)
        if self.dropout is not None:
            hidden = self.dropout(hidden)
        scores = self.w_alpha(hidden).squeeze(-1)
        if att_masks is not None:
            scores = scores + att_masks
        alpha = self.softmax(scores)
        return torch.bmm(alpha.unsqueeze(1), att_feats).squeeze(1)


@DECODER_REGISTRY.register()
class UpDownDecoder(Decoder):
    """Anderson et al. 2018: LSTM 1 reads the image mean and the word and controls the attention, LSTM 2 predicts."""

    @configurable
    def __init__(
        self,
        *,
        hidden_size: int,
        token_embed_dim: int,
        visual_embed_dim: int,
        att_embed_size: int,
        dropout1: float,
        dropout2: float,
        att_embed_dropout: float,
    ) -> None:
        super().__init__()
        self.num_layers, self.hidden_size = 2, hidden_size
        # The order of these layers determines the random initial weights; it is the same as upstream's.
        self.lstm1 = nn.LSTMCell(hidden_size + token_embed_dim + visual_embed_dim, hidden_size)
        self.dropout1 = nn.Dropout(dropout1) if dropout1 > 0 else None
        self.lstm2 = nn.LSTMCell(hidden_size + visual_embed_dim, hidden_size)
        self.dropout2 = nn.Dropout(dropout2) if dropout2 > 0 else None
        sizes = {"hidden_size": hidden_size, "att_embed_size": att_embed_size}
        self.att = BaseAttention(**sizes, att_embed_dropout=att_embed_dropout)
        self.p_att_feats = nn.Linear(visual_embed_dim, att_embed_size)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "hidden_size": cfg.MODEL.DECODER_DIM,
            "token_embed_dim": cfg.MODEL.TOKEN_EMBED.DIM,
            "visual_embed_dim": cfg.MODEL.VISUAL_EMBED.OUT_DIM,
            "att_embed_size": cfg.MODEL.UPDOWN.ATT_EMBED_SIZE,
            "dropout1": cfg.MODEL.UPDOWN.DROPOUT1,
            "dropout2": cfg.MODEL.UPDOWN.DROPOUT2,
            "att_embed_dropout": cfg.MODEL.UPDOWN.ATT_EMBED_DROPOUT,
        }

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        if "UPDOWN" not in cfg.MODEL:
            dropouts = {"DROPOUT1": 0.0, "DROPOUT2": 0.0, "ATT_EMBED_DROPOUT": 0.0}
            cfg.MODEL.UPDOWN = CfgNode({"ATT_EMBED_SIZE": 512, **dropouts})

    def preprocess(self, batched_inputs: dict[str, Any]) -> dict[str, Any]:
        """Project the regions for the attention, and start from zero states."""
        feats = batched_inputs[kfg.ATT_FEATS]
        batched_inputs.update(self.init_states(feats.shape[0]))
        batched_inputs[kfg.P_ATT_FEATS] = self.p_att_feats(feats)
        return batched_inputs

    def forward(self, batched_inputs: dict[str, Any]) -> dict[str, list[Tensor]]:
        (h1, h2), (c1, c2) = batched_inputs[kfg.G_HIDDEN_STATES], batched_inputs[kfg.G_CELL_STATES]
        input1 = torch.cat([h2, batched_inputs[kfg.GLOBAL_FEATS], batched_inputs[kfg.G_TOKEN_EMBED]], 1)
        if self.dropout1 is not None:
            input1 = self.dropout1(input1)
        h1, c1 = self.lstm1(input1, (h1, c1))
        regions = (batched_inputs[key] for key in (kfg.ATT_FEATS, kfg.P_ATT_FEATS, kfg.EXT_ATT_MASKS))
        attended = self.att(h1, *regions)
        input2 = torch.cat([attended, h1], 1)
        if self.dropout2 is not None:
            input2 = self.dropout2(input2)
        h2, c2 = self.lstm2(input2, (h2, c2))
        return {kfg.G_HIDDEN_STATES: [h1, h2], kfg.G_CELL_STATES: [c1, c2]}


@PREDICTOR_REGISTRY.register()
class BasePredictor(nn.Module):
    """(..., hidden_size) -> ``G_LOGITS`` (..., vocab_size)."""

    @configurable
    def __init__(self, *, hidden_size: int, vocab_size: int, dropout: float) -> None:
        super().__init__()
        self.logits = nn.Linear(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout) if dropout > 0.0 else None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {
            "hidden_size": cfg.MODEL.DECODER_DIM,
            "vocab_size": cfg.MODEL.VOCAB_SIZE,
            "dropout": cfg.MODEL.PRED_DROPOUT,
        }

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        """No keys of its own."""

    def forward(self, batched_inputs: dict[str, Any]) -> dict[str, Tensor]:
        hidden = batched_inputs[kfg.G_HIDDEN_STATES]
        if isinstance(hidden, (list, tuple)):
            hidden = hidden[-1]
        if self.dropout is not None:
            hidden = self.dropout(hidden)
        return {kfg.G_LOGITS: self.logits(hidden)}
