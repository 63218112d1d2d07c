"""FusedAdam: Adam in one pass over the parameters, registered with the host's optimisers.

Equals torch's Adam up to rounding, for any parameters (tests/fast/test_optim.py). X-modaler makes one parameter group
per tensor, so torch's Adam runs tensor by tensor and, on a CPU, needs about ten passes over memory for each. After
equal groups are merged, the fused kernel does the same step in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from xmodaler_ssattn.host import SOLVER_REGISTRY, configurable


def merge_groups(groups: Iterable[dict]) -> list[dict]:
    """Join torch's parameter groups that have equal settings (``lr``, ...), in order of first appearance."""
    merged: dict[tuple, dict] = {}
    for group in groups:
        settings = {name: value for name, value in group.items() if name != "params"}
        key = tuple(sorted(settings.items()))
        merged.setdefault(key, {**settings, "params": []})["params"].extend(group["params"])
    return list(merged.values())


@SOLVER_REGISTRY.register()
class FusedAdam(torch.optim.Adam):
    """torch's Adam with merged groups and the fused kernel; built by the host as ``(cfg, params)``."""

    @configurable
    def __init__(self, *, params: Any, lr: float, betas: Any, eps: float, weight_decay: float, amsgrad: bool = False):
        settings: dict[str, Any] = {"lr": lr, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(merge_groups(params), betas=tuple(betas), fused=True, **settings)

    @classmethod
    def from_config(cls, cfg: Any, params: Any) -> dict[str, Any]:
        settings = {key: cfg.SOLVER[key.upper()] for key in ("betas", "eps", "weight_decay", "amsgrad")}
        return {"params": params, "lr": cfg.SOLVER.BASE_LR, **settings}
