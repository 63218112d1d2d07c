"""Classes that are found by being in a folder: each file of a format has its class, and no other file names it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from typing import Any


def formats_in(package: str, path: Iterable[str], kind: type) -> dict[str, Any]:
    """Name -> class, for all classes derived from ``kind`` in the modules of a package, in alphabetical order.

    Args:
        package: its full name, ``__name__``.
        path: its ``__path__``.
        kind: its subclasses have a ``name``, the name on the command line.
    """
    found = {}
    for info in pkgutil.iter_modules(path):
        for value in vars(importlib.import_module(f"{package}.{info.name}")).values():
            if inspect.isclass(value) and issubclass(value, kind) and not inspect.isabstract(value):
                found[value.name] = value
    return dict(sorted(found.items()))
