"""Tab-separated packs: one image per line, arrays as base64. Shared by the Caffe and the LXMERT format.

One pass finds where each line begins, so that images can be read in any order and a stopped conversion can be
resumed. Files compressed with gzip, bzip2, xz or zip are read directly. From the text ``b'...'``, which Python 3 writes
for bytes, the content is used; a header line names the columns and may have them in another order.

base64 does not contain the type of the numbers, so they are checked: bytes of another type or order are refused.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Sequence
from typing import BinaryIO, ClassVar

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.ids import id_in_name
from xmodaler_ssattn.packs.opening import open_unpacked, parts_of
from xmodaler_ssattn.packs.pack import Glimpse, Pack, PackedImage, PackError
from xmodaler_ssattn.packs.safe_arrays import unlike_measurements

# 100 regions x 2048 float32 are 1.1 MB of base64; a longer line is not of such a file.
MAX_LINE = 64 << 20


class TsvPack(Pack):
    """Base of the tab-separated formats; large packs come in several files."""

    usage = "--input a.tsv [b.tsv ...]"
    several = True
    columns: ClassVar[Sequence[str]]
    id_column: ClassVar[str]
    _open: tuple[int, BinaryIO] | None = None

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        super().__init__(*paths)
        if folders := [str(path) for path in self.inputs if path.is_dir()]:
            raise UserError(f"This format has tsv files, but these are folders: {', '.join(folders)}.")
        if missing := [str(path) for path in self.inputs if not path.exists()]:
            raise UserError(f"These files do not exist: {', '.join(missing)}.")
        self._parts = [part for path in self.inputs for part in parts_of(path)]
        self._names = [tuple(self.columns)] * len(self._parts)  # of the columns, in each part's order
        # image id -> (part, line number, first byte, length)
        self._places: dict[int, tuple[int, int, int, int]] = {}
        for number in range(len(self._parts)):
            self._index(number)

    @classmethod
    def fits(cls, glimpse: Glimpse) -> bool:
        same = glimpse.columns == len(cls.columns) or set(cls.columns) <= glimpse.names
        return glimpse.kind == "row" and same

    def _index(self, number: int) -> None:
        start = line_number = 0
        part, before = self._parts[number], len(self._places) + len(self.problems)
        try:
            with open_unpacked(part) as file:
                while line := file.readline(MAX_LINE):
                    line_number += 1
                    where = f"{part}, line {line_number}"
                    length = len(line)
                    if length == MAX_LINE and not line.endswith(b"\n"):
                        self.problems.append(
                            f"{where}: longer than {MAX_LINE:,} bytes, begins with {line[:40]!r}; is it a tsv file?"
                        )
                        while line and not line.endswith(b"\n"):  # the lines after it may be good
                            line = file.readline(MAX_LINE)
                            length += len(line)
                    elif line.strip() and not (line_number == 1 and self._is_header(number, line)):
                        self._add(number, line_number, start, line, where)
                    start += length
        except UserError as error:
            self.problems.append(str(error))
        except Exception as error:  # a damaged compressed file raises many types
            self.problems.append(
                f"{part}: it cannot be read beyond line {line_number} ({type(error).__name__}: {error}); "
                "is it cut short?"
            )
        if len(self._places) + len(self.problems) == before:
            self.problems.append(f"{part}: it contains no images")

    def _is_header(self, number: int, line: bytes) -> bool:
        names = tuple(plain(name).decode("latin-1") for name in line.rstrip(b"\r\n").split(b"\t"))
        if not set(self.columns) <= set(names):
            return False
        self._names[number] = names
        return True

    def _add(self, number: int, line_number: int, start: int, line: bytes, where: str) -> None:
        names, columns = self._names[number], line.count(b"\t") + 1
        if columns != len(names):
            why = "is the line cut short?"
            if b"\r" in line.rstrip():
                why = "it contains carriage returns: end the lines with line feeds."
            self.problems.append(f"{where}: {columns} columns, expected {len(names)} ({', '.join(names)}); {why}")
            return
        column = names.index(self.id_column)
        text = plain(line.split(b"\t", column + 1)[column])
        try:
            image_id = id_in_name(text[:200].decode("latin-1"))
        except UserError as error:
            self.problems.append(f"{where}: the image id {text[:50]!r} is not an integer ({error})")
            return
        if image_id in self._places:
            first = self._places[image_id]
            self.problems.append(f"{where}: image {image_id} is duplicated: {self._parts[first[0]]}, line {first[1]}")
        else:
            self._places[image_id] = (number, line_number, start, len(line))

    def ids(self) -> list[int]:
        return list(self._places)

    def place(self, image_id: int) -> str:
        number, line_number, _, _ = self._places[image_id]
        return f"{self._parts[number]}, line {line_number} (image {image_id})"

    def row(self, image_id: int) -> dict[str, bytes]:
        """The columns of an image's line."""
        number, _, start, length = self._places[image_id]
        # One part is kept open: opening a compressed file again would unpack it from the beginning.
        if self._open is None or self._open[0] != number:
            self.close()
            self._open = number, open_unpacked(self._parts[number])
        file = self._open[1]
        file.seek(start)
        values = file.read(length).split(b"\t")
        return dict(zip(self._names[number], map(plain, values), strict=True))

    def close(self) -> None:
        """Close the part that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def __del__(self) -> None:
        self.close()

    def count(self, image_id: int) -> int:
        return whole(self.row(image_id), "num_boxes", self.place(image_id))

    def read_arrays(
        self, row: dict[str, bytes], width: str, height: str, image_id: int, scores: str | None = None
    ) -> PackedImage:
        """Decode what both formats share; ``width``, ``height`` and ``scores`` are names of columns."""
        where = self.place(image_id)
        count = whole(row, "num_boxes", where)
        if count < 1:
            raise PackError(f"{where}: num_boxes is {count}; attention needs at least one region.")
        boxes = decode(row, "boxes", where, count, 4)
        features = decode(row, "features", where, count, None)
        confidence = decode(row, scores, where, count, 1)[:, 0] if scores else None
        size = whole(row, width, where), whole(row, height, where)
        return PackedImage(image_id, *size, boxes, features, None, confidence, where)


def plain(value: bytes) -> bytes:
    """Without the ``b'...'`` that Python 3 writes around bytes, a byte order mark, and spaces."""
    value = value.removeprefix(b"\xef\xbb\xbf").strip()
    quoted = value[:2] in (b"b'", b'b"') and value[-1:] == value[1:2] and len(value) > 2
    return value[2:-1] if quoted else value


def whole(row: dict[str, bytes], column: str, where: str) -> int:
    """The integer of a column."""
    if not re.fullmatch(rb"[0-9]{1,18}", row[column]):
        raise PackError(f"{where}: {column} is {row[column][:50]!r}, expected a whole number.")
    return int(row[column])


def decode(
    row: dict[str, bytes], column: str, where: str, count: int, width: int | None, dtype: str = "float32"
) -> np.ndarray:
    """base64 of "float32" or "int64" in little-endian order -> (count, width); ``width`` None: by the length.

    Raises:
        PackError: the text is not base64, has the wrong number of bytes, or the numbers are not of this type.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    try:
        data = base64.b64decode(row[column], validate=True)
    except binascii.Error as error:
        raise PackError(f"{where}: {column} is not base64 text ({error}); is the line cut short?") from error
    unit = kind.itemsize * count * (width or 1)
    if not data or len(data) % unit or (width is not None and len(data) != unit):
        wanted = f"{unit} bytes" if width is not None else f"a multiple of {unit} bytes"
        raise PackError(f"{where}: {column} has {len(data)} bytes, expected {wanted} for {count} boxes of {dtype}.")
    values = np.frombuffer(data, dtype=kind).reshape(count, -1)
    other = _unlike_float32(values, width is None) if dtype == "float32" else _unlike_int64(values)
    if other:
        raise PackError(f"{where}: {column} does not hold {dtype} numbers in little-endian order: {other}")
    return values


