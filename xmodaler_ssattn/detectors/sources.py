"""Where pictures come from: a folder, a zip or tar archive, or parquet files. One interface for all of them.

A source lists the names of its pictures in sorted order and reads the pictures one at a time, in the order in which
they are stored. Archives and tables are untrusted: nothing is unpacked to the disk, a name in them is only a text,
links are not followed, and no entry of more than ``MAX_PICTURE_BYTES`` is read.
"""

from __future__ import annotations

import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from xmodaler_ssattn.detectors.folder import FolderPictures, is_picture_name, list_pictures
from xmodaler_ssattn.detectors.parquet import ParquetPictures
from xmodaler_ssattn.detectors.pictures import MAX_PICTURE_BYTES, PackedPicture
from xmodaler_ssattn.errors import UserError, numbered
from xmodaler_ssattn.ids import PICTURE_SUFFIXES
from xmodaler_ssattn.packs.opening import unpacker

MAX_ENTRIES = 5_000_000
PARQUET = ".parquet"
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,  # of negative sizes in headers
    LookupError,  # of zipfile: an entry without a name
    OverflowError,
    struct.error,
    RuntimeError,  # of zipfile: encrypted
    NotImplementedError,  # of zipfile: an unknown compression
)


class PictureSource(Protocol):
    """Pictures by name.

    Attributes:
        where: the folder or file.
        names: of the pictures, sorted, each once.
        note: a sentence about what is not read, or how names are found; may be empty.
    """

    where: Path
    names: tuple[str, ...]
    note: str

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Path | PackedPicture]]:
        """Each of these pictures once, with its name, in the order in which the source has them."""
        ...


class Chosen:
    """Pictures of a source by their image ids; ``names`` is image id -> name."""

    def __init__(self, source: PictureSource | FolderPictures, names: Mapping[int, str]) -> None:
        self._source, self._names = source, dict(sorted(names.items()))
        self.ids = tuple(self._names)

    @classmethod
    def of_files(cls, paths: Mapping[int, Path]) -> Chosen:
        """Files anywhere: image id -> path."""
        return cls(FolderPictures(Path()), {image_id: os.fspath(path) for image_id, path in paths.items()})

    def read(self, ids: Collection[int]) -> Iterator[tuple[int, Path | PackedPicture]]:
        """Each of these pictures once, with its id, in the order of the source."""
        wanted = {self._names[image_id]: image_id for image_id in ids}
        for name, picture in self._source.read(wanted):
            yield wanted[name], picture


def is_collection(path: str | os.PathLike) -> bool:
    """Whether a path is a source of pictures by its name, and not one picture."""
    return Path(path).is_dir() or os.fspath(path).lower().endswith((*ARCHIVES, PARQUET))


def open_source(path: str | os.PathLike, *, recursive: bool = False, id_column: str | None = None) -> PictureSource:
    """The pictures of a folder, of a zip or tar archive (also .tar.gz, .tar.bz2, .tar.xz), or of parquet files.

    Args:
        path: a folder of parquet files is a source of this kind if it has no picture files.
        recursive: also the files in subfolders of a folder. An archive is always read completely.
        id_column: parquet only, see ``parquet.ParquetPictures``.

    Raises:
        UserError: it is missing, of another kind, damaged, or has no pictures or duplicated names.
    """
    path = Path(path)
    if path.is_dir():
        shards = sorted(path.rglob(f"*{PARQUET}") if recursive else path.glob(f"*{PARQUET}"))
        folders = islice(os.walk(path), None if recursive else 1)
        if shards and not any(is_picture_name(name) for _, _, files in folders for name in files):
            return ParquetPictures(path, shards, id_column)
        source: PictureSource = list_pictures(path, recursive)
    else:
        start = _start(path)
        if start.startswith(b"PAR1"):
            return ParquetPictures(path, [path], id_column)
        source = _archive(path, start)
    if id_column is not None:
        raise UserError(f"--id-column: {path} is not a parquet file; ids are taken from the names of the pictures.")
    return source


def _start(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"--images: {path} is neither a folder nor a file.")
            return file.read(512)
    except FileNotFoundError:
        raise UserError(f"--images: {path} does not exist.") from None
    except OSError as error:
        raise UserError(f"--images: {path} cannot be read ({error.strerror or error}).") from error


def _archive(path: Path, start: bytes) -> PictureSource:
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipPictures(path)
    if start[257:262] == b"ustar" or path.suffix.lower() == ".tar" or unpacker(start) is not open:
        return TarPictures(path)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        raise UserError(f"--images: {path} is one picture; give its folder, or `xmodaler caption {path}`.")
    raise UserError(
        f"--images: {path} is not a folder, a zip or tar archive (.tar.gz, .tar.bz2, .tar.xz), or a parquet file."
    )


