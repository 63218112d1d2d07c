"""Optimisers with one parameter group per tensor and optional clipping inside ``step``, and their schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from xmodaler_ssattn.errors import UserError

from .config import CfgNode
from .configurable import configurable
from .registry import LR_SCHEDULER_REGISTRY, SOLVER_REGISTRY

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm),
)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that ``SOLVER.NAME`` names, over the model's trainable tensors."""
    cls = SOLVER_REGISTRY.get(cfg.SOLVER.NAME)
    return maybe_add_gradient_clipping(cfg, cls)(cfg, parameter_groups(cfg, model))


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """One group per trainable tensor, in the order of ``model.modules()``; a shared tensor appears once.

    Norm layers have their own weight decay, biases their own weight decay and learning rate factor.
    """
    solver = cfg.SOLVER
    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr, decay = solver.BASE_LR, solver.WEIGHT_DECAY
            if isinstance(module, _NORMS):
                decay = solver.WEIGHT_DECAY_NORM
            elif name == "bias":
                lr, decay = lr * solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS
            groups.append({"params": [parameter], "lr": lr, "weight_decay": decay})
    return groups


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """``optimizer``, or when ``SOLVER.GRAD_CLIP`` > 0 a subclass of it that clips the gradients before each step."""
    clip, norm_type, kind = cfg.SOLVER.GRAD_CLIP, cfg.SOLVER.NORM_TYPE, cfg.SOLVER.GRAD_CLIP_TYPE
    if clip <= 0:
        return optimizer
    if kind not in ("value", "norm"):
        raise UserError(f"SOLVER.GRAD_CLIP_TYPE: expected 'value' or 'norm', received {kind!r}.")

    def step(self, closure: Callable | None = None):
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        if kind == "value":
            nn.utils.clip_grad_value_(parameters, clip)
        else:
            nn.utils.clip_grad_norm_(parameters, clip, norm_type)
        return optimizer.step(self, closure)

    return type(f"{optimizer.__name__}WithGradientClip", (optimizer,), {"step": step})


def _adam_settings(cls: type, cfg: CfgNode, params: Any) -> dict[str, Any]:
    return {
        "params": params,
        "lr": cfg.SOLVER.BASE_LR,
        "betas": tuple(cfg.SOLVER.BETAS),
        "eps": cfg.SOLVER.EPS,
        "weight_decay": cfg.SOLVER.WEIGHT_DECAY,
        "amsgrad": cfg.SOLVER.AMSGRAD,
    }


@SOLVER_REGISTRY.register()
class Adam(torch.optim.Adam):
    @configurable
    def __init__(self, *, params, **settings) -> None:
        super().__init__(params, **settings)

    from_config = classmethod(_adam_settings)


@SOLVER_REGISTRY.register()
class AdamW(torch.optim.AdamW):
    @configurable
    def __init__(self, *, params, **settings) -> None:
        super().__init__(params, **settings)

    from_config = classmethod(_adam_settings)


@SOLVER_REGISTRY.register()
class SGD(torch.optim.SGD):
    @configurable
    def __init__(self, *, params, **settings) -> None:
        super().__init__(params, **settings)

    @classmethod
    def from_config(cls, cfg: CfgNode, params: Any) -> dict[str, Any]:
        return {
            "params": params,
            "lr": cfg.SOLVER.BASE_LR,
            "momentum": cfg.SOLVER.MOMENTUM,
            "dampening": cfg.SOLVER.DAMPENING,
            "weight_decay": cfg.SOLVER.WEIGHT_DECAY,
            "nesterov": bool(cfg.SOLVER.NESTEROV),
        }


@LR_SCHEDULER_REGISTRY.register()
class StepLR(torch.optim.lr_scheduler.StepLR):
    """The rate times GAMMA every STEP_SIZE epochs; as every schedule, it steps once per iteration."""

    @configurable
    def __init__(self, *, optimizer, step_size, gamma=0.1) -> None:
        super().__init__(optimizer, step_size, gamma)

    @classmethod
    def from_config(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer, data_size: int) -> dict[str, Any]:
        """``data_size``: iterations of an epoch."""
        settings = cfg.LR_SCHEDULER
        return {"optimizer": optimizer, "step_size": settings.STEP_SIZE * data_size, "gamma": settings.GAMMA}


@LR_SCHEDULER_REGISTRY.register()
class FixLR(torch.optim.lr_scheduler.LambdaLR):
    """A constant rate."""

    @configurable
    def __init__(self, *, optimizer, last_epoch=-1) -> None:
        super().__init__(optimizer, lambda step: 1.0, last_epoch=last_epoch)

    @classmethod
    def from_config(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer, data_size: int) -> dict[str, Any]:
        return {"optimizer": optimizer}
