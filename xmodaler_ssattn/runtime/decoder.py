"""The decoder base class and the Up-Down decoder (two LSTMs around an additive attention).

Letters: N captions, K regions, D embedded feature size, H hidden size, A attention size.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .config import CfgNode
from .configurable import configurable
from .constants import kfg
from .registry import DECODER_REGISTRY


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
        self.num_layers = 2
        self.hidden_size = hidden_size
        # The order of these layers determines the random initial weights; it is the same as upstream's.
        self.lstm1 = nn.LSTMCell(hidden_size + token_embed_dim + visual_embed_dim, hidden_size)
        self.dropout1 = nn.Dropout(dropout1) if dropout1 > 0 else None
        self.lstm2 = nn.LSTMCell(hidden_size + visual_embed_dim, hidden_size)
        self.dropout2 = nn.Dropout(dropout2) if dropout2 > 0 else None
        self.att = BaseAttention(
            hidden_size=hidden_size, att_embed_size=att_embed_size, att_embed_dropout=att_embed_dropout
        )
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
            cfg.MODEL.UPDOWN = CfgNode(
                {"ATT_EMBED_SIZE": 512, "DROPOUT1": 0.0, "DROPOUT2": 0.0, "ATT_EMBED_DROPOUT": 0.0}
            )

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
        attended = self.att(
            h1, batched_inputs[kfg.ATT_FEATS], batched_inputs[kfg.P_ATT_FEATS], batched_inputs[kfg.EXT_ATT_MASKS]
        )
        input2 = torch.cat([attended, h1], 1)
        if self.dropout2 is not None:
            input2 = self.dropout2(input2)
        h2, c2 = self.lstm2(input2, (h2, c2))
        return {kfg.G_HIDDEN_STATES: [h1, h2], kfg.G_CELL_STATES: [c1, c2]}
