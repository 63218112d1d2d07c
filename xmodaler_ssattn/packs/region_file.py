"""The layout of a region file (HDF5), its header, and the checks of both.

Letters: N images, K regions (of the image with most), D feature size, C classes.

==============  ============  ==================  =====================================================
data set        shape         type                content
==============  ============  ==================  =====================================================
image_ids       (N,)          int64               ids of the images, each once
image_size      (N, 2)        int32               width, height in pixels
num_boxes       (N,)          int32               regions of this image; the rows after them are zero
source_boxes    (N,)          int32, optional     regions that the source had before any were cut
features        (N, K, D)     float32 | float16   V
boxes           (N, K, 4)     float32             x1, y1, x2, y2 in pixels of the original image
class_probs     (N, K, C)     float32 | float16   c, optional; background first
==============  ============  ==================  =====================================================

All are contiguous and uncompressed, so that a row can be read through a memory map at the data set's
offset. Attributes: schema, version, source, order, background, vocabulary_sha256, weights_sha256.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.packs.trust import check_openable
from xmodaler_ssattn.sealed import SEAL_BYTES

SCHEMA = "xmodaler_ssattn/regions"
VERSION = 1
ORDER_BY_PROBABILITY = "descending max class probability"
ORDER_BY_SCORE = "descending detector confidence"
ORDER_OF_SOURCE = "as in the source"
FLOATS = ("float32", "float16")
MAX_SIDE = 1_000_000  # pixels; a larger number was read in the wrong byte order
NOT_WRITTEN = -1  # in num_boxes, while a file is being written

# Each data set, small ones first: its sizes after N, and its type ("" for one of FLOATS).
_LAYOUT: dict[str, tuple[tuple[int | str, ...], str]] = {
    "image_ids": ((), "int64"),
    "image_size": ((2,), "int32"),
    "num_boxes": ((), "int32"),
    "source_boxes": ((), "int32"),
    "boxes": (("K", 4), "float32"),
    "features": (("K", "D"), ""),
    "class_probs": (("K", "C"), ""),
}
_OPTIONAL = ("source_boxes", "class_probs")


@dataclasses.dataclass(frozen=True)
class Field:
    """One data set: its shape, type, and the byte at which it starts (None when it is not contiguous)."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Header:
    """Everything in a region file except the large arrays."""

    path: Path
    fields: Mapping[str, Field]
    attributes: Mapping[str, Any]
    image_ids: np.ndarray  # (N,) int64
    image_size: np.ndarray  # (N, 2) int32, w h
    num_boxes: np.ndarray  # (N,) int32


def check_size(width: int, height: int, where: str) -> None:
    """Raise a ``UserError`` unless this is a possible picture size in pixels."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise UserError(f"{where}: width and height must be 1 to {MAX_SIDE:,}, got {width} x {height}.")


def check_order(boxes: np.ndarray, where: str) -> None:
    """Raise a ``UserError`` that names the first of (n, 4) boxes that is not x1 <= x2, y1 <= y2."""
    inverted = np.flatnonzero((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
    if len(inverted):
        box = f"box {inverted[0]} {boxes[inverted[0]].tolist()}"
        hint = "is it x, y, width, height? Expected x1, y1, x2, y2"
        raise UserError(f"{where}: {box} has x2 < x1 or y2 < y1; {hint}.")


def wrong_ids(ids: np.ndarray) -> list[str]:
    """Problems of the image ids of a region file."""
    problems = []
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        problems.append(f"image ids are duplicated, e.g. {unique[counts > 1][:10].tolist()}")
    if (ids < 0).any():
        problems.append(f"image ids must be 0 or more; found {ids[ids < 0][:10].tolist()}")
    return problems


def differing_values(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One phrase for each name with another value there than now."""
    return [
        f"{name}: {there.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted({*there, *now})
        if there.get(name) != now.get(name)
    ]


