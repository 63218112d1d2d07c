"""Safely read files of ``torch.save`` and pickles of numpy arrays: checkpoints and weights from others.

No code in a file is run, and a damaged file gives one error with its name; ``safe_pickle`` reads the pickles. Three
formats are distinguished by their content: torch's zip archive, torch's older stream, and a plain pickle.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.progress import doing
from xmodaler_ssattn.safe_pickle import PlainUnpickler, RefusedPickle, StoredArray, StoredDict, StoredTensor

ZIP_START = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the beginning of a file of torch.save before it used zip archives
BIG_ENDIAN = "it was written on a big-endian machine; save it again on this one"
PLAIN = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device)


class StoragePlace(NamedTuple):
    """The position of a storage's bytes in the file, and their checksum if it is known."""

    offset: int
    size: int
    crc: int | None


def safe_load(
    path: str | os.PathLike,
    what: str = "The file",
    *,
    part: Callable[[Any], Any] | None = None,
    checksums: bool = False,
) -> Any:
    """The content of a file of ``torch.save``, as from ``torch.load``, on the CPU; also of pickles of numpy arrays.

    Tensors keep their dtype, shape, strides and shared storages, without gradients.

    Args:
        what: the beginning of an error message.
        part: called with the content before its tensors are read; returns the part to read. Its errors are not caught.
        checksums: compare each tensor's checksum with that in the zip archive; takes about 1 s per GB.

    Raises:
        UserError: the file is missing or damaged, or contains something other than tensors, arrays and plain values.
    """
    path = os.fspath(path)
    with _named_errors(what, path), open(path, "rb") as file:
        start = file.read(len(ZIP_START))
        file.seek(0)
        content, places = _open_zip(file) if start == ZIP_START else _open_stream(file)
    if part is not None:
        content = part(content)
    with doing(f"Loading {path}"), _named_errors(what, path), open(path, "rb") as file:
        return _Reader(file, places, checksums).read(content)


def weights_of(content: Any) -> Any:
    """The ``part`` of a checkpoint with its weights: the value under "model", else everything."""
    return content.get("model", content) if isinstance(content, dict) else content


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """All of a training checkpoint, with the weights under "model", also if the file contains only weights.

    Raises:
        UserError: see ``safe_load``; or the content is not a dictionary.
    """
    content = safe_load(path, "The checkpoint", checksums=True)
    if not isinstance(content, dict):
        raise UserError(f"The checkpoint: {path}: expected a dict of tensors, got a {type(content).__name__}.")
    return content if "model" in content else {"model": content}


@contextlib.contextmanager
def _named_errors(what: str, path: str) -> Iterator[None]:
    try:
        yield
    except RefusedPickle as error:
        raise UserError(f"{what}: {path} is refused: {error}.") from error
    except FileNotFoundError as error:
        raise UserError(f"{what}: {path} does not exist.") from error
    except IsADirectoryError as error:
        raise UserError(f"{what}: {path} is a folder, expected a file.") from error
    except OSError as error:
        raise UserError(f"{what}: {path} cannot be read: {error}.") from error
    except Exception as error:  # damage can cause nearly any
        reason = f"damaged or incomplete ({type(error).__name__}: {error})" if os.path.getsize(path) else "empty"
        raise UserError(f"{what}: {path} is {reason}. Expected a file of torch.save.") from error


def _open_zip(file: io.BufferedReader) -> tuple[Any, dict[str, StoragePlace]]:
    """torch's zip archive: <name>/data.pkl and the storages as <name>/data/<key>, uncompressed."""
    with zipfile.ZipFile(file) as archive:
        members = _members(archive.infolist(), os.fstat(file.fileno()).st_size)
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise RefusedPickle(BIG_ENDIAN)
        content = PlainUnpickler(io.BytesIO(archive.read(members["data.pkl"]))).load()
    places = {
        name.removeprefix("data/"): StoragePlace(_data_offset(file, info), info.file_size, info.CRC)
        for name, info in members.items()
        if name.startswith("data/")
    }
    return content, places


