"""The region store: features, boxes and class probabilities of an image, by its id.

The file's layout is described in ``region_file``; ``RegionWriter`` writes it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.region_file import read_header
from xmodaler_ssattn.packs.writer import RegionWriter

# Numbers that no detector gives are damage: a changed bit makes 60,000 of a feature and 7 of a probability.
LIMITS = {"features": (-10_000, 10_000), "boxes": (-100_000, 100_000), "class_probs": (0, 1.001)}

__all__ = ["RegionStore", "RegionWriter", "Regions"]


@dataclasses.dataclass
class Regions:
    """The k regions of one image. The arrays are copies: they may be changed and kept.

    Attributes:
        width, height: pixels of the original image.
        boxes_px: (k, 4) float32, x1, y1, x2, y2 in pixels.
        features: (k, D) float32, the paper's V.
        class_probs: (k, C) float32, the paper's c, background first; None when the file has none or they were not read.
    """

    image_id: int
    width: int
    height: int
    boxes_px: np.ndarray
    features: np.ndarray
    class_probs: np.ndarray | None

    def check_numbers(self, source: str | os.PathLike) -> None:
        """Raise a ``UserError`` that names the image when a number is NaN or beyond ``LIMITS``."""
        for name, (low, high) in LIMITS.items():
            values = self.boxes_px if name == "boxes" else getattr(self, name)
            # NaN fails both comparisons.
            if values is None or (values.min() >= low and values.max() <= high):
                continue
            good = (values >= low) & (values <= high)
            rows = np.flatnonzero(~good.all(axis=1))
            raise UserError(
                f"Image {self.image_id} in {source}: {name} of region {rows[:10].tolist()} is NaN, infinite or not "
                f"between {low:,} and {high:,}: {values[~good][0]:g}. Extract or convert this image again"
                f"{'; are they in percent, or before the softmax?' if name == 'class_probs' else '.'}"
            )


class RegionStore:
    """Read a region file row by row.

    The header (ids, sizes) is read at once. The large arrays are read through a memory map that each process opens at
    its first read, so that all workers share the same pages. Chunked or compressed data sets, which other programs may
    write, are read with h5py, which is slower. A pickled store contains only its path.

    Attributes:
        path: of the file.
        ids: (N,) int64.
        num_regions, feature_dim: K and D.
        num_classes: C, or None when the file has no class probabilities.
        attributes: of the file (source, order, ...).

    Raises:
        UserError: see ``region_file.read_header``.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        header = self._header = read_header(path)
        self.path: Path = header.path
        self.ids: np.ndarray = header.image_ids
        self.attributes: Mapping[str, Any] = header.attributes
        _, self.num_regions, self.feature_dim = header.fields["features"].shape
        self.num_classes: int | None = header.fields["class_probs"].shape[2] if "class_probs" in header.fields else None
        self._rows = {image_id: row for row, image_id in enumerate(header.image_ids.tolist())}
        self._arrays: dict[str, np.ndarray] = {}
        self._file: h5py.File | None = None
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[type[RegionStore], tuple[Path]]:
        return RegionStore, (self.path,)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def row(self, image_id: int) -> int:
        """The row of an image, in constant time; a ``UserError`` names an image that is missing."""
        try:
            return self._rows[image_id]
        except KeyError:
            raise UserError(
                f"Image {image_id!r} is not in the region file {self.path}, which has {len(self)} images. "
                "Add it with `xmodaler prepare regions`, or check that file and split belong together."
            ) from None

    def image_size(self, image_id: int) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = self._header.image_size[self.row(image_id)].tolist()
        return width, height

    def num_boxes(self, image_id: int) -> int:
        """The number of regions of this image (k)."""
        return int(self._header.num_boxes[self.row(image_id)])

    def boxes_px(self, image_id: int, limit: int | None = None) -> np.ndarray:
        """(k, 4) float32 boxes of one image, xyxy pixels; at most ``limit`` of them."""
        row = self.row(image_id)
        return self._read("boxes", row, self._count(image_id, row, limit))

    def read(self, image_id: int, *, limit: int | None = None, class_probs: bool = True) -> Regions:
        """One image's regions, the first ``limit`` of them, with class probabilities if wanted.

        Raises:
            UserError: the image is missing, or it has no region.
        """
        row = self.row(image_id)
        count = self._count(image_id, row, limit)
        boxes, features = self._read("boxes", row, count), self._read("features", row, count)
        probs = self._read("class_probs", row, count) if class_probs and self.num_classes is not None else None
        return Regions(int(image_id), *self._header.image_size[row].tolist(), boxes, features, probs)

    def warm_up(self) -> None:
        """Read the file once, so that it is in the system's file cache, which all workers share."""
        buffer = bytearray(1 << 22)
        with open(self.path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    def _count(self, image_id: int, row: int, limit: int | None) -> int:
        count = int(self._header.num_boxes[row])
        if count == 0:
            remedy = "Extract it again, or leave the image out of the split."
            place = f"Image {image_id} has no region (num_boxes 0) in {self.path}"
            raise UserError(f"{place}; attention needs at least one. {remedy}")
        return count if limit is None else min(count, limit)

    def field_dtype(self, name: str) -> np.dtype:
        """The file's own type of ``features``, ``boxes`` or ``class_probs``, in the machine's byte order."""
        return self._header.fields[name].dtype.newbyteorder("=")

    def copy_rows(self, name: str, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy rows (n,), ascending, of a data set, padding included, into ``out`` (n, K', ...) with K' up to K."""
        out[...] = self._array(name)[rows, : out.shape[1]]

    def _read(self, name: str, row: int, count: int) -> np.ndarray:
        return np.array(self._array(name)[row, :count], dtype=np.float32)

    def _array(self, name: str) -> np.ndarray:
        if self._pid != os.getpid():  # an h5py handle must not cross a fork
            self._file, self._arrays, self._pid = None, {}, os.getpid()
        if name not in self._arrays:
            field = self._header.fields[name]
            if field.offset is None or len(self) == 0:
                self._file = self._file or h5py.File(self.path, "r", locking=False)
                self._arrays[name] = self._file[name]
            else:
                array = np.memmap(self.path, dtype=field.dtype, mode="r", offset=field.offset, shape=field.shape)
                self._arrays[name] = array.view(np.ndarray)  # slicing a memmap object costs several times as much
        return self._arrays[name]
