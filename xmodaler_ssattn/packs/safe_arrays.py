"""Read untrusted .npy and .npz files: no pickle, and no archive that unpacks to more than it should.

numpy refuses pickles, but reserves all memory that a header requests. Here the headers of the archive and of the array
are read first; they must agree, and must not exceed a limit.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import h5py
import numpy as np

from xmodaler_ssattn.packs.pack import PackError

# One image: 100 regions x (2048 + 1601 + 4) float32 are 1.5 MB. This is enough for any real file.
MAX_BYTES = 64 << 20
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: str | os.PathLike, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read some arrays of an .npz file; other keys are not read.

    Raises:
        PackError: the file is not an intact zip file, a key is missing, or an array is pickled or exceeds MAX_BYTES.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if missing := [key for key in required if key not in members]:
                there = ", ".join(sorted(members))
                raise PackError(f"{path}: the keys {', '.join(missing)} are missing; it has {there}.")
            wanted = [key for key in (*required, *optional) if key in members]
            total = sum(members[key].file_size for key in wanted)
            if total > MAX_BYTES:
                raise PackError(
                    f"{path}: the keys {', '.join(wanted)} unpack to {total:,} bytes, more than the "
                    f"{MAX_BYTES:,} that one image may have. Is it the file of one image?"
                )
            arrays = {}
            for key in wanted:
                with archive.open(members[key]) as stream:
                    arrays[key] = _read_array(stream, members[key].file_size, f"{path}, key {key!r}")
            return arrays
    except FileNotFoundError:
        raise PackError(f"{path} does not exist.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise PackError(f"{path}: not an intact .npz file ({error}).") from error


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Read one .npy file; a ``PackError`` names the file when it is missing, pickled, damaged or too large."""
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MAX_BYTES:
                raise PackError(f"{path}: {size:,} bytes, more than the {MAX_BYTES:,} that one image may have.")
            return _read_array(stream, size, str(path))
    except FileNotFoundError:
        raise PackError(f"{path} does not exist.") from None


def read_dataset(dataset: h5py.Dataset, where: str, rows: Any = ...) -> np.ndarray:
    """Read an HDF5 data set, or some rows of it; a ``PackError`` names one that is too large or damaged."""
    if dataset.size * dataset.dtype.itemsize > MAX_BYTES and rows is ...:
        raise PackError(f"{where}: {dataset.shape} {dataset.dtype} are more than the {MAX_BYTES:,} bytes allowed.")
    try:
        return np.asarray(dataset[rows])
    except OSError as error:
        raise PackError(f"{where}: the data set cannot be read ({error}); is the file damaged?") from error


def _read_array(stream: BinaryIO, size: int, where: str) -> np.ndarray:
    data = stream.read(size)
    buffer = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(buffer)
        if version not in _HEADERS:
            raise PackError(f"{where}: array format {version} is not supported.")
        shape, _, dtype = _HEADERS[version](buffer)
    except PackError:
        raise
    except Exception as error:  # its parser also fails with errors of tokens, memory and recursion
        raise PackError(f"{where}: not a numpy array ({error}).") from error
    if dtype.hasobject:
        raise PackError(f"{where}: it needs pickle, which can run code and is not read. Save plain arrays instead.")
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(data) - buffer.tell():
        raise PackError(
            f"{where}: the header says {shape} {dtype} ({expected:,} bytes), "
            f"the file has {len(data) - buffer.tell():,}; is it cut short?"
        )
    buffer.seek(0)
    return np.lib.format.read_array(buffer, allow_pickle=False)


# Features, boxes and scores, unless zero: real features lie between 1e-8 and 40.
SMALLEST, LARGEST = 1e-15, 1e6


def unlike_measurements(values: np.ndarray) -> str | None:
    """The reason why these are not numbers of a network or a box, or None; bytes in a wrong order are huge or tiny."""
    size = np.abs(values)
    large, small = (size > LARGEST) & np.isfinite(size), (size > 0) & (size < SMALLEST)
    if not large.any() and small.mean() <= 0.001:  # a mean of activations may be tiny
        return None
    return f"one is {values[large | small][0]:g}; were they written in another type or byte order?"


def scalar(array: np.ndarray, where: str) -> int:
    """The whole number in an array of any shape with one element."""
    array = np.asarray(array)
    if array.size != 1 or array.dtype.kind not in "iuf" or float(array.reshape(-1)[0]) % 1:
        shown = f"{array.reshape(-1)[0]!r}" if array.size == 1 else f"{array.dtype} of shape {array.shape}"
        raise PackError(f"{where}: expected one whole number, found {shown}.")
    return int(array.reshape(-1)[0])


def single_value(array: np.ndarray) -> str | int:
    """The text or number in an array of one element; for other arrays their type and shape, which are not an id."""
    if array.size != 1:
        return f"{array.dtype} of shape {array.shape}"
    value = array.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return str(value) if isinstance(value, str) else value
