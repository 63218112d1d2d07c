"""Which format a file or folder looks like, by its columns, keys and data sets; a wrong ``--format`` is told so."""

from __future__ import annotations

import glob
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py

from xmodaler_ssattn.packs.formats.caffe_tsv import CaffeTsv
from xmodaler_ssattn.packs.formats.lxmert_tsv import LxmertTsv
from xmodaler_ssattn.packs.formats.tsv import MAX_LINE, plain
from xmodaler_ssattn.packs.opening import open_unpacked, parts_of
from xmodaler_ssattn.packs.pack import is_class_file
from xmodaler_ssattn.packs.region_file import SCHEMA

LOOKED_AT = 5  # files of a folder, lines of a file: one damaged one does not decide
_KEYS = {"xmodaler-npz": {"boxes", "features"}, "milvlg-npz": {"x", "bbox"}, "gic": {"feat"}}
_HDF5 = b"\x89HDF\r\n\x1a\n"


def other_format(name: str, inputs: Iterable[str | os.PathLike]) -> str:
    """A sentence that says which format the inputs look like; empty when they may be of format ``name``."""
    for path in inputs:
        found = formats_of(Path(path))
        if found and name not in found:
            return f"{path} looks like {' or '.join(sorted(found))}, not like {name}: give that --format."
    return ""


def formats_of(path: Path) -> set[str]:
    """The formats that a file or folder may be; empty when nothing speaks for one.

    Never raises for a damaged file: the format's own reader names the damage.
    """
    if path.is_dir():
        return _most(map(_of_file, _first_files(path)))
    if path.is_file():
        return _of_file(path)
    # VLP's input is the beginning of the names of its parts.
    return {"vlp"} if any(path.parent.glob(f"{glob.escape(path.name)}_feat*.h5")) else set()


def _first_files(folder: Path) -> Iterator[Path]:
    files = (
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in sorted(names)
        if name.lower().endswith((".npz", ".npy", ".h5", ".hdf5", ".tsv"))
    )
    for _, path in zip(range(LOOKED_AT), files):
        yield path


def _of_file(path: Path) -> set[str]:
    try:
        with open(path, "rb") as file:
            start = file.read(8)
        if start == _HDF5:
            return _of_hdf5(path)
        if path.suffix.lower() == ".npy":
            return {"vlp"} if is_class_file(path) else {"vlp", "gvd"}
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                keys = {name.removesuffix(".npy") for name in archive.namelist()}
            return {name for name, wanted in _KEYS.items() if wanted <= keys}
        return _of_lines(path)
    except Exception:  # damaged, and a guess is a courtesy
        return set()


def _of_hdf5(path: Path) -> set[str]:
    with h5py.File(path, "r", locking=False) as file:
        if file.attrs.get("schema") == SCHEMA:
            return {"regions"}
        if "dets_labels" in file:
            return {"gvd"}
        return {"vlp"} if "_feat" in path.name else set()


def _of_lines(path: Path) -> set[str]:
    found = []
    with open_unpacked(parts_of(path)[0]) as file:
        for line in (file.readline(MAX_LINE) for _ in range(LOOKED_AT)):
            values = line.rstrip(b"\r\n").split(b"\t")
            names = {plain(value).decode("latin-1") for value in values if len(value) < 100}
            found.append(
                {
                    reader.name
                    for reader in (CaffeTsv, LxmertTsv)
                    if len(values) == len(reader.columns) or set(reader.columns) <= names
                }
            )
    return _most(found)


def _most(found: Iterable[set[str]]) -> set[str]:
    """The formats that most of the files or lines speak for."""
    counts = Counter(name for names in found for name in names)
    return {name for name, count in counts.items() if count == max(counts.values())}