_FLOAT16_LARGEST = 16  # larger float16 numbers, read as float32, are larger than any measurement
_GLANCE = 512
_ENOUGH, _ENOUGH_SIGNED = 6, 17  # numbers after which chance is ruled out, see below


def _unlike_float32(values: np.ndarray, any_width: bool) -> str | None:
    """The reason why these bytes are not float32 numbers, or None.

    Bytes of another order or type give huge and tiny values. Two cases can look ordinary, but only if the width is not
    fixed by the byte count (``any_width``):

    * float16: the lower half of each word is itself an ordinary float16 number. In float32 it is the end of the
      mantissa, that is, arbitrary bits: these have no sign and the exponent of an ordinary number with probability
      0.3, or 0.6 where signs occur; and they are all 0 when the numbers are round.
    * float64 of round numbers: every other word is 0.
    """
    other = unlike_measurements(values)
    if other or not any_width:
        return other
    halves = values.reshape(-1).view("<f2").reshape(-1, 2)
    for part in (halves[:_GLANCE], halves):  # half precision is slow, and the first numbers nearly always decide
        low, high = part.T.astype(np.float32)
        ordinary = bool((np.abs([low, high]) < _FLOAT16_LARGEST).all())
        if not ordinary:
            break
    signed = bool(np.signbit(high).any())
    ordinary = ordinary and (signed or not np.signbit(low).any())
    enough = np.count_nonzero(low) >= (_ENOUGH_SIGNED if signed else _ENOUGH)
    if ordinary and enough and 4 * np.count_nonzero(low) >= np.count_nonzero(high):
        return "they look like float16."
    words = values.reshape(-1)
    if not words[::2].any() and np.count_nonzero(words[1::2]) >= _ENOUGH:
        return "every other one is 0, so they look like float64."
    return None


def _unlike_int64(values: np.ndarray) -> str | None:
    """The reason why these are not class indices, or None."""
    wrong = (values < 0) | (values >= 1 << 31)
    return f"one is {values[wrong][0]}, not an index of a class." if wrong.any() else None
