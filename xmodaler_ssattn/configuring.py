"""Make a config from yaml files and KEY VALUE pairs, for both hosts, the command line and plans.

A config is read as ``{"SOLVER.EPOCH": Setting(value, where)}``. Such dictionaries are combined with ``|``;
``merge`` puts the result into a config node of either host, with all problems in one message.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from xmodaler_ssattn.errors import UserError, did_you_mean, raise_all
from xmodaler_ssattn.files import read_text
from xmodaler_ssattn.shipped import find

BASE_KEY = "_BASE_"
COMMAND_LINE = "the command line"
MOST_YAML_VALUES = 100_000
"""Values of a yaml file after its aliases are replaced; a plan of a study has about a thousand."""
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")  # SOLVER.EPOCH; no value looks like this
_TYPES = {bool: "True or False", int: "an integer", float: "a number", str: "a text", list: "a list", tuple: "a list"}


def read_yaml(path: str | os.PathLike, what: str) -> Any:
    """Read a yaml file as plain data; ``what`` names its role in the error messages.

    Raises:
        UserError: the file cannot be read as text, is not yaml, has a tag that makes Python objects, or ``_check_yaml``
            refuses it.
    """
    import yaml

    text = read_text(path, what)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_yaml(node, {})
        return loader.construct_document(node)
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        problem = (error.problem or str(error)).replace("tag:yaml.org,2002:", "!!")
        tags = " Tags that make Python objects are refused, because loading them could run code."
        reason = tags if "!!" in problem else ""
        raise UserError(f"{path}, line {line}: {problem}. It is not valid yaml of plain values.{reason}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid yaml: {error}") from None
    except (ValueError, RecursionError) as error:  # an impossible date, or thousands of brackets
        raise UserError(f"{path} is not valid yaml: {error}") from None


def _check_yaml(node: Any, sizes: dict[int, int | None]) -> int:
    """The number of values below a yaml node, each alias replaced by what it stands for.

    Raises:
        yaml.constructor.ConstructorError: there are more than ``MOST_YAML_VALUES``, a value contains itself, or a key
            is duplicated.
    """
    import yaml

    def refuse(problem: str, node: Any) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    if id(node) not in sizes:
        sizes[id(node)] = None  # while it is counted
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key in (key for key, _ in children if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    refuse(f"the key {key.value!r} is duplicated", key)
                seen.add(key.value)
            children = [part for pair in children for part in pair]
        sizes[id(node)] = 1 + sum(_check_yaml(child, sizes) for child in children)
    size = sizes[id(node)]
    if size is None:
        refuse("a value contains itself", node)
    if size > MOST_YAML_VALUES:
        refuse(f"its aliases make more than {MOST_YAML_VALUES:,} values", node)
    return size


class Setting(NamedTuple):
    """A value, and where it was set, for error messages: a file or the command line."""

    value: Any
    where: str


def read_config(path: str | os.PathLike) -> dict[str, Setting]:
    """Read a yaml file and the files that it names under ``_BASE_`` (one or a list).

    A base is relative to the file, and both may be names of shipped configs; see ``shipped.py``. A file's own values
    win over those of its bases, and a later base wins over an earlier one.

    Raises:
        UserError: a file is missing, is not yaml of plain values, repeats a key, is not a mapping, or is its own base.
    """
    return _read(find(path, "The config"), ())


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Setting]:
    values = read_yaml(path, f"The {BASE_KEY} of {parents[-1]}" if parents else "The config")
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of config keys, got a {type(values).__name__}.")
    bases = values.pop(BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE_KEY}: expected a file name or a list of file names, got {bases!r}.")
    settings: dict[str, Setting] = {}
    for base in bases:
        try:
            below = find(base, f"The {BASE_KEY} of {path}", path.parent)
            below.resolve()
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name that is too long, an unknown ~user
            raise UserError(f"{path}: {BASE_KEY} {base[:100]!r} is not the name of a file ({error}).") from error
        if below.resolve() in (*parents, path.resolve()):
            raise UserError(f"{path}: {BASE_KEY} {base!r} is circular: it leads back to a file that is being read.")
        settings |= _read(below, (*parents, path.resolve()))
    own = flatten(values)
    odd = [key for key, value in own.items() if value is not None and type(value) not in _TYPES]
    raise_all([f"{key}: a {type(own[key]).__name__} is not a config value." for key in odd], str(path))
    return settings | {key: Setting(value, str(path)) for key, value in own.items()}


def flatten(node: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested groups as a flat dict by dotted key.

    >>> flatten({"SOLVER": {"EPOCH": 3}, "SEED": 1})
    {'SOLVER.EPOCH': 3, 'SEED': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def values_of(cfg: Any) -> dict[str, Any]:
    """A config of either host by dotted key, as after a JSON round trip: tuples become lists."""

    def plain(value: Any) -> Any:
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return {key: plain(value) for key, value in flatten(cfg).items()}


def nested(flat: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The inverse of ``flatten``; a ``UserError`` about ``where`` if a key is both a value and a group."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = key.split(".")
        node = tree
        for group in groups:
            inner = node.setdefault(group, {})
            if not isinstance(inner, dict):
                raise UserError(f"{where}: {group}: expected a group of keys, as {key} is one of them, got {inner!r}.")
            node = inner
        if isinstance(node.get(leaf), dict):
            raise UserError(f"{where}: {key}: expected a group of keys, got {value!r}.")
        node[leaf] = value
    return tree


def pairs_of(words: Sequence[Any]) -> dict[str, Setting]:
    """The settings of a command line [KEY, VALUE, KEY, VALUE, ...]. A value may begin with one dash, such as -1.

    Raises:
        UserError: lists all unknown options and keys without a value.

    >>> pairs_of(["SEED", "3"])
    {'SEED': Setting(value='3', where='the command line')}
    """
    pairs, problems = {}, []
    words = [str(word) for word in words]
    position = 0
    while position < len(words):
        key, value = words[position], words[position + 1] if position + 1 < len(words) else None
        position += 1
        if key.startswith("-"):
            problems.append(f"there is no option {key}; --help lists the options")
        elif "=" in key:
            problems.append(f"{key}: write the key and the value as two words, {' '.join(key.split('=', 1))}")
        elif value is None or value.startswith("--") or _KEY.fullmatch(value):
            problems.append(f"{key} has no value")
        else:
            pairs[key] = Setting(value, COMMAND_LINE)
            position += 1
    raise_all(problems, f"Config options come as KEY VALUE pairs; got {len(words)} words: {' '.join(words)}")
    return pairs


def merge(cfg: Any, settings: Mapping[str, Setting], *, none_allowed: bool = False) -> None:
    """Set every key of a config node (of either host) to its value, converted to the type of the default.

    With ``none_allowed``, None may replace any value, as in X-modaler's own merging.

    Raises:
        UserError: lists all unknown keys and wrong types; then nothing is changed.
    """
    known = flatten(cfg)
    converted: dict[str, Any] = {}
    problems = []
    for key, (value, where) in settings.items():
        try:
            converted[key] = _convert(value, known[key], none_allowed)
            if key == "VERSION" and value != known[key]:
                problems.append(f"{where}: VERSION: expected {known[key]}, got {value}.")
        except KeyError:
            problems.append(f"{where}: {_unknown(key, value, known)}")
        except TypeError as error:
            problems.append(f"{where}: {key}: {error}")
    raise_all(problems, "The config cannot be used")
    for key, value in converted.items():
        *groups, leaf = key.split(".")
        node = cfg
        for group in groups:
            node = node[group]
        node[leaf] = value


def _unknown(key: str, value: Any, known: Mapping[str, Any]) -> str:
    if any(other.startswith(f"{key}.") for other in known):
        return f"{key}: expected a group of keys, got {value!r}."
    namesakes = [other for other in known if other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = did_you_mean(key.upper(), known) or (f"; did you mean {namesakes[0]}?" if namesakes else "")
    rest = ". Keys of an encoder, decoder or architecture exist only when the config names it."
    return f"unknown config key {key}{near or rest}"


def _convert(value: Any, default: Any, none_allowed: bool) -> Any:
    """``value`` in the type of ``default``: a text may be a Python literal, an integer may be used as a float."""
    if isinstance(value, str):
        literal = _literal(value)
        if not isinstance(default, str) or isinstance(literal, str):
            value = literal
    if default is None or type(value) is type(default) or (none_allowed and value is None):
        return value
    if isinstance(default, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(default)(value)
    if isinstance(default, float) and type(value) in (int, str):
        try:
            return float(value)  # also of inf and 05
        except ValueError:
            pass
    if isinstance(default, str) and type(value) in (int, float):
        return str(value)
    expected = _TYPES.get(type(default), type(default).__name__)
    example = "" if isinstance(default, bool) else f" such as {default!r}"
    raise TypeError(f"expected {expected}{example}, got {value!r}.")


def _literal(text: str) -> Any:
    """A Python literal, such as 1e-8, which yaml 1.1 reads as text; any other text unchanged."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
