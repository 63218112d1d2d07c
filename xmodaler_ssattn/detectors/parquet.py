"""Pictures in parquet files, in the layout of the Hugging Face copies of Flickr30k.

Those have a column ``image``, a struct of ``bytes`` (a picture file) and ``path``, and a column ``filename``
(1000092795.jpg), whose number is the image id. Their ``img_id`` is only a running number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xmodaler_ssattn.detectors.pictures import MAX_PICTURE_BYTES, PackedPicture
from xmodaler_ssattn.errors import UserError, did_you_mean, raise_all, require

MAX_ROWS = 5_000_000
IMAGE = "image"
NAMES = ("filename", "file_name")  # columns that are searched for the names, before the path in the image column
BUFFER = 1 << 20  # bytes read at once, instead of a whole column of a row group


class ParquetPictures:
    """See ``sources.PictureSource``. Of a table, only one page of the image column is in memory.

    A page is at most a row group: in files written by the library ``datasets`` 100 pictures, with pandas 1,024. Rows
    that repeat the name of an earlier row are not read; some copies have one row per caption.

    Args:
        where: the file or folder, for messages.
        files: the shards, in the order of reading.
        id_column: the column whose values, file names or numbers, give the image ids by the rule of ``ids.py``;
            default: ``filename``, else ``file_name``, else the path in the image column.

    Raises:
        UserError: pyarrow is missing, a file is damaged, a column is missing or of another type, a row has no name.
    """

    def __init__(self, where: Path, files: Sequence[Path], id_column: str | None = None) -> None:
        self._arrow = require("pyarrow", "parquet", f"--images: reading {where}")
        self.where, self._files = where, list(files)
        rows = 0
        first: dict[str, str] = {}
        problems: list[str] = []
        listed = ""
        columns: dict[tuple[str, str], Path] = {}
        for path in self._files:
            with self._open(path) as file:
                if file.metadata.num_rows > MAX_ROWS:
                    raise UserError(f"--images: {path} claims {file.metadata.num_rows:,} rows; at most {MAX_ROWS:,}.")
                image, naming = self._columns(path, file.schema_arrow, id_column)
                columns.setdefault((image, naming), path)
                listed = _listed(file.schema_arrow)
                for number, name in enumerate(_values(file, naming)):
                    rows += 1
                    if isinstance(name, (str, int)) and not isinstance(name, bool) and str(name):
                        first.setdefault(str(name), f"{path}, row {number}")
                    else:
                        problems.append(f"{path}, row {number}: {naming} is {name!r}, expected a file name or a number")
        raise_all(problems, f"--images: {where} cannot be used; --id-column NAME takes another column of {listed}")
        if len(columns) > 1:
            described = "; ".join(f"{image} and {naming} in {path}" for (image, naming), path in columns.items())
            raise UserError(
                f"--images: the files in {where} have different columns of pictures and names: {described}."
            )
        if not rows:
            raise UserError(f"--images: {where} has no rows.")
        ((self._image, self._naming),) = columns
        self.names = tuple(sorted(first))
        self.note = f"ids from the column {self._naming}"
        if rows > len(first):
            self.note += f"; ignored: {rows - len(first):,} rows that repeat the name of an earlier row"

    def read(self, names: Collection[str]) -> Iterator[tuple[str, PackedPicture]]:
        """See ``sources.PictureSource``."""
        left = set(names)
        for path in self._files:
            with self._open(path) as file:
                named = list(map(str, _values(file, self._naming)))
                start = 0
                for group in range(file.num_row_groups):
                    count = file.metadata.row_group(group).num_rows
                    rows = {}
                    for row in range(start, start + count):
                        if named[row] in left:
                            left.remove(named[row])
                            rows[row] = named[row]
                    if rows:
                        yield from self._read_group(path, file, group, start, rows)
                    start += count

    def _read_group(
        self, path: Path, file: Any, group: int, start: int, rows: Mapping[int, str]
    ) -> Iterator[tuple[str, PackedPicture]]:
        struct = self._arrow.types.is_struct(file.schema_arrow.field(self._image).type)
        column = f"{self._image}.bytes" if struct else self._image
        batches = file.iter_batches(batch_size=1, row_groups=[group], columns=[column], use_threads=False)
        for number, batch in enumerate(batches, start):
            if number not in rows:
                continue
            name = rows[number]
            where = f"{path}, row {number} ({name})"
            value = batch.column(0)
            value = (value.field("bytes") if struct else value)[0]
            size = value.as_buffer().size if value.is_valid else 0
            if not size:
                yield name, PackedPicture(where, UserError(f"{where}: it has no bytes of a picture."))
            elif size > MAX_PICTURE_BYTES:
                reason = f"{where}: it has {size:,} bytes, more than the {MAX_PICTURE_BYTES:,} allowed."
                yield name, PackedPicture(where, UserError(reason))
            else:
                yield name, PackedPicture(where, value.as_py())

    def _columns(self, path: Path, schema: Any, id_column: str | None) -> tuple[str, str]:
        """The column of the pictures, and the column or field of their names."""
        types = self._arrow.types
        structs = {
            field.name: field.type for field in schema
            if types.is_struct(field.type) and (at := field.type.get_field_index("bytes")) >= 0
            and _binary(types, field.type.field(at).type)
        }  # fmt: skip
        found = [field.name for field in schema if field.name in structs or _binary(types, field.type)]
        image = IMAGE if IMAGE in found else found[0] if len(found) == 1 else None
        listed = _listed(schema)
        if image is None:
            raise UserError(
                f"--images: {path}: expected a column {IMAGE!r} with the bytes of picture files (binary, or a struct "
                f"with a field 'bytes'), or a single column of this type under another name. Its columns: {listed}."
            )
        if id_column is not None:
            if id_column not in schema.names:
                near = did_you_mean(id_column, schema.names)
                raise UserError(f"--id-column: {path} has no column {id_column!r}{near}. Its columns: {listed}.")
            naming = id_column
        else:
            has_path = image in structs and structs[image].get_field_index("path") >= 0
            naming = next((name for name in NAMES if name in schema.names), f"{image}.path" if has_path else "")
        if not naming:
            raise UserError(
                f"--images: {path} has no column {' or '.join(NAMES)}; give --id-column NAME, the column with the "
                f"file names or numbers of the pictures. Its columns: {listed}."
            )
        return image, naming

    @contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        """A file, with one error for everything that pyarrow raises for a damaged one."""
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
                yield file
        except UserError:
            raise
        except (self._arrow.ArrowException, OSError, ValueError, KeyError, IndexError, NotImplementedError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"--images: {path} is not a parquet file, or damaged ({reason}).") from error


def _values(file: Any, column: str) -> Iterator[Any]:
    """The values of a column, or of a field of a struct (``image.path``)."""
    for batch in file.iter_batches(batch_size=1024, columns=[column], use_threads=False):
        values = batch.column(0)
        yield from (values.field(0) if column not in file.schema_arrow.names else values).to_pylist()


def _binary(types: Any, kind: Any) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind)


def _listed(schema: Any) -> str:
    """The columns with their types, for messages."""
    kinds = {field.name: str(field.type) for field in schema}
    return ", ".join(f"{name} ({kind if len(kind) <= 60 else kind[:57] + '...'})" for name, kind in kinds.items())
