"""The registry of ``fast/``: ``modeling/`` looks up accelerators here and never imports ``fast/``.

Without an entry, or if an entry returns None for a batch, the captioner computes the same in the plain way. Each
accelerator states in its docstring the function that it equals, and checks itself that this is true.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from xmodaler_ssattn.modeling.forcing import WordStates


class Forcing(Protocol):
    """Teacher forcing that equals ``forcing.word_states``, or None if it would not. One object per captioner."""

    def __call__(self, model: Any, batch: dict, ss_prob: float) -> WordStates | None: ...


@dataclass
class Accelerators:
    """The accelerators of ``fast/``.

    Attributes:
        forcing: makes the ``Forcing`` of a new captioner; the argument is MODEL.CAPTURE_GRAPHS.
        linear_cross_entropy: (hidden (M, H), weight (V, H), bias (V,), targets (M,)) -> (), equal to
            ``cross_entropy(linear(hidden, weight, bias), targets)``.
        given: equals ``given.word_by_word``, or None if it would not.
    """

    forcing: Callable[[bool], Forcing] | None = None
    linear_cross_entropy: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    given: Callable[[Any, WordStates, Tensor, Tensor], Tensor | None] | None = None


ATTACHED = Accelerators()
