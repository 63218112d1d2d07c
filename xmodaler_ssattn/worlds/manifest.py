"""The manifest of a generated data set: its parameters, by which an existing folder is used again or refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from xmodaler_ssattn.files import read_json


def read_manifest(path: str | os.PathLike) -> dict[str, Any]:
    """The entries; empty when the file has other content. Raises a ``UserError`` if it is not JSON."""
    manifest = read_json(path, "The manifest")
    return manifest if isinstance(manifest, dict) else {}


def differences(found: Any, wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A phrase for each entry of `wanted` whose value in `found`, usually a dict, differs.

    >>> list(differences({"seed": 1, "sizes": {"K": 36}}, {"seed": 2, "sizes": {"K": 10}}))
    ['seed was 1, now 2', 'sizes.K was 36, now 10']
    """
    for name, value in wanted.items():
        there = found.get(name) if isinstance(found, dict) else None
        if isinstance(value, dict) and isinstance(there, dict):
            yield from differences(there, value, f"{prefix}{name}.")
        elif there != value:
            short = isinstance(value, (str, int, float)) or len(str(value)) < 60
            yield f"{prefix}{name} was {there}, now {value}" if short else f"other {prefix}{name}"
