"""Losses: each takes the model's output dict and returns {name: scalar}; the trainer adds them up.

``normaliser`` of the same dict returns what the loss was divided by, see ``processes.losses_over_processes``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn.errors import UserError

from .config import CfgNode, kfg
from .configurable import configurable
from .registry import LOSSES_REGISTRY

PADDING = -1  # the target of a position that is ignored


def build_losses(cfg: CfgNode) -> list[nn.Module]:
    """The losses that ``LOSSES.NAMES`` lists, in that order."""
    names = [name for name in cfg.LOSSES.NAMES if name]
    if not names:
        raise UserError("LOSSES.NAMES is empty; a caption model is trained with CrossEntropy or LabelSmoothing.")
    return [LOSSES_REGISTRY.get(name)(cfg) for name in names]


class _WordLoss(nn.Module):
    def normaliser(self, outputs_dict: dict[str, Any]) -> Tensor:
        """The number of words of the mean."""
        return (outputs_dict[kfg.G_TARGET_IDS] != PADDING).sum()


@LOSSES_REGISTRY.register()
class CrossEntropy(_WordLoss):
    """Mean over the words of -log p(word): logits (N, T, vocabulary), targets (N, T) with -1 on padding.

    Reads nothing of the config.
    """

    def __init__(self, cfg: CfgNode | None = None) -> None:
        super().__init__()

    def forward(self, outputs_dict: dict[str, Any]) -> dict[str, Tensor]:
        if kfg.G_LOGITS not in outputs_dict:
            return {}
        logits, targets = outputs_dict[kfg.G_LOGITS], outputs_dict[kfg.G_TARGET_IDS]
        loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten().long(), ignore_index=PADDING)
        return {"CrossEntropy Loss(G)": loss}


@LOSSES_REGISTRY.register()
class LabelSmoothing(_WordLoss):
    """Mean over the words of KL(q || p) with q = 1 - e on the word and e / (vocabulary - 1) on every other."""

    @configurable
    def __init__(self, *, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {"label_smoothing": cfg.LOSSES.LABELSMOOTHING}

    def forward(self, outputs_dict: dict[str, Any]) -> dict[str, Tensor]:
        if kfg.G_LOGITS not in outputs_dict:
            return {}
        log_p = F.log_softmax(outputs_dict[kfg.G_LOGITS].flatten(0, -2), dim=-1)
        targets = outputs_dict[kfg.G_TARGET_IDS].flatten().long()
        real = targets != PADDING
        log_p, targets = log_p[real], targets[real]
        q = log_p.new_full(log_p.shape, self.label_smoothing / (log_p.size(-1) - 1))
        q.scatter_(1, targets.unsqueeze(1), 1.0 - self.label_smoothing)
        return {"LabelSmoothing(G) loss": F.kl_div(log_p, q, reduction="none").sum(1).mean()}
