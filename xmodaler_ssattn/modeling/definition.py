"""Check that an object still computes what its class defines, before a faster version is used. Only torch.

A faster version reimplements some methods. For a subclass that overrides one of them, or with a hook on the module, its
result would differ from the plain version, and training and decoding would use different models.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Methods that build and print an object, which do not change its results.
_NOT_COMPUTING = {"__init__", "reset_parameters", "extra_repr", "__repr__"}


def follows(module: Any, definition: type[nn.Module], *methods: str) -> bool:
    """Whether ``methods`` of ``module`` are those of the class ``definition``, and no hook changes its calls.

    Args:
        methods: names; without any, all methods that ``definition`` and its bases below ``nn.Module`` define.

    >>> follows(nn.Linear(2, 2), nn.Linear), follows(nn.Bilinear(2, 2, 2), nn.Linear)
    (True, False)
    """
    names = {"__call__", *(methods or _methods_of(definition))}
    same = all(
        getattr(type(module), name, None) is getattr(definition, name) and name not in vars(module) for name in names
    )
    return same and not any(getattr(module, hooks) for hooks in _HOOKS)


def _methods_of(definition: type[nn.Module]) -> set[str]:
    below = definition.__mro__[: definition.__mro__.index(nn.Module)]
    found = {name for base in below for name, value in vars(base).items() if isinstance(value, FunctionType)}
    return found - _NOT_COMPUTING
