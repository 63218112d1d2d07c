"""JSON files with one long list, of which one item is in memory at a time.

``{header..., "KEY": [`` on the first line, then one item per line, then ``]}``. Any other layout or encoding of the
same JSON is read whole.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, decode_text, parse_json, parse_quickly, read_json
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.schema import typed


class JsonListWriter:
    """Write one item per line."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._separator = file, "\n"

    def add(self, item: Any) -> None:
        self._file.write(self._separator + json.dumps(item, ensure_ascii=False, allow_nan=False))
        self._separator = ",\n"


@contextlib.contextmanager
def json_list(path: str | os.PathLike, header: Mapping[str, Any], key: str) -> Iterator[JsonListWriter]:
    """Write ``{header..., "KEY": [item, item, ...]}`` without keeping the items in memory; see ``atomic_path``."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        text = json.dumps(header, ensure_ascii=False)
        file.write(f"{text[:-1]}{', ' if header else ''}{json.dumps(key)}: [")
        yield JsonListWriter(file)
        file.write("\n]}\n")


def open_json_list(
    path: str | os.PathLike, key: str, kind: Any, wanted: Mapping[str, Any], *, what: str, hint: str
) -> tuple[dict[str, Any], Iterator[Any]]:
    """The header, and an iterator of the items of type ``kind``, which have an image_id.

    Args:
        wanted: values that the header must have.
        what: the file's role, as in "The annotation file".
        hint: a sentence about how to make the file, the end of every message.

    Raises:
        UserError: the file is missing or cut short, or its header differs; the iterator raises it for an item that is
            not valid JSON or not of that type, naming the file, the image and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The {what} {path} does not exist. {hint}")
    with open(path, "rb") as file:
        first = file.readline().rstrip()
    items: Iterable[tuple[Any, Any]]
    if first.endswith(f"{json.dumps(key)}: [".encode()) and not first.startswith(codecs.BOM_UTF8):
        header = _parse(first + b"]}", path, 1, hint)
        items = _lines(path, kind, hint)
    else:
        try:
            header = read_json(path, f"The {what}")
        except UserError as error:
            raise UserError(f"{error} {hint}") from error
        if not isinstance(header, dict) or not isinstance(header.get(key), list):
            article = "an" if what[0] in "aeiou" else "a"
            raise UserError(f"{path} is not {article} {what}: it has no list {key!r}. {hint}")
        items = ((None, item) for item in header[key])
    header.pop(key, None)
    for name, value in wanted.items():
        if header.get(name) != value:
            raise UserError(f"{path}: its {name} is {header.get(name)!r}, expected {value!r}. {hint}")
    return header, _typed(items, kind, path, hint)


def _lines(path: Path, kind: Any, hint: str) -> Iterator[tuple[Any, Any]]:
    """The items of a file in our layout: with their type, or as None and the plain value."""
    with open(path, "rb") as file:
        file.readline()
        line = b""
        for number, line in enumerate(file, 2):
            if line.startswith(b"]}"):
                if line.strip() != b"]}" or file.read(1 << 20).strip():
                    raise UserError(f"{path}, line {number}: bytes follow the end; is it made of two files? {hint}")
                return
            item = line.rstrip().removesuffix(b",")
            value = parse_quickly(item, kind)
            yield value, _parse(item, path, number, hint) if value is None else None
    raise UserError(f"{path} is cut short: it does not end with ']}}' (last line: {line[:40]!r}). {hint}")


def _parse(line: bytes, path: Path, number: int, hint: str) -> Any:
    try:
        return parse_json(decode_text(line, "it"))
    except UserError as error:
        raise UserError(f"{path}, line {number}: {error} {hint}") from error


def _typed(items: Iterable[tuple[Any, Any]], kind: Any, path: Path, hint: str) -> Iterator[Any]:
    for number, (value, plain) in enumerate(progress(items, desc=f"Reading {path}")):
        try:
            yield typed(plain, kind) if value is None else value
        except UserError as error:
            which = plain.get("image_id") if isinstance(plain, dict) else None
            raise UserError(f"{path}: image number {number} (image_id {which!r}): {error}. {hint}") from error
