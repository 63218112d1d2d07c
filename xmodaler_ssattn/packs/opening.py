"""Open text files of packs: plain, or compressed with gzip, bzip2, xz or zip."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from xmodaler_ssattn.errors import UserError

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_ZIP = b"PK\x03\x04"
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd",
    b"7z\xbc\xaf\x27\x1c": "it is a 7z archive",
    b"Rar!": "it is a rar archive",
    b"\x89HDF\r\n\x1a\n": "it is an HDF5 file",
    b"\xff\xfe": "it is UTF-16 text",
    b"\xfe\xff": "it is UTF-16 text",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One text file: a file, or a member of a zip archive."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member}"


def parts_of(path: Path) -> list[Part]:
    """The text files in a file: itself, or the .tsv members of a zip archive (all members when there is no .tsv).

    Raises:
        UserError: an archive that cannot be read or is empty.
    """
    if _start(path)[:4] != _ZIP:
        return [Part(path)]
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: the zip archive cannot be read ({error}); is it cut short?") from error
    names = [name for name in names if not name.startswith("__MACOSX/") and not Path(name).name.startswith(".")]
    if not names:
        raise UserError(f"{path}: the zip archive contains no file.")
    return [Part(path, name) for name in [name for name in names if name.lower().endswith(".tsv")] or names]


def open_unpacked(part: Part) -> BinaryIO:
    """Open a text file for reading unpacked bytes; seeking works, but is slow in a compressed file.

    Raises:
        UserError: it is not text, or compressed in a way that the standard library does not read.
    """
    if part.member is not None:
        file = zipfile.ZipFile(part.path).open(part.member)  # noqa: SIM115, the caller closes it
    else:
        file = unpacker(_start(part.path))(part.path, "rb")
    start = file.read(512)
    file.seek(0)
    reason = next((what for magic, what in _OTHERS.items() if start.startswith(magic)), None)
    if reason is None and start[257:262] == b"ustar":
        reason = "it is a tar archive"
    if reason is None and b"\0" in start:
        reason = "it is not text"
    if reason is not None:
        file.close()
        raise UserError(f"{part}: {reason}, expected plain text; unpack or convert it first.")
    return file


def unpacker(start: bytes) -> Callable[..., Any]:
    """``open``, or that of gzip, bzip2 or xz, by the first bytes of a file."""
    return next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), open)


def _start(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
