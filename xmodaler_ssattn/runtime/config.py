"""``CfgNode``: the config tree, with safe yaml and errors that name the key, the file and the nearest known key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from fvcore.common.config import BASE_KEY
from fvcore.common.config import CfgNode as _CfgNode

from .yaml_file import ConfigError, read_yaml

__all__ = ["CfgNode", "ConfigError", "get_cfg"]


class CfgNode(_CfgNode):
    """fvcore's config node. Merging is all or nothing: every problem is listed, and then nothing is changed."""

    @classmethod
    def load_yaml_with_base(cls, filename: str | os.PathLike, allow_unsafe: bool = False) -> dict[str, Any]:
        """The nested dict of a yaml file and its ``_BASE_`` files; see ``read_yaml``."""
        _refuse_unsafe(allow_unsafe)
        return read_yaml(filename)[0]

    def load_from_file_tmp(self, cfg_filename: str | os.PathLike, allow_unsafe: bool = False) -> CfgNode:
        """The raw content of a yaml file, for ``add_config``: no defaults, nothing checked against them."""
        _refuse_unsafe(allow_unsafe)
        values, _ = read_yaml(cfg_filename)
        try:
            return type(self)(values)
        except AssertionError as error:  # yacs: a value is of no config type, such as a date
            raise ConfigError(f"{cfg_filename}: {error}") from None

    def merge_from_file(self, cfg_filename: str | os.PathLike, allow_unsafe: bool = False) -> None:
        """Lay a yaml file and its bases over this config.

        Raises:
            ConfigError: a key is unknown or a value has the wrong type (all such keys in one message), or
                the file cannot be read.
        """
        _refuse_unsafe(allow_unsafe)
        values, sources = read_yaml(cfg_filename)
        version = values.get("VERSION", self.get("VERSION"))
        if version != self.get("VERSION"):
            raise ConfigError(f"{cfg_filename}: expected VERSION {self.get('VERSION')!r}, received {version!r}.")
        self._merge(values, sources)

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Lay another config over this one; raises as ``merge_from_file``."""
        if BASE_KEY in cfg_other:
            raise ConfigError(f"{BASE_KEY} has a meaning in files only.")
        self._merge(cfg_other, {})

    def merge_from_list(self, cfg_list: list) -> None:
        """Set ``[KEY, value, KEY, value, ...]``, as typed on a command line; raises as ``merge_from_file``."""
        if len(cfg_list) % 2:
            words = " ".join(map(str, cfg_list))
            raise ConfigError(f"Expected pairs of KEY VALUE, received {len(cfg_list)} words: {words}.")
        changes, problems = [], []
        for full_key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            *groups, leaf = str(full_key).split(".")
            node: Any = self
            for group in groups:
                node = node.get(group) if isinstance(node, CfgNode) else None
            if not isinstance(node, CfgNode) or leaf not in node:
                problems.append(self._unknown(str(full_key), "the command line"))
                continue
            try:
                changes.append((node, leaf, _convert(value, node[leaf], str(full_key), "the command line")))
            except ConfigError as error:
                problems.append(str(error))
        _apply(changes, problems)

    def _merge(self, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        changes, problems = [], []
        for node, key, full_key, value in self._walk(self, values, ()):
            where = sources.get(full_key, "the other config")
            if key not in node and not node.is_new_allowed():
                problems.append(self._unknown(full_key, where))
                continue
            try:
                changes.append((node, key, _convert(value, node.get(key), full_key, where)))
            except ConfigError as error:
                problems.append(str(error))
        _apply(changes, problems)

    @classmethod
    def _walk(cls, node: CfgNode, values: Mapping, path: tuple[str, ...]) -> Iterator[tuple[CfgNode, str, str, Any]]:
        """Pairs of this config's node and the value for one of its keys; groups are entered where both have them."""
        for key, value in values.items():
            full = (*path, str(key))
            if isinstance(value, Mapping) and isinstance(node.get(key), CfgNode):
                yield from cls._walk(node[key], value, full)
            else:
                yield node, key, ".".join(full), value

    def _unknown(self, full_key: str, where: str) -> str:
        known = [".".join(key) for key in _paths(self, ())]
        close = difflib.get_close_matches(full_key, known, n=1, cutoff=0.6)
        hint = f" (did you mean {close[0]}?)" if close else ""
        return (
            f"{full_key} (in {where}) is no known config key{hint}. "
            "Keys of an encoder, decoder or architecture exist only when the config file names it."
        )


def _paths(node: CfgNode, prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, value in node.items():
        yield (*prefix, key)
        if isinstance(value, CfgNode):
            yield from _paths(value, (*prefix, key))


def _apply(changes: list[tuple[CfgNode, str, Any]], problems: list[str]) -> None:
    if problems:
        heading = ["The config has these problems:"] if len(problems) > 1 else []
        raise ConfigError("\n".join(heading + problems))
    for node, key, value in changes:
        node[key] = value


def _convert(value: Any, default: Any, full_key: str, where: str) -> Any:
    """``value`` as the type of ``default``.

    Text is read as a Python literal where that gives the right type (yaml 1.1 takes ``1e-8`` for text). List and
    tuple are exchanged, an integer may stand for a float, and ``None`` for anything.
    """
    decoded = CfgNode._decode_cfg_value(value)
    if isinstance(value, str) and isinstance(default, str) and not isinstance(decoded, str):
        return value  # a file called "2017" stays text
    if decoded is None or default is None or type(decoded) is type(default):
        return decoded
    if isinstance(decoded, tuple) and isinstance(default, list):
        return list(decoded)
    if isinstance(decoded, list) and isinstance(default, tuple):
        return tuple(decoded)
    if type(decoded) is int and type(default) is float:
        return float(decoded)
    expected = "a group of keys" if isinstance(default, CfgNode) else f"{type(default).__name__} like {default!r}"
    raise ConfigError(f"{full_key} (in {where}): expected {expected}, received {decoded!r} ({type(decoded).__name__}).")


def _refuse_unsafe(allow_unsafe: bool) -> None:
    if allow_unsafe:
        raise ConfigError("allow_unsafe=True is refused: a config file holds plain values only.")


def get_cfg() -> CfgNode:
    """A fresh copy of the default config."""
    from .defaults import DEFAULTS  # defaults.py needs CfgNode

    return DEFAULTS.clone()