def plan_fields(
    count: int, num_regions: int, feature_dim: int, num_classes: int | None, feature_dtype: str, probs_dtype: str
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every data set of a new file, small ones first."""
    sizes, dtypes = {"K": num_regions, "D": feature_dim, "C": num_classes}, {"features": feature_dtype}
    fields = {}
    for name, (tail, dtype) in _LAYOUT.items():
        if name != "class_probs" or num_classes is not None:
            shape = (count, *(sizes.get(n, n) for n in tail))
            fields[name] = shape, dtype or dtypes.get(name, probs_dtype)
    return fields


def create_layout(
    path: Path, fields: Mapping[str, tuple[tuple[int, ...], str]], image_ids: np.ndarray, attributes: Mapping[str, Any]
) -> None:
    """Create the file with every data set at its final place, the large ones empty.

    Space is reserved but not filled: the file is sparse at first and reads as zeros. It has no time stamps, so that the
    same content gives the same bytes.
    """
    with h5py.File(path, "w", libver=("earliest", "v110"), alignment_threshold=4096, alignment_interval=4096) as file:
        # Sorted, as when they are read, so that a joined file has the same bytes as a file written at once.
        for name, value in sorted(attributes.items()):
            file.attrs[name] = value
        for name, (shape, dtype) in fields.items():
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_layout(h5py.h5d.CONTIGUOUS)
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            plist.set_obj_track_times(False)
            kind = h5py.h5t.py_create(np.dtype(dtype).newbyteorder("<"), logical=True)
            h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), plist)
        file["image_ids"][...] = image_ids
        file["num_boxes"][...] = NOT_WRITTEN


def read_header(path: str | os.PathLike, *, unfinished: bool = False) -> Header:
    """Read and check everything except the large arrays; ``unfinished`` accepts rows that are not written yet.

    Raises:
        UserError: the file is missing, not HDF5, incomplete, of another schema or version, or has wrong shapes (all
            problems are listed).
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"The region file {path} is a folder, expected an HDF5 file.")
    if not path.is_file():
        raise UserError(f"The region file {path} does not exist. Write it with `xmodaler prepare regions`.")
    with hdf5_file(path, "Region file") as file:
        attributes = {name: _plain(value) for name, value in file.attrs.items()}
        texts = {name: value for name, value in attributes.items() if isinstance(value, str)}
        if damaged := [repr(name) for name, value in texts.items() if re.search("[\ud800-\udfff]", value)]:
            raise UserError(f"Region file {path}: its attributes {', '.join(damaged)} are not text; is it damaged?")
        schema, version = attributes.get("schema"), attributes.get("version")
        if schema != SCHEMA:
            found = f"its attribute schema is {schema!r}, expected {SCHEMA!r}"
            raise UserError(f"Region file {path}: {found}. Convert other formats with `xmodaler prepare regions`.")
        if version != VERSION:
            found = f"version {version}, this program reads version {VERSION}"
            raise UserError(f"Region file {path}: {found}; write it again with `xmodaler prepare regions`.")
        fields, problems = _read_fields(file, path)
        raise_all(problems, f"Region file {path} cannot be used")
        types = {"image_ids": np.int64, "image_size": np.int32, "num_boxes": np.int32}
        small = {name: file[name][...] for name in types}
    raise_all(_check_small(small, fields, unfinished), f"Region file {path} cannot be used")
    return Header(path, fields, attributes, **{name: small[name].astype(dtype) for name, dtype in types.items()})


@contextlib.contextmanager
def hdf5_file(path: str | os.PathLike, what: str) -> Iterator[h5py.File]:
    """``open_hdf5`` as a context; all exceptions from reading a damaged file become a ``UserError``."""
    with open_hdf5(path, what) as file:
        try:
            yield file
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{what}: {path} is damaged ({type(error).__name__}: {error}).") from error


