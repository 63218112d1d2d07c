"""Encoders: the plain one, and Up-Down's mean over the regions."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .config import CfgNode
from .configurable import configurable
from .constants import kfg
from .registry import ENCODER_REGISTRY


@ENCODER_REGISTRY.register()
class Encoder(nn.Module):
    """Adds nothing to the batch."""

    @configurable
    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {}

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
