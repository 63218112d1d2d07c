"""The checksums of a prepared data folder: ``checksums.json``, ``{file name: sha256}``, written last.

``xmodaler check`` and each training compare them, so that a file that rots or is exchanged is named. Who changes a file
on purpose removes its line, or the whole file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json, sha256_of, write_json

CHECKSUMS = "checksums.json"
FILES = (
    *(f"{kind}{split}.json" for kind in ("", "captions_", "grounding_") for split in SPLITS),
    *("vocabulary.txt", "lemmas.json"),
)


def write_checksums(folder: str | os.PathLike) -> None:
    """Write the checksums of the annotations, references, vocabulary and lemmas in the folder."""
    folder = Path(folder)
    found = [name for name in FILES if (folder / name).is_file()]
    write_json(folder / CHECKSUMS, {name: sha256_of(folder / name) for name in found}, indent=1)


def changed_files(folder: str | os.PathLike) -> list[str]:
    """One sentence for each file of the folder that has changed since it was written; missing files are left out.

    Raises:
        UserError: ``checksums.json`` cannot be read.
    """
    folder = Path(folder)
    path = folder / CHECKSUMS
    if not path.is_file():
        return []
    stored = read_json(path, "The checksums")
    if not isinstance(stored, dict):
        raise UserError(f"The checksums: {path} must be an object of file names and sha256.")
    problems = []
    for name, digest in stored.items():
        if not isinstance(digest, str) or re.search(r"[/\\]|^\.\.?$", name):
            problems.append(f"{path}: {name!r} is not the name of a file in this folder with its sha256.")
        elif (folder / name).is_file() and sha256_of(folder / name) != digest:
            problems.append(
                f"{folder / name} has changed since it was written (its sha256 is not the one in {CHECKSUMS}). Write "
                f"it again with `xmodaler prepare`; if you changed it on purpose, remove its line from {CHECKSUMS}."
            )
    return problems
