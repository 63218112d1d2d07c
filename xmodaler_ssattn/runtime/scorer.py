"""Scorers: the reward of a sampled caption. The runtime has none of its own."""

from __future__ import annotations

from typing import Any

from .config import CfgNode
from .registry import SCORER_REGISTRY


def build_scorer(cfg: CfgNode) -> Any:
    """The scorer that ``SCORER.NAME`` names; called with a decoded batch, it returns ``{kfg.REWARDS: ..., ...}``."""
    return SCORER_REGISTRY.get(cfg.SCORER.NAME)(cfg)
