"""The evaluator that a config names; the runtime has none of its own."""

from __future__ import annotations

from typing import Any

from .config import CfgNode
from .registry import EVALUATION_REGISTRY


def build_evaluation(cfg: CfgNode, annfile: str, output_dir: str | None) -> Any | None:
    """The evaluator that ``INFERENCE.NAME`` names, or None for an empty name."""
    if not cfg.INFERENCE.NAME:
        return None
    return EVALUATION_REGISTRY.get(cfg.INFERENCE.NAME)(cfg, annfile, output_dir)
