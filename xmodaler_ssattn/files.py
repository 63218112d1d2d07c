"""Files that appear whole: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
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


def read_json(path: str | os.PathLike, what: str) -> Any:
    """Read a JSON file; ``what`` names its role in the error messages.

    Raises:
        UserError: the file is missing, is no UTF-8 text, or is no complete JSON.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{what}: the file {path} does not exist.") from None
    except IsADirectoryError:
        raise UserError(f"{what}: {path} is a folder, expected a JSON file.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: {path} is not UTF-8 text ({error}).") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{what}: {path} is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); "
            "is the file complete?"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or as many brackets
        raise UserError(f"{what}: {path} cannot be read as JSON: {error}.") from error


def sha256_of(path: str | os.PathLike) -> str:
    """The sha256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
