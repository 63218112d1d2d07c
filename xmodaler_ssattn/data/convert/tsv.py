"""Tab-separated packs: one image a line, arrays as base64. Shared by the Caffe and the LXMERT format.

One pass finds where each line begins, so that images can be read in any order and a conversion that
was stopped goes on where it was.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmodaler_ssattn.data.convert.pack import Pack, PackedImage, PackError, image_id_of
from xmodaler_ssattn.errors import UserError

# 100 regions x 2048 float32 are 1.1 MB of base64; a longer line is no line of such a file.
MAX_LINE = 64 << 20


class TsvPack(Pack):
    """Base of the tab-separated formats.

    Args:
        paths: the files; large packs come in several parts.
    """

    columns: ClassVar[Sequence[str]]
    id_column: ClassVar[str]

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        super().__init__()
        self.paths = [Path(path) for path in paths]
        missing = [str(path) for path in self.paths if not path.is_file()]
        folders = [str(path) for path in self.paths if path.is_dir()]
        if folders:
            raise UserError(f"This format has tsv files, but these are folders: {', '.join(folders)}.")
        if missing:
            raise UserError(f"These files do not exist: {', '.join(missing)}.")
        # image id -> (file, line number, first byte, length)
        self._places: dict[int, tuple[int, int, int, int]] = {}
        for number, path in enumerate(self.paths):
            self._index(number, path)

    def _index(self, number: int, path: Path) -> None:
        start = line_number = 0
        with open(path, "rb") as file:
            while line := file.readline(MAX_LINE):
                line_number += 1
                where = f"{path}, line {line_number}"
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    self.problems.append(f"{where}: longer than {MAX_LINE:,} bytes; is it a tsv file?")
                    return
                tabs = line.count(b"\t")
                if line.strip():
                    if tabs != len(self.columns) - 1:
                        self.problems.append(
                            f"{where}: {tabs + 1} columns, expected {len(self.columns)} "
                            f"({', '.join(self.columns)}); is the line cut short?"
                        )
                    else:
                        self._add(number, line_number, start, line, where)
                start += len(line)

    def _add(self, number: int, line_number: int, start: int, line: bytes, where: str) -> None:
        text = line.split(b"\t", self.columns.index(self.id_column) + 1)[self.columns.index(self.id_column)]
        image_id = image_id_of(text[:200].decode("latin-1"))
        if image_id is None:
            self.problems.append(f"{where}: the image id {text[:50]!r} is no integer")
        elif image_id in self._places:
            first = self._places[image_id]
            self.problems.append(f"{where}: image {image_id} stands in {self.paths[first[0]]}, line {first[1]}, too")
        else:
            self._places[image_id] = (number, line_number, start, len(line))

    def ids(self) -> list[int]:
        return list(self._places)

    def row(self, image_id: int) -> tuple[dict[str, bytes], str]:
        """The columns of an image's line as bytes, and the place for messages."""
        number, line_number, start, length = self._places[image_id]
        with open(self.paths[number], "rb") as file:
            file.seek(start)
            values = file.read(length).rstrip(b"\r\n").split(b"\t")
        return dict(zip(self.columns, values)), f"{self.paths[number]}, line {line_number} (image {image_id})"

    def count(self, image_id: int) -> int:
        row, where = self.row(image_id)
        return whole(row, "num_boxes", where)

    def read_arrays(
        self, row: dict[str, bytes], width: str, height: str, image_id: int, where: str, scores: str | None = None
    ) -> PackedImage:
        """Decode what both formats share.

        Args:
            width, height, scores: the names of these columns.
        """
        count = whole(row, "num_boxes", where)
        if count < 1:
            raise PackError(f"{where}: num_boxes is {count}; attention needs at least one region.")
        boxes = decode(row, "boxes", where, count, 4)
        features = decode(row, "features", where, count, None)
        confidence = decode(row, scores, where, count, 1)[:, 0] if scores else None
        return PackedImage(
            image_id, whole(row, width, where), whole(row, height, where), boxes, features, None, confidence, where
        )


def whole(row: dict[str, bytes], column: str, where: str) -> int:
    """The integer of a column."""
    try:
        return int(row[column])
    except ValueError:
        raise PackError(f"{where}: {column} is {row[column][:50]!r}, expected a whole number.") from None


def decode(row: dict[str, bytes], column: str, where: str, count: int, width: int | None) -> np.ndarray:
    """base64 float32 -> (count, width) array; ``width`` None takes what the length gives."""
    try:
        data = base64.b64decode(row[column], validate=True)
    except binascii.Error as error:
        raise PackError(f"{where}: {column} is no base64 text ({error}); is the line cut short?") from error
    unit = 4 * count * (width or 1)
    if not data or len(data) % unit or (width is not None and len(data) != unit):
        wanted = f"{unit} bytes" if width is not None else f"a multiple of {unit} bytes"
        raise PackError(f"{where}: {column} has {len(data)} bytes, expected {wanted} for {count} boxes of float32.")
    return np.frombuffer(data, dtype="<f4").reshape(count, -1)
