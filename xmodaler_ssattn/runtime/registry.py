"""The name -> class tables through which a config file chooses its parts."""

from __future__ import annotations

import difflib
from typing import Any

from fvcore.common.registry import Registry as _Registry


class Registry(_Registry):
    """fvcore's registry; an unknown name is answered with the nearest and with all known names."""

    def get(self, name: str) -> Any:
        """Return the class registered under ``name``.

        Raises:
            KeyError: nothing is registered under that name.
        """
        if name in self:
            return super().get(name)
        known = sorted(key for key, _ in self)
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise KeyError(
            f"Nothing is registered under the name {name!r} in the {self._name} registry.{hint} "
            f"Known names: {', '.join(known) or 'none'}. A class of your own is known once its module is imported."
        )


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
