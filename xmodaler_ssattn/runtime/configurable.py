"""``@configurable``: one constructor with named arguments, callable with a config as well."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from yacs.config import CfgNode as _AnyCfgNode


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor or a function take a config instead of its own arguments.

    On a class, decorate ``__init__``; the class then needs the class method ``from_config(cfg, ...)``, which returns
    the keyword arguments of ``__init__``::

        Loss(weight=2.0)        # arguments
        Loss(cfg)               # Loss(**Loss.from_config(cfg))
        Loss(cfg, weight=2.0)   # from the config, one argument replaced

    On a function, pass the translation: ``@configurable(from_config=lambda cfg: {...})``.

    Further arguments are passed to ``from_config`` if its signature has them, else to the constructor.
    """
    if init_func is None and from_config is None:
        return configurable  # "@configurable()" means "@configurable"

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            own, rest = (args[:1], args[1:]) if from_config is None else ((), args)  # own: ``self``
            if not isinstance(rest[0] if rest else kwargs.get("cfg"), _AnyCfgNode):
                return function(*args, **kwargs)
            translate = from_config or getattr(type(own[0]), "from_config", None)
            if translate is None:
                raise AttributeError(f"{type(own[0]).__name__} was called with a config but has no from_config.")
            return function(*own, **_translate(translate, rest, kwargs))

        return wrapped

    return decorate if init_func is None else decorate(init_func)


def _translate(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Call ``from_config`` with the arguments that it takes; the others replace or extend its result."""
    parameters = inspect.signature(from_config).parameters
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):  # it takes anything
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    extra = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **known), **extra}
