"""The registry of ``fast/``: ``modeling/`` looks up accelerators here and never imports ``fast/``.

Without an entry, or if an entry returns None for a batch, the captioner computes the same in the plain way. Each
accelerator states in its docstring the function that it equals, and checks itself that this is true.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xmodaler_ssattn.modeling.forcing import WordStates


@dataclass
class Accelerators:
    """The accelerators of ``fast/``.

    Attributes:
        forcing: called with MODEL.CAPTURE_GRAPHS for each new captioner; returns a function that equals
            ``forcing.word_states``, or returns None if it would not.
        linear_cross_entropy: (hidden (M, H), weight (V, H), bias (V,), targets (M,)) -> (), equal to
            ``cross_entropy(linear(hidden, weight, bias), targets)``.
    """

    forcing: Callable[[bool], Callable[[Any, dict, float], WordStates | None]] | None = None
    linear_cross_entropy: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None


ATTACHED = Accelerators()
