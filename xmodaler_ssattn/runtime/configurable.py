"""``@configurable``: one constructor with named arguments, callable with a config as well."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from yacs.config import CfgNode as _AnyCfgNode


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a constructor or a function take a config in place of its own arguments.

    On a class, decorate ``__init__``; the class then needs ``from_config(cls, cfg, ...)``, which returns the
    keyword arguments of ``__init__``::

        class Loss:
            @configurable
            def __init__(self, *, weight): ...

            @classmethod
            def from_config(cls, cfg):
                return {"weight": cfg.LOSSES.WEIGHT}

        Loss(weight=2.0)        # arguments
        Loss(cfg)               # from the config
        Loss(cfg, weight=2.0)   # from the config, one argument replaced

    On a function, pass the translation: ``@configurable(from_config=lambda cfg: {...})``.

    Arguments beside the config go to ``from_config`` where its signature has them, else to the constructor.

    Raises:
        TypeError, AttributeError: the class has no ``from_config`` classmethod, or its first parameter is not
            called ``cfg``; both at the first call with a config.
    """
    if init_func is not None:
        if from_config is not None or not inspect.isfunction(init_func) or init_func.__name__ != "__init__":
            raise TypeError("Use @configurable on __init__, or @configurable(from_config=...) on a function.")
        return _wrap_init(init_func)
    if from_config is None:
        return configurable  # "@configurable()" means "@configurable"
    if not inspect.isfunction(from_config):
        raise TypeError("from_config must be a function that takes cfg and returns keyword arguments.")

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            if _has_config(args, kwargs):
                return function(**_translate(from_config, args, kwargs))
            return function(*args, **kwargs)

        return wrapped

    return decorate


def _wrap_init(init_func: Callable) -> Callable:
    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        if not _has_config(args, kwargs):
            init_func(self, *args, **kwargs)
            return
        translate = getattr(type(self), "from_config", None)
        if translate is None:
            raise AttributeError(f"{type(self).__name__} was called with a config but has no from_config classmethod.")
        if not inspect.ismethod(translate):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod.")
        init_func(self, **_translate(translate, args, kwargs))

    return wrapped


def _has_config(args: tuple, kwargs: dict[str, Any]) -> bool:
    first = args[0] if args else kwargs.get("cfg")
    return isinstance(first, _AnyCfgNode)


def _translate(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Call ``from_config`` with what it takes; the rest replaces or extends what it returns."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"The first parameter of {from_config.__qualname__} must be called 'cfg'.")
    takes_anything = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    if takes_anything:
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    extra = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **known), **extra}
