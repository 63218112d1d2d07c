"""Reading and writing files: the one reader of text, and writers whose files appear whole.

Every text that somebody else may have written (lists, JSON, XML, yaml, captions) is decoded by ``decode_text``, so
that a byte order mark, UTF-16 or the line ends of another system never become part of a word. Files are written under a
temporary name in the same folder, then renamed.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmodaler_ssattn.errors import UserError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    The temporary name keeps the suffix, because some writers (numpy's ``savez``) append one when it
    is missing. When the block raises, the temporary file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix or ".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    # mkstemp gives 0600; a finished file should be as readable as any other file of the user.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; rename it to ``path`` when the block succeeds.

    Raises:
        FileExistsError: ``path`` exists already; a folder is never replaced.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; a folder is never replaced.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o777 & ~umask)
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` as UTF-8 with plain newlines; the file appears whole."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = None) -> None:
    """Write ``value`` as JSON (UTF-8); the file appears whole. NaN is refused, since JSON has none."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, ensure_ascii=False, indent=indent, allow_nan=False)
        file.write("\n")


# UTF-32 before UTF-16, whose mark begins the same way.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode_text(data: bytes, what: str) -> str:
    """Bytes of a text file as a string whose lines end in ``\\n``.

    UTF-8 with or without a byte order mark, and UTF-16 or UTF-32 with one. ``\\r\\n`` and ``\\r`` become ``\\n``; no
    other character is changed.

    Args:
        data: the content of a file.
        what: the file and its role, the beginning of the error messages.

    Raises:
        UserError: the bytes are not text of such an encoding; the message names the line and the byte.

    >>> decode_text(b"\\xef\\xbb\\xbfdog\\r\\ncat", "words.txt")
    'dog\\ncat'
    """
    mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].decode(encoding, "ignore").count("\n")
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise UserError(
            f"{what} is not valid {name} text: line {line}, byte {len(mark) + error.start} is "
            f"0x{error.object[error.start]:02x} ({error.reason}). Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(
            f"{what} is not text: it contains a NUL character at position {text.index(chr(0))}. If it is UTF-16 "
            "without a byte order mark, save it as UTF-8."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: str | os.PathLike, what: str) -> str:
    """Read a text file with ``decode_text``; ``what`` names its role in the error messages.

    Raises:
        UserError: the file is missing, cannot be read, or is not text.
    """
    return decode_text(read_bytes(path, what), f"{what}: {path}")


def read_lines(path: str | os.PathLike, what: str) -> list[str]:
    """The lines of a text file, without their ends and without an empty last one; errors as ``read_text``.

    Only line feeds end a line: ``str.splitlines`` would also break at characters that occur inside captions.
    """
    lines = read_text(path, what).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_bytes(path: str | os.PathLike, what: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: the file is missing, is a folder, or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{what}: the file {path} does not exist.") from None
    except IsADirectoryError:
        raise UserError(f"{what}: {path} is a folder, expected a file.") from None
    except OSError as error:
        raise UserError(f"{what}: {path} cannot be read ({error.strerror or error}).") from error


def read_json(path: str | os.PathLike, what: str, *, unique_keys: bool = False) -> Any:
    """Read a JSON file; ``what`` names its role in the error messages.

    Args:
        unique_keys: refuse an object that names a key twice; JSON readers keep the last one without a word.

    Raises:
        UserError: the file cannot be read as text (``read_text``), is not one complete JSON value, or repeats a key.
    """

    text = read_text(path, what)
    try:
        return json.loads(text, object_pairs_hook=_unique if unique_keys else None)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{what}: {path} is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); "
            "is the file complete?"
        ) from error
    except (ValueError, RecursionError) as error:  # a repeated key, an integer of thousands of digits, as many brackets
        raise UserError(f"{what}: {path} cannot be read as JSON: {error}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ValueError(f"these names stand twice in one object: {', '.join(repeated[:10])}")
    return value


def sha256_of(path: str | os.PathLike) -> str:
    """The sha256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
