"""Reading a yaml config with its ``_BASE_`` files: plain data only, and every key remembers its file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .. import files
from ..errors import UserError

BASE_KEY = "_BASE_"


class ConfigError(UserError):
    """A mistake in a config file or in a ``KEY VALUE`` pair; the message says how to mend it."""


def read_yaml(filename: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a yaml file and the files that it names under ``_BASE_`` (one, or a list; relative to the file).

    Returns:
        values: nested dict; the file's own values win over its bases, a later base over an earlier one.
        sources: dotted key -> the file that set it, for error messages.

    Raises:
        ConfigError: a file is missing, is no yaml, asks for a Python object (``!!python/...``), repeats a
            key, holds no mapping, or is its own base.
    """
    return _read(Path(filename), ())


def _read(path: Path, parents: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    values = _load(path, parents)
    bases = values.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: {BASE_KEY} must be a file name or a list of file names, received {bases!r}.")
    chain = (*parents, path.resolve())
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for base in bases:
        # An absolute base stays as it is: joining pathlib paths keeps the last absolute one.
        base_path = path.parent / Path(base).expanduser()
        if base_path.resolve() in chain:
            raise ConfigError(f"{path}: {BASE_KEY} {base!r} leads back to a file that is being read already.")
        _merge(merged, sources, *_read(base_path, chain), path=())
    own_sources = {".".join(key): str(path) for key in _leaves(values, ())}
    _merge(merged, sources, values, own_sources, path=())
    return merged, sources


def _load(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    asked_by = f" (the {BASE_KEY} of {parents[-1]})" if parents else ""
    if not path.is_file():
        reason = "is a folder, expected a yaml file" if path.is_dir() else "does not exist"
        raise ConfigError(f"The config file {path}{asked_by} {reason}.")
    try:
        values = files.read_yaml(path, f"The config file{asked_by}")
    except UserError as error:
        raise ConfigError(str(error)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of config keys, received a {type(values).__name__}.")
    return values


def _leaves(values: dict, prefix: tuple[str, ...]):
    """Dotted paths of every value, the inner nodes included."""
    for key, value in values.items():
        yield (*prefix, str(key))
        if isinstance(value, dict):
            yield from _leaves(value, (*prefix, str(key)))


def _merge(into: dict, sources: dict, values: dict, value_sources: dict, path: tuple[str, ...]) -> None:
    """Lay ``values`` over ``into``, key by key, and keep track of the file of each."""
    for key, value in values.items():
        name = ".".join((*path, str(key)))
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ConfigError(
                    f"{value_sources[name]}: {name} is a group of keys here but a value in {sources[name]}."
                )
            _merge(into[key], sources, value, value_sources, (*path, str(key)))
        else:
            into[key] = value
            sources.update({k: v for k, v in value_sources.items() if k == name or k.startswith(name + ".")})
