"""Reading and writing files: the one reader of text, and atomic writers.

Every text of a user (lists, JSON, XML, yaml, captions) is decoded by ``decode_text``, so that a byte order mark or the
line ends of another system never become part of a word; ``tests/test_files.py`` checks that there is no other reader.
Files are written under a temporary name in the same folder, then renamed.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import gc
import gzip
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.progress import doing


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn the libraries' exceptions for a full disk into an OSError with ``errno`` and the name of the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) is None and "No space left on device" in str(error):  # of HDF5
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path)) from error
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def mount_of(path: str | os.PathLike) -> Path:
    """The folder at which the path's file system is mounted."""
    place = Path(path).absolute()
    while not os.path.ismount(place) and place != place.parent:
        place = place.parent
    return place


def target_of(path: str | os.PathLike) -> Path:
    """The file that is written when ``path`` is: the end of a symbolic link; a ``UserError`` for a folder."""
    if os.path.isdir(path):
        raise UserError(f"{os.fspath(path)} is a folder, expected the name of a file.")
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


def is_special(path: str | os.PathLike) -> bool:
    """Whether ``path`` is a device, a pipe or a socket, such as /dev/stdout, which no file may replace."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it to ``path`` when the block succeeds, else remove it.

    It has the same suffix, since some writers (numpy's ``savez``) append a missing one. A device or pipe receives the
    content when the block succeeds.

    Raises:
        UserError: ``path`` is a folder.
    """
    if not os.path.isdir(path) and is_special(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, Path(path).name)
            temporary.touch()
            yield temporary
            with disk_errors(path), open(temporary, "rb") as content, open(path, "wb") as special:
                shutil.copyfileobj(content, special)
        return
    path = target_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path):
        # Short, since the system limits the length of names.
        temporary = path.with_name(f".{path.stem[:20]}.{secrets.token_hex(4)}{path.suffix or '.tmp'}")
        open(temporary, "xb").close()
    try:
        with disk_errors(path):
            yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(path: str | os.PathLike) -> None:
    """Let the name of a new file survive a power failure, where the file system can."""
    handle = os.open(Path(path).parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``; rename it to ``path`` when the block succeeds.

    Raises:
        FileExistsError: ``path`` exists already; a folder is never replaced.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; a folder is never replaced.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` atomically as UTF-8 with plain newlines."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = None) -> None:
    """Write ``value`` atomically as JSON (UTF-8). NaN is refused, since JSON does not have it."""
    with (
        doing(f"Writing {path}"),
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as file,
    ):
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
    """The bytes of a text file as a string whose lines end in ``\\n``.

    UTF-8 with or without a byte order mark, and UTF-16 or UTF-32 with one. ``\\r\\n`` and ``\\r`` become ``\\n``; byte
    order marks are removed, also inside the text, where concatenated files have them; nothing else is changed.

    Args:
        what: the file and its role, the beginning of the error message.

    Raises:
        UserError: the bytes are not text of such an encoding; the message names the line and the byte.

    >>> decode_text(b"\\xef\\xbb\\xbfdog\\r\\ncat", "words.txt")
    'dog\\ncat'
    """
    mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(encoding, "ignore").replace("\r\n", "\n").replace("\r", "\n")
        line = 1 + before.count("\n")
        raise UserError(
            f"{what} is not valid {name} text: line {line}, byte {len(mark) + error.start} is "
            f"0x{error.object[error.start]:02x} ({error.reason}). Save it as UTF-8."
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        at = text.index("\0")
        raise UserError(
            f"{what} is not text: it contains a NUL character at position {at}. If it is UTF-16 without a "
            "byte order mark, save it as UTF-8."
        )
    return text.replace("\ufeff", "")


def read_text(path: str | os.PathLike, what: str) -> str:
    """Read a text file, plain or gzip, with ``decode_text``; ``what`` names its role in the error messages.

    Raises:
        UserError: the file is missing, cannot be read, is an incomplete gzip file, or not text.
    """
    data = read_bytes(path, what)
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{what}: {path} is not a complete gzip file ({error}).") from error
    return decode_text(data, f"{what}: {path}")


def read_lines(path: str | os.PathLike, what: str) -> list[str]:
    """The lines of a text file, without line ends and without an empty last line; errors as in ``read_text``.

    Only line feeds end a line: ``str.splitlines`` would also break at characters that occur inside captions.
    """
    lines = read_text(path, what).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_bytes(path: str | os.PathLike, what: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: the file is missing, is a folder or a device, which may never end, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read()
    except FileNotFoundError:
        raise UserError(f"{what}: the file {path} does not exist.") from None
    except IsADirectoryError:
        raise UserError(f"{what}: {path} is a folder, expected a file.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UserError(f"{what}: {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    raise UserError(f"{what}: {path} is not a regular file.")


def read_json(path: str | os.PathLike, what: str, *, finite: bool = True) -> Any:
    """Read a JSON file, plain or gzip; ``what`` names its role in the error messages.

    Args:
        finite: False if the caller reports the place of NaN or Infinity itself.

    Raises:
        UserError: ``read_text`` or ``parse_json`` refuses the file.
    """
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    with doing(f"Reading {path}", size):
        text = read_text(path, what)
        collecting = gc.isenabled()
        gc.disable()  # parsing makes no garbage, but the collector would search the growing value repeatedly
        try:
            return parse_json(text, finite=finite)
        except UserError as error:
            raise UserError(f"{what}: {path} is {error}") from error
        finally:
            if collecting:
                gc.enable()


# Two such escapes together are one character; one by itself is not a character and cannot be written to a file.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Parse one complete JSON value.

    Raises:
        UserError: the text is not such a value, or is one that Python's parser silently accepts: with duplicated keys
            in one object, half of a character (``"\\ud800"``) or, unless ``finite`` is False, NaN, Infinity and
            numbers that are too large for a float. The message begins with "not valid JSON".

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    if (value := parse_quickly(text)) is not None:
        return value
    number = _finite if finite else float
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=number, parse_float=number)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"not valid JSON ({place}: {error.msg}); is the file complete?") from error
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise UserError(f"not valid JSON: {half} is half of a character.") from error
    except (ValueError, RecursionError) as error:  # our own, thousands of digits in an integer, or of brackets
        raise UserError(f"not valid JSON: {error}.") from error


def parse_quickly(text: str | bytes, kind: Any = Any) -> Any:
    """``parse_json`` with msgspec, in a third of the time; None if ``parse_json`` has to check the text.

    msgspec refuses everything that ``parse_json`` refuses, except duplicated keys, of which it keeps the last. The
    value written again then has fewer colons than the text, unless there is an escaped colon.

    Args:
        text: bytes must be UTF-8 without a byte order mark.
        kind: the type that the value must have, see ``schema.typed``; the result is None for any other type.
    """
    import msgspec

    try:
        data = text.encode() if isinstance(text, str) else text
        value = msgspec.json.decode(data, type=kind)
        same = data.count(b":") == msgspec.json.encode(value).count(b":")
    except (ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
        return None
    return value if same and b"\\u003" not in data and codecs.BOM_UTF8 not in data else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in made if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} is duplicated in one object")
    return made


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def hash_of(file: IO[bytes], size: int = sys.maxsize) -> Any:
    """The sha256 of the next ``size`` bytes of a file, or of all that are left."""
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest


def sha256_of(path: str | os.PathLike) -> str:
    """The sha256 of a file as 64 hexadecimal digits."""
    with doing(f"Computing the checksum of {path}"), open(path, "rb") as file:
        return hash_of(file).hexdigest()
