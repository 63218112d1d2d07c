"""The word predictor: a linear layer on the decoder's last hidden state."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .config import CfgNode
from .configurable import configurable
from .constants import kfg
from .registry import PREDICTOR_REGISTRY


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