def _members(infos: Iterable[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """The archive's records by their names below its one folder."""
    # Sizes are compared with the file before anything is read: a false header must not reserve memory.
    if sum(info.file_size for info in infos) > size or any(info.compress_type or info.flag_bits & 1 for info in infos):
        raise RefusedPickle(
            "its header claims more bytes than it has, or it is compressed or encrypted, which torch's files never are"
        )
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.partition("/")[2]
        if not name:
            continue  # not in a folder: not a record of torch; all records of an npz file are like this
        if name in members:
            raise RefusedPickle(f"{info.filename} is duplicated in it")
        members[name] = info
    if "data.pkl" not in members:
        raise RefusedPickle("it is a zip file, but not of torch: it has no data.pkl")
    return members


def _data_offset(file: io.BufferedReader, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != ZIP_START:
        raise zipfile.BadZipFile(f"there is no record at the place of {info.filename}")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    return info.header_offset + len(header) + name_length + extra_length


def _open_stream(file: io.BufferedReader) -> tuple[Any, dict[str, StoragePlace]]:
    """A plain pickle, or torch's older form: magic number, version, machine, content, storage keys, storages."""
    content = PlainUnpickler(file).load()
    if type(content) is not int or content != LEGACY_MAGIC:
        return content, {}
    PlainUnpickler(file).load()
    machine = PlainUnpickler(file).load()
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise RefusedPickle(BIG_ENDIAN)
    unpickler = PlainUnpickler(file)
    content = unpickler.load()
    places, size = {}, os.fstat(file.fileno()).st_size
    for key in PlainUnpickler(file).load():
        storage = unpickler.storages[key if isinstance(key, str) else ""]
        (count,) = struct.unpack("<q", file.read(8))
        left = size - file.tell()
        if count != storage.numel or storage.nbytes > left:
            raise EOFError(f"storage {key} has {count:,} numbers in {left:,} bytes, expected {storage.numel:,}")
        places[storage.key] = StoragePlace(file.tell(), storage.nbytes, None)
        file.seek(storage.nbytes, os.SEEK_CUR)
    return content, places


class _Reader:
    """Makes the objects that a pickle describes; each storage is read once, when it is first needed."""

    def __init__(self, file: io.BufferedReader, places: Mapping[str, StoragePlace], checksums: bool) -> None:
        self._file, self._places, self._checksums = file, places, checksums
        self._size = os.fstat(file.fileno()).st_size
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._made: dict[int, Any] = {}  # by the id of the description

    def read(self, value: Any) -> Any:
        if isinstance(value, PLAIN):
            return value
        if id(value) not in self._made:
            self._made[id(value)] = self._make(value)
        return self._made[id(value)]

    def _make(self, value: Any) -> Any:
        if isinstance(value, StoredTensor):
            empty = torch.empty(0, dtype=value.dtype)
            return empty.set_(self._storage(value), value.offset, value.size, value.stride)
        if isinstance(value, StoredArray) and value.data is not None:
            return value.data
        if type(value) in (tuple, set):
            return type(value)(map(self.read, value))
        if type(value) is list:
            items: list[Any] = []
            self._made[id(value)] = items  # stored before it is filled, since it may contain itself
            items.extend(map(self.read, value))
            return items
        if isinstance(value, dict):
            made = self._made[id(value)] = value.make() if isinstance(value, StoredDict) else {}
            for key, item in value.items():
                made[self.read(key)] = self.read(item)
            if isinstance(value, StoredDict) and value.metadata is not None:
                vars(made)["_metadata"] = self.read(value.metadata)
            return made
        raise RefusedPickle(f"it contains a {type(value).__name__}, which is neither a tensor nor a plain value")

    def _storage(self, tensor: StoredTensor) -> torch.UntypedStorage:
        key, wanted = tensor.storage.key, tensor.storage.nbytes
        if key in self._storages:
            return self._storages[key]
        place = self._places.get(key, StoragePlace(0, 0, None))
        if place.size != wanted or place.offset + wanted > self._size:
            found = min(place.size, max(self._size - place.offset, 0))
            raise EOFError(f"storage {key} has {found:,} bytes, expected {wanted:,}")
        raw = torch.empty(wanted, dtype=torch.uint8)
        self._file.seek(place.offset)
        if self._file.readinto(raw.numpy().data) != wanted:
            raise EOFError(f"storage {key} ends too early")
        if self._checksums and place.crc is not None and zlib.crc32(raw.numpy().data) != place.crc:
            raise EOFError(f"storage {key} has a wrong checksum")
        self._storages[key] = raw.untyped_storage()
        return self._storages[key]
