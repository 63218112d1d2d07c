"""The name -> class tables through which a config file chooses its parts."""

from __future__ import annotations

from typing import Any

from fvcore.common.registry import Registry as _Registry

from xmodaler_ssattn.errors import did_you_mean


class Registry(_Registry):
    """fvcore's registry; the error for an unknown name has the nearest and all known names."""

    def get(self, name: str) -> Any:
        """The class registered under ``name``; KeyError if there is none."""
        if name in self:
            return super().get(name)
        known = sorted(key for key, _ in self)
        raise KeyError(
            f"nothing is registered as {name!r} in the {self._name} registry{did_you_mean(str(name), known) or '.'} "
            f"Known names: {', '.join(known) or 'none'}. A class of your own is known once its module is imported."
        )

    def build(self, name: str, *args: Any) -> Any | None:
        """An object of the class registered under ``name``, made with ``args``; None for an empty name."""
        return self.get(name)(*args) if name else None


META_ARCH_REGISTRY = Registry("META_ARCH")
EMBEDDING_REGISTRY = Registry("EMBEDDING")
ENCODER_REGISTRY = Registry("ENCODER")
DECODER_REGISTRY = Registry("DECODER")
PREDICTOR_REGISTRY = Registry("PREDICTOR")
DECODE_STRATEGY_REGISTRY = Registry("DECODE_STRATEGY")
LOSSES_REGISTRY = Registry("LOSSES")
SOLVER_REGISTRY = Registry("SOLVER")
LR_SCHEDULER_REGISTRY = Registry("LR_SCHEDULER")
DATASETS_REGISTRY = Registry("DATASETS")
EVALUATION_REGISTRY = Registry("EVALUATION")
ENGINE_REGISTRY = Registry("ENGINE")
SCORER_REGISTRY = Registry("SCORER")


def build_evaluation(cfg: Any, annfile: str, output_dir: str | None) -> Any | None:
    """The evaluator that ``INFERENCE.NAME`` names, or None for an empty name; the runtime has none of its own."""
    return EVALUATION_REGISTRY.build(cfg.INFERENCE.NAME, cfg, annfile, output_dir)


def build_scorer(cfg: Any) -> Any:
    """The scorer of sampled captions that ``SCORER.NAME`` names; the runtime has none of its own.

    Called with a decoded batch, it returns ``{kfg.REWARDS: ..., ...}``.
    """
    return SCORER_REGISTRY.get(cfg.SCORER.NAME)(cfg)


def build_engine(cfg: Any) -> Any:
    """The trainer that ``ENGINE.NAME`` names."""
    return ENGINE_REGISTRY.get(cfg.ENGINE.NAME)(cfg)


def build_lr_scheduler(cfg: Any, optimizer: Any, data_size: int) -> Any:
    """The schedule that ``LR_SCHEDULER.NAME`` names; ``data_size`` is the number of iterations in an epoch."""
    return LR_SCHEDULER_REGISTRY.get(cfg.LR_SCHEDULER.NAME)(cfg, optimizer, data_size)
