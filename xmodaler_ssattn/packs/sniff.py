"""Guess the format of a file or folder, to name the right one in the message about a wrong ``--format``."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import h5py

from xmodaler_ssattn.packs.formats import all_formats
from xmodaler_ssattn.packs.formats.tsv import MAX_LINE, plain
from xmodaler_ssattn.packs.opening import open_unpacked, parts_of
from xmodaler_ssattn.packs.pack import Glimpse

LOOKED_AT = 5  # files of a folder, lines of a file: one damaged one does not decide
_SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".tsv")
_HDF5 = b"\x89HDF\r\n\x1a\n"


def other_format(name: str, inputs: Iterable[str | os.PathLike]) -> str:
    """A sentence with the likely format of the inputs; empty when they may be of format ``name``."""
    for path in inputs:
        found = formats_of(Path(path))
        if found and name not in found:
            return f"{path} looks like {' or '.join(sorted(found))}, not like {name}: give that --format."
    return ""


def formats_of(path: Path) -> set[str]:
    """The possible formats of most files of a folder, or lines of a text; empty when none fits.

    A damaged file fits none; the format's own reader reports the damage.
    """
    readers = all_formats().values()
    counts = Counter(reader.name for glimpse in _glimpses(path) for reader in readers if reader.fits(glimpse))
    return {name for name, count in counts.items() if count == max(counts.values())}


def _glimpses(path: Path) -> Iterator[Glimpse]:
    if not path.exists():
        yield Glimpse(path, "prefix")
        return
    files = (Path(place, name) for place, _, names in os.walk(path) for name in sorted(names))
    found = (file for file in files if file.name.lower().endswith(_SUFFIXES))
    for file in islice(found, LOOKED_AT) if path.is_dir() else [path]:
        with contextlib.suppress(Exception):  # damaged; a guess is a courtesy
            yield from _of_file(file)


def _of_file(path: Path) -> Iterator[Glimpse]:
    with open(path, "rb") as file:
        start = file.read(len(_HDF5))
    if start == _HDF5:
        with h5py.File(path, "r", locking=False) as file:
            yield Glimpse(path, "hdf5", frozenset(file))
    elif path.suffix.lower() == ".npy":
        yield Glimpse(path, "npy")
    elif path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield Glimpse(path, "npz", frozenset(name.removesuffix(".npy") for name in archive.namelist()))
    else:
        with open_unpacked(parts_of(path)[0]) as file:
            for line in (file.readline(MAX_LINE) for _ in range(LOOKED_AT)):
                values = line.rstrip(b"\r\n").split(b"\t")
                names = frozenset(plain(value).decode("latin-1") for value in values if len(value) < 100)
                yield Glimpse(path, "row", names, len(values))