class _Archive:
    """What the two kinds of archives share: entries that are pictures by their names, and the errors of one entry."""

    def __init__(self, path: Path) -> None:
        self.where = path
        with self._damage():
            entries = list(self._entries())
        names = [name for name in entries if _is_picture(name)]
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise UserError(
                f"--images: {path} has {len(repeated)} duplicated names, so it is not clear which picture is meant:\n"
                + numbered(repeated)
            )
        if not names:
            raise UserError(f"--images: {path} contains no pictures ({', '.join(PICTURE_SUFFIXES)}).")
        self.names = tuple(sorted(names))
        others = len(entries) - len(names)
        self.note = f"ignored: {others:,} other entries" if others else ""

    def _entries(self) -> Iterator[str]:
        """The names of all entries that are not folders."""
        raise NotImplementedError

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except _DAMAGE as error:
            raise UserError(
                f"--images: the archive {self.where} is damaged or incomplete ({type(error).__name__}: {error})."
            ) from error

    def _refused(self, name: str, reason: str) -> tuple[str, PackedPicture]:
        where = f"{self.where}/{name}"
        return name, PackedPicture(where, UserError(f"{where}: {reason}"))

    def _packed(self, name: str, size: int, open_entry: Any) -> tuple[str, PackedPicture]:
        """One entry, or the reason why it cannot be read."""
        if size > MAX_PICTURE_BYTES:
            return self._refused(name, f"it has {size:,} bytes unpacked, more than the {MAX_PICTURE_BYTES:,} allowed.")
        try:
            with open_entry() as file:
                data = file.read(size)
        except _DAMAGE as error:
            return self._refused(name, f"the entry is damaged or cannot be unpacked ({error}).")
        if len(data) != size:
            return self._refused(name, f"the entry is cut short: {len(data):,} of {size:,} bytes.")
        return name, PackedPicture(f"{self.where}/{name}", data)


class ZipPictures(_Archive):
    """See ``PictureSource``."""

    def _entries(self) -> Iterator[str]:
        with zipfile.ZipFile(self.where) as archive:
            yield from (info.filename for info in archive.infolist() if not info.is_dir())

    def read(self, names: Collection[str]) -> Iterator[tuple[str, PackedPicture]]:
        """See ``PictureSource``."""
        with self._damage(), zipfile.ZipFile(self.where) as archive:
            for info in archive.infolist():
                name = info.filename
                if name not in names:
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    yield self._refused(name, "it is a link, and links are not followed.")
                elif info.flag_bits & 1:
                    yield self._refused(name, "it is encrypted; unpack the archive with its password first.")
                else:
                    yield self._packed(name, info.file_size, lambda info=info: archive.open(info))


class TarPictures(_Archive):
    """See ``PictureSource``. An archive without an index: each pass reads it from the beginning."""

    def _entries(self) -> Iterator[str]:
        for count, (_, member) in enumerate(self._members(), 1):
            if count > MAX_ENTRIES:
                raise UserError(f"--images: {self.where} has more than {MAX_ENTRIES:,} entries.")
            if not member.isdir():
                yield member.name

    def read(self, names: Collection[str]) -> Iterator[tuple[str, PackedPicture]]:
        """See ``PictureSource``."""
        left = set(names)
        with self._damage():
            for archive, member in self._members():
                if member.name not in left or member.isdir():
                    continue
                left.remove(member.name)
                if member.isfile():
                    yield self._packed(member.name, member.size, lambda m=member, a=archive: a.extractfile(m))
                else:
                    yield self._refused(member.name, "it is a link or a device, and links are not followed.")
                if not left:
                    return

    def _members(self) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
        with unpacker(_start(self.where))(self.where, "rb") as file, tarfile.TarFile(fileobj=_Bounded(file)) as archive:
            while (member := archive.next()) is not None:
                yield archive, member
                archive.members = []  # it would keep all of them


class _Bounded(io.RawIOBase):
    """A file that refuses to read much at once: a tar header can claim that its name has any number of bytes."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_PICTURE_BYTES:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _is_picture(name: str) -> bool:
    """By its suffix; without the shadow files that macOS adds to archives, and hidden files."""
    base = name.rsplit("/", 1)[-1]
    return is_picture_name(base) and not base.startswith(".") and not name.startswith("__MACOSX/")
