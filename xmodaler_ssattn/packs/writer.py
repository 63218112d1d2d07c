"""Write a region file image by image; it can be stopped at any moment and resumed.

The file has the name ``NAME.partial`` until it is complete, and is then renamed. Its whole HDF5 structure is written
first; the rows are then written at their positions in the file, so that a process killed at any moment leaves a valid
file. A row's ``num_boxes`` is written last, after its data is on disk, and marks the row as written.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import disk_errors, is_special, sync_folder, target_of
from xmodaler_ssattn.packs import region_file
from xmodaler_ssattn.packs.region_file import NOT_WRITTEN, SCHEMA, VERSION, Header, create_layout, read_header
from xmodaler_ssattn.packs.trust import trust
from xmodaler_ssattn.sealed import seal

ROWS_PER_SYNC = 128


class RegionWriter:
    """Context manager that writes one region file.

    Use::

        with RegionWriter(path, ids, 36, 2048, 1601, source="sample scenes") as writer:
            for image_id in ids:
                writer.write(image_id, width, height, boxes_px, features, class_probs)

    Args:
        image_ids: all images of the file, in the order of the rows.
        num_regions, feature_dim: K, the most regions per image, and D.
        num_classes: C, or None for a file without class probabilities.
        feature_dtype, probs_dtype: "float32" or "float16".
        source, order: descriptions of the origin of the features and of the order of an image's regions.
        background: "first" when column 0 of the class probabilities is the background, "none" without such a column.
        vocabulary_sha256, weights_sha256: of the class list and of the detector's weights, when known.
        attributes: more attributes to store.
        resume: keep an unfinished file after an error or a kill and continue it next time. An unfinished file with
            other ids, shapes or attributes is refused.
        discard_other: start over instead of refusing it.
        drop_missing: at the close, leave out the images that were not written, instead of refusing.

    Raises:
        UserError: wrong arguments, a disk that is too small, another writer at work, images left unwritten.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        image_ids: Sequence[int],
        num_regions: int,
        feature_dim: int,
        num_classes: int | None,
        *,
        feature_dtype: str = "float32",
        probs_dtype: str = "float32",
        source: str,
        order: str = region_file.ORDER_BY_PROBABILITY,
        background: str = "first",
        vocabulary_sha256: str = "",
        weights_sha256: str = "",
        attributes: Mapping[str, Any] | None = None,
        resume: bool = False,
        discard_other: bool = False,
        drop_missing: bool = False,
    ) -> None:
        if is_special(path):
            raise UserError(f"{path} is a folder, a device or a pipe, expected the name of a file for the regions.")
        self.path = target_of(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        # A fixed name: what a kill leaves of it is overwritten by the next run.
        self._scratch = self.path.with_name(self.path.name + ".partial.new")
        self.num_regions, self.feature_dim, self.num_classes = num_regions, feature_dim, num_classes
        self._resume, self._discard_other, self._drop_missing = resume, discard_other, drop_missing
        self._ids = np.asarray(image_ids, dtype=np.int64)
        self._rows = {image_id: row for row, image_id in enumerate(self._ids.tolist())}
        for name, value in (("num_regions", num_regions), ("feature_dim", feature_dim), ("num_classes", num_classes)):
            if value is not None and value < 1:
                raise UserError(f"{self.path}: {name} must be at least 1, got {value}.")
        for name, value in (("feature_dtype", feature_dtype), ("probs_dtype", probs_dtype)):
            if value not in region_file.FLOATS:
                raise UserError(f"{self.path}: {name} must be one of {region_file.FLOATS}, got {value!r}.")
        if len(self._ids) == 0:
            raise UserError(f"{self.path}: there is no image to write.")
        raise_all(region_file.wrong_ids(self._ids), str(self.path))
        self._plan = region_file.plan_fields(
            len(self._ids), num_regions, feature_dim, num_classes, feature_dtype, probs_dtype
        )
        self._attributes = {
            "schema": SCHEMA, "version": VERSION, "source": source, "order": order, "background": background,
            "vocabulary_sha256": vocabulary_sha256, "weights_sha256": weights_sha256, **(attributes or {}),
        }  # fmt: skip
        self._fd = -1

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            header = (self._continue() if self.partial.exists() else None) or self._begin()
        except (UserError, OSError):
            if self._fd >= 0:
                os.close(self._fd)
            raise
        self._fields = header.fields
        self._num_boxes = header.num_boxes.copy()
        self._pending: list[int] = []
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.sync()
            if kind is None:
                self._finish()
        finally:
            os.close(self._fd)
            self._fd = -1
            self._scratch.unlink(missing_ok=True)
            if not self._resume:
                self.partial.unlink(missing_ok=True)

    def _continue(self) -> Header | None:
        """The header of the unfinished file when it can be resumed; None to start over."""
        self._lock()
        if not self._resume:
            return None
        header = read_header(self.partial, unfinished=True)
        differences = self._differences(header)
        if differences and not self._discard_other:
            begun = f"The unfinished file {self.partial} was begun with other settings ({'; '.join(differences)})"
            raise UserError(f"{begun}. Delete it, or use the settings it was begun with.")
        return None if differences else header

    def _begin(self) -> Header:
        self._check_space()
        with disk_errors(self.path):
            create_layout(self._scratch, self._plan, self._ids, self._attributes)
        os.replace(self._scratch, self.partial)
        trust(self.partial)
        if self._fd >= 0:
            os.close(self._fd)
        self._lock()
        return read_header(self.partial, unfinished=True)

    def _lock(self) -> None:
        """Open the unfinished file for only this writer."""
        self._fd = os.open(self.partial, os.O_RDWR)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.partial} is being written by another process; wait for it or stop it.") from None

    @property
    def written(self) -> np.ndarray:
        """Ids of the images that are written, (n,) int64."""
        return self._ids[self._num_boxes != NOT_WRITTEN]

    def is_written(self, image_id: int) -> bool:
        return bool(self._num_boxes[self._row(image_id)] != NOT_WRITTEN)

    def write(
        self,
        image_id: int,
        width: int,
        height: int,
        boxes_px: np.ndarray,
        features: np.ndarray,
        class_probs: np.ndarray | None = None,
        *,
        source_boxes: int | None = None,
        where: str | None = None,
    ) -> None:
        """Write one image.

        Args:
            width, height: pixels of the original image.
            boxes_px: (k, 4), xyxy pixels, 1 <= k <= K.
            features: (k, D).
            class_probs: (k, C), background first; None exactly when the file has none.
            source_boxes: the number of regions in the source, when some were cut.
            where: file and line of the source, for messages.

        Raises:
            UserError: wrong shapes, no region, numbers that are not finite, inverted boxes, probabilities outside 0..1.
        """
        row, count = self._row(image_id), len(boxes_px)
        where = where or f"Image {image_id} for {self.path}"
        stored = self._checked(width, height, _named(boxes_px, features, class_probs), where)
        if self._num_boxes[row] != NOT_WRITTEN:
            self._mark(row, NOT_WRITTEN)
        for name, value in stored.items():
            padded = np.zeros(self._fields[name].shape[1:], dtype=value.dtype)
            padded[:count] = value
            self._put(name, row, padded)
        self._put("image_size", row, np.array([width, height], dtype=self._fields["image_size"].dtype))
        self._put("source_boxes", row, np.array(count if source_boxes is None else source_boxes, dtype="<i4"))
        self._num_boxes[row] = count
        self._pending.append(row)
        if len(self._pending) >= ROWS_PER_SYNC:
            self.sync()

    def _checked(self, width: int, height: int, values: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
        """The arrays in the file's dtypes; a ``UserError`` names a problem."""
        region_file.check_size(width, height, where)
        if ("class_probs" in values) != (self.num_classes is not None):
            given, written = ("given", "without") if "class_probs" in values else ("missing", "with")
            raise UserError(f"{where}: class probabilities are {given}, but the file is written {written} them.")
        count = len(values["boxes"])
        if not 1 <= count <= self.num_regions:
            raise UserError(f"{where}: it has {count} regions, expected 1 to {self.num_regions}.")
        stored = {}
        for name, value in values.items():
            value, wanted = np.asarray(value), (count, self._fields[name].shape[2])
            if value.dtype.kind not in "fiu":
                raise UserError(f"{where}: {name} is of type {value.dtype}, expected numbers.")
            if value.shape != wanted:
                raise UserError(f"{where}: {name} has shape {value.shape}, expected {wanted}.")
            stored[name] = _finite(value, self._fields[name].dtype, f"{where}: {name}")
        region_file.check_order(stored["boxes"], where)
        if "class_probs" in stored:
            low, high = float(stored["class_probs"].min()), float(stored["class_probs"].max())
            if low < 0 or high > 1.001:
                found = f"class probabilities range from {low:g} to {high:g}, expected 0 to 1"
                raise UserError(f"{where}: {found}; are they scores before the softmax?")
        return stored

    def holds(self, image_id: int, width: int, height: int, *arrays: np.ndarray | None) -> bool:
        """Whether these values were written for an image; arguments as for ``write``."""
        count = int(self._num_boxes[self._row(image_id)])
        return self.image_size(image_id) == (width, height) and all(
            np.array_equal(self._get(name, image_id)[:count], np.asarray(value).astype(self._fields[name].dtype))
            for name, value in _named(*arrays).items()
        )

    def image_size(self, image_id: int) -> tuple[int, int]:
        """Width and height that were written for an image."""
        width, height = self._get("image_size", image_id).tolist()
        return width, height

    def _get(self, name: str, image_id: int) -> np.ndarray:
        field = self._fields[name]
        data = os.pread(self._fd, field.row_bytes, field.offset + self._row(image_id) * field.row_bytes)
        return np.frombuffer(data, dtype=field.dtype).reshape(field.shape[1:])

    def _row(self, image_id: int) -> int:
        try:
            return self._rows[int(image_id)]
        except KeyError:
            raise UserError(f"Image {image_id} is not among the {len(self._ids)} planned for {self.path}.") from None

    def _put(self, name: str, row: int, value: np.ndarray) -> None:
        field = self._fields[name]
        data = memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
        with disk_errors(self.path):
            _write_all(self._fd, data, field.offset + row * field.row_bytes)

    def _mark(self, row: int, count: int) -> None:
        self._num_boxes[row] = count
        self._put("num_boxes", row, np.array(count, dtype="<i4"))

    def sync(self) -> None:
        """Mark the rows so far as written; called every ``ROWS_PER_SYNC`` rows and at the close."""
        if not self._pending:
            return
        if self._resume:
            os.fsync(self._fd)  # first the rows, then their marks
        for row in self._pending:
            self._mark(row, int(self._num_boxes[row]))
        self._pending.clear()

    def _check_space(self) -> None:
        needed = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self._plan.values())
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            sizes = f"{self.path} needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free"
            raise UserError(f"{sizes}. Write it elsewhere, or with float16 features.")

    def _differences(self, header: Header) -> list[str]:
        """The differences between the unfinished file's plan and this one, as phrases."""
        found = {name: (field.shape, field.dtype.name) for name, field in header.fields.items()}
        pairs = (found, self._plan), (header.attributes, self._attributes)
        differences = [phrase for there, now in pairs for phrase in region_file.differing_values(there, now)]
        if not np.array_equal(header.image_ids, self._ids):
            differences.append(f"image ids: {len(header.image_ids)} there, {len(self._ids)} now, not the same ones")
        return differences

    def _finish(self) -> None:
        missing = self._ids[self._num_boxes == NOT_WRITTEN]
        if len(missing) == len(self._ids):
            raise UserError(f"{self.path}: none of its {len(self._ids)} images was written.")
        if len(missing) == 0:
            os.fsync(self._fd)
            self._publish(self.partial)
        elif self._drop_missing:
            self._compact()
        else:
            lost = f"{len(missing)} of {len(self._ids)} images"
            raise UserError(f"{self.path}: {lost} were not written, e.g. {missing[:10].tolist()}.")

    def _compact(self) -> None:
        """Copy the written rows into a file that has no room for the others."""
        keep = np.flatnonzero(self._num_boxes != NOT_WRITTEN)
        plan = {name: ((len(keep), *shape[1:]), dtype) for name, (shape, dtype) in self._plan.items()}
        create_layout(self._scratch, plan, self._ids[keep], self._attributes)
        trust(self._scratch)
        target = read_header(self._scratch, unfinished=True).fields
        fd = os.open(self._scratch, os.O_RDWR)
        try:
            for name, field in self._fields.items():
                size = field.row_bytes
                for new, old in enumerate(keep.tolist()):
                    data = os.pread(self._fd, size, field.offset + old * size)
                    _write_all(fd, memoryview(data), target[name].offset + new * size)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._publish(self._scratch)
        self.partial.unlink()

    def _publish(self, complete: Path) -> None:
        with disk_errors(self.path):
            seal(complete)
        os.replace(complete, self.path)
        sync_folder(self.path)
        trust(self.path)


def _named(boxes_px: np.ndarray, features: np.ndarray, class_probs: np.ndarray | None) -> dict[str, np.ndarray]:
    values = {"boxes": boxes_px, "features": features}
    return values if class_probs is None else {**values, "class_probs": class_probs}


def _write_all(fd: int, data: memoryview, position: int) -> None:
    while len(data):  # a positioned write may be cut short by a signal or a nearly full disk
        done = os.pwrite(fd, data, position)
        data, position = data[done:], position + done


def _finite(value: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """``value`` in the file's type; NaN, infinity and overflow of that type are errors."""
    with np.errstate(over="ignore"):
        stored = value.astype(dtype, copy=False)
    good = np.isfinite(stored)
    if good.all():
        return stored
    row, column = np.argwhere(~good)[0].tolist()
    given = value[row, column]
    reason = f"too large for {dtype.name}; write float32" if np.isfinite(given) else "not a finite number"
    raise UserError(f"{where}[{row}, {column}] is {given}: {reason}.")
