"""Read the weights files of strangers: tensors come out, and nothing in the file is run.

A ``.pkl``, a ``.pth`` and a ``pytorch_model.bin`` all hold pickles; ``safe_pickle`` reads those. Three containers are
told apart by their content, not by their suffix: torch's zip archive, torch's older stream, and a plain pickle of numpy
arrays (detectron2's). Numpy's numbers among torch's tensors, which torch itself refuses since 2.6, are read too.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import torch

from xmodaler_ssattn.detectors.safe_pickle import (
    DAMAGE,
    PlainUnpickler,
    RefusedPickle,
    Storage,
    StoredArray,
    StoredTensor,
)
from xmodaler_ssattn.errors import UserError, raise_all

# What torch.save wrote first before it used zip archives.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Where a file keeps the weights, when they are not all there is.
WRAPPERS = ("model", "state_dict")
# Before every name of a network that was trained on several GPUs.
PARALLEL = "module."
WHAT = "Detector weights"


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Every named tensor of a weights file, on the CPU, in the type in which the file has it.

    ``module.`` before every name is dropped.

    Args:
        path: a ``.pth`` or ``.bin`` by torch.save, or a ``.pkl`` of numpy arrays as detectron2 reads. Training state
            beside the weights (optimizer, iteration) is left alone.

    Raises:
        UserError: the file is missing, damaged or cut short, asks for code, or holds something else than named tensors;
            the message names the file, and what it asked for.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UserError(f"{WHAT}: {path} {found}; give the weights file as its authors provide it.")
    if path.endswith(".caffemodel"):
        raise UserError(
            f"{WHAT}: {path} is a model of Caffe; give the .pth or .pkl into which others converted it "
            "(see the README)."
        )
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(0)
            return _read_zip(path) if start == b"PK\x03\x04" else _read_stream(path, file)
    except OSError as error:
        raise UserError(f"{WHAT}: {path} cannot be read: {error}.") from error


def _unpickle(path: str, unpickler: PlainUnpickler) -> Any:
    try:
        return unpickler.load()
    except RefusedPickle as error:
        raise UserError(f"{WHAT}: {path} is refused: {error}.") from error
    except DAMAGE as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(f"{WHAT}: {path} is no intact weights file; is it complete? ({type(error).__name__}: {error})")


def _read_zip(path: str) -> dict[str, torch.Tensor]:
    """torch's zip archive: <name>/data.pkl and the storages as <name>/data/<key>, uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
            if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
                raise UserError(f"{WHAT}: {path} was written on a big-endian machine; save it anew on this one.")
            content = _unpickle(path, PlainUnpickler(io.BytesIO(archive.read(members["data.pkl"]))))

            def bytes_of(storage: Storage) -> bytes:
                info = members.get(f"data/{storage.key}")
                size = info.file_size if info else 0
                if size != storage.numel * storage.dtype.itemsize:
                    raise UserError(
                        f"{WHAT}: {path} has {size:,} bytes in data/{storage.key}, expected "
                        f"{storage.numel * storage.dtype.itemsize:,}; is the file complete?"
                    )
                return archive.read(info) if info else b""

            return _tensors(path, content, bytes_of)
    except UserError:
        raise
    except (*DAMAGE, zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # zipfile meets damage in all these ways
        raise _damaged(path, error) from error


def _members(path: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's records by their names below its one folder."""
    # Sizes are compared with the file before anything is read: a false header must not reserve memory.
    if sum(info.file_size for info in archive.infolist()) > os.path.getsize(path):
        raise UserError(
            f"{WHAT}: {path} is refused: it claims to hold more bytes than it has, or is compressed, which "
            "torch's files never are."
        )
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if not name:
            continue  # beside the folder: no record of torch's; an npz file holds nothing else
        if name in members:
            raise UserError(f"{WHAT}: {path} is refused: it holds {info.filename} twice.")
        members[name] = info
    if "data.pkl" not in members:
        raise UserError(f"{WHAT}: {path} is a zip file, but not one of torch: it has no data.pkl.")
    return members


def _read_stream(path: str, file: BinaryIO) -> dict[str, torch.Tensor]:
    """A plain pickle, or torch's older form: magic number, version, machine, content, storage keys, storages."""
    content = _unpickle(path, PlainUnpickler(file))
    if type(content) is not int or content != LEGACY_MAGIC:
        return _tensors(path, content, None)
    _unpickle(path, PlainUnpickler(file))
    machine = _unpickle(path, PlainUnpickler(file))
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise UserError(f"{WHAT}: {path} was written on a big-endian machine; save it anew on this one.")
    unpickler = PlainUnpickler(file)
    content = _unpickle(path, unpickler)
    keys = _unpickle(path, PlainUnpickler(file))
    size = os.fstat(file.fileno()).st_size
    raw: dict[str, bytes] = {}
    try:
        for key in keys:
            storage = unpickler.storages[str(key)]
            (count,) = struct.unpack("<q", file.read(8))
            wanted = storage.numel * storage.dtype.itemsize
            if count != storage.numel or wanted > size - file.tell():
                raise EOFError(
                    f"storage {key} should have {storage.numel:,} numbers, has {count:,}, and "
                    f"{size - file.tell():,} bytes are left"
                )
            raw[storage.key] = file.read(wanted)
        missing = [key for key in unpickler.storages if key not in raw]
        if missing:
            raise EOFError(f"{len(missing)} storages are not there")
    except (EOFError, KeyError, TypeError, struct.error) as error:
        raise _damaged(path, error) from error
    return _tensors(path, content, lambda storage: raw[storage.key])


def _tensors(path: str, content: Any, bytes_of: Callable[[Storage], bytes] | None) -> dict[str, torch.Tensor]:
    """The named tensors in what was unpickled; each storage is read once, when it is first needed."""
    named = content
    for wrapper in WRAPPERS:
        if isinstance(named, Mapping) and isinstance(named.get(wrapper), Mapping):
            named = named[wrapper]
            break
    if not isinstance(named, Mapping) or not named:
        raise UserError(
            f"{WHAT}: {path} holds {_kind(content)}, expected tensors by name, directly or under "
            f"{' or '.join(repr(wrapper) for wrapper in WRAPPERS)}."
        )
    problems: list[str] = []
    tensors: dict[str, torch.Tensor] = {}
    flat: dict[str, torch.Tensor] = {}
    for name, value in named.items():
        if not isinstance(name, str):
            problems.append(f"{name!r} is no name")
        elif isinstance(value, StoredTensor) and bytes_of is not None:
            storage = value.storage
            if storage.key not in flat:
                flat[storage.key] = _flat(bytes_of(storage), storage.dtype)
            tensors[name] = flat[storage.key].as_strided(value.size, value.stride, value.offset)
        elif isinstance(value, StoredArray) and value.data is not None:
            tensors[name] = value.data
        elif isinstance(value, (int, float)):
            tensors[name] = torch.as_tensor(value)
        else:
            problems.append(f"{name!r} is {_kind(value)}, expected a tensor")
    if len(problems) > 8:
        problems = [*problems[:8], f"{len(problems) - 8} more like these"]
    raise_all(problems, f"{WHAT}: {path} cannot be used")
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return tensors


def _flat(raw: bytes, dtype: torch.dtype) -> torch.Tensor:
    if not raw:
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # nobody writes into weights
        return torch.frombuffer(raw, dtype=dtype)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, list(value)[:6])) or '(none)'}"
    return "nothing" if value is None else f"of the type {type(value).__name__}"
