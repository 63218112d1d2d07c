"""Learning rate schedules. They step once per iteration; the config has epochs."""

from __future__ import annotations

from typing import Any

import torch

from .config import CfgNode
from .configurable import configurable
from .registry import LR_SCHEDULER_REGISTRY


@LR_SCHEDULER_REGISTRY.register()
class StepLR(torch.optim.lr_scheduler.StepLR):
    """The rate times GAMMA every STEP_SIZE epochs."""

    @configurable
    def __init__(self, *, optimizer, step_size, gamma=0.1) -> None:
        super().__init__(optimizer, step_size, gamma)

    @classmethod
    def from_config(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer, data_size: int) -> dict[str, Any]:
        return {
            "optimizer": optimizer,
            "step_size": cfg.LR_SCHEDULER.STEP_SIZE * data_size,
            "gamma": cfg.LR_SCHEDULER.GAMMA,
        }


def _one(step: int) -> float:
    return 1.0


@LR_SCHEDULER_REGISTRY.register()
class FixLR(torch.optim.lr_scheduler.LambdaLR):
    """A constant rate."""

    @configurable
    def __init__(self, *, optimizer, last_epoch=-1) -> None:
        super().__init__(optimizer, _one, last_epoch=last_epoch)

    @classmethod
    def from_config(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer, data_size: int) -> dict[str, Any]:
        return {"optimizer": optimizer}