def open_hdf5(path: str | os.PathLike, what: str) -> h5py.File:
    """Open an HDF5 file to read; a missing, foreign or truncated one becomes a ``UserError``."""
    if not os.path.exists(path):
        raise UserError(f"{what}: {path} does not exist.")
    check_openable([path], what)
    try:
        return h5py.File(path, "r", locking=False)  # read-only folders and NFS have no locks
    except Exception as error:  # a damaged file makes HDF5 raise more than OSError
        text, reason = str(error), "HDF5 cannot open it"
        if "truncated" in text or "eof" in text:
            reason = "it is cut short; copy or download it again"
        elif "signature" in text:
            reason = "it is not an HDF5 file"
        raise UserError(f"{what}: {path}: {reason} ({text}).") from error


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def _read_fields(file: h5py.File, path: Path) -> tuple[dict[str, Field], list[str]]:
    fields, problems = {}, []
    size = os.path.getsize(path)
    behind = size - _end_of_hdf5(path)
    if 0 < behind < SEAL_BYTES:
        problems.append("its sha256, which comes last, is cut short")
    for name, (tail, dtype) in _LAYOUT.items():
        link = file.get(name, getlink=True)
        if link is None:
            if name not in _OPTIONAL:
                problems.append(f"the data set {name!r} is missing")
            continue
        if not isinstance(link, h5py.HardLink):
            problems.append(f"{name} is a link to another place; all data must be in this file")
            continue
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            problems.append(f"{name} is a group, expected a data set")
            continue
        if dataset.external or dataset.is_virtual:
            problems.append(f"the numbers of {name} are in other files; all data must be in this file")
            continue
        shape = dataset.shape
        if shape is None or (shape and shape[0] > size):  # an image takes more than one byte, even when compressed
            problems.append(f"{name} claims the shape {shape} in a file of {size:,} bytes")
            continue
        if len(shape) != 1 + len(tail) or any(isinstance(n, int) and n != m for n, m in zip(tail, shape[1:])):
            wanted = "".join(f", {n if isinstance(n, int) else '*'}" for n in tail)
            problems.append(f"{name} has shape {shape}, expected (N{wanted})")
            continue
        integer = dtype.startswith("int")
        if dataset.dtype.kind != "i" if integer else dataset.dtype.name not in FLOATS:
            wanted = "integers" if integer else " or ".join(FLOATS)
            problems.append(f"{name} has type {dataset.dtype}, expected {wanted}")
            continue
        offset = dataset.id.get_offset()
        end = 0 if offset is None else offset + dataset.id.get_storage_size()
        if end > size:
            problems.append(f"{name} ends at byte {end}, the file has {size}: cut short")
        fields[name] = Field(name, shape, dataset.dtype, offset)
    counts = {name: field.shape[0] for name, field in fields.items()}
    if len(set(counts.values())) > 1:
        problems.append(f"the data sets have different numbers of images: {counts}")
    regions = {name: fields[name].shape[1] for name in ("features", "boxes", "class_probs") if name in fields}
    if len(set(regions.values())) > 1:
        problems.append(f"the data sets have different numbers of regions: {regions}")
    if regions and 0 in regions.values():
        problems.append(f"there is room for no region at all: {regions}")
    return fields, problems


def _end_of_hdf5(path: Path) -> int:
    """The end of the HDF5 data by the superblock (HDF5 File Format Specification 3.0, II.A); a seal may follow."""
    with open(path, "rb") as file:
        superblock = file.read(48)
    start = 28 if superblock[8] >= 2 else 40  # versions 0 and 1 have more fields before
    return int.from_bytes(superblock[start : start + 8], "little")


def _check_small(small: Mapping[str, np.ndarray], fields: Mapping[str, Field], unfinished: bool) -> list[str]:
    ids, boxes = small["image_ids"], small["num_boxes"]
    problems = wrong_ids(ids)
    regions = fields["features"].shape[1]
    if not unfinished and (boxes == NOT_WRITTEN).any():
        left = f"{int((boxes == NOT_WRITTEN).sum())} of {len(ids)} images are not written yet"
        problems.append(f"{left}; to resume, start the command that writes it again")
    wrong = ((boxes < 0) & (boxes != NOT_WRITTEN)) | (boxes > regions)
    if wrong.any():
        problems.append(f"num_boxes must be 0 to {regions}; wrong for image ids {ids[wrong][:10].tolist()}")
    size = small["image_size"]
    wrong = ((size <= 0) | (size > MAX_SIDE)).any(axis=1) & (boxes > 0)
    if wrong.any():
        found = ids[wrong][:10].tolist()
        problems.append(f"width and height must be positive and at most {MAX_SIDE:,}; wrong for image ids {found}")
    return problems
