"""Match the columns of the class probabilities to the object classes of the captions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodaler_ssattn.classes import RESOURCES, class_of_word, read_names
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json

MANIFESTS = ("simulated.json", "sample.json")  # of data sets whose regions were made from the classes themselves
BOTTOM_UP_CLASSES = 1600
LONGEST = 60_000  # bytes of all names; HDF5 has 64 KB for an attribute


def described_names(names: Sequence[str]) -> dict[str, str]:
    """The attributes of a region file for the names of its classes, in the order of the columns after the background.

    ``vocabulary`` is a text with one name per line, if it is not too long; ``vocabulary_sha256`` is its sha256.
    """
    text = "".join(f"{name}\n" for name in names)
    digest = {"vocabulary_sha256": hashlib.sha256(text.encode()).hexdigest()}
    return digest | ({"vocabulary": text} if len(text.encode()) <= LONGEST else {})


def names_in(attributes: Mapping[str, Any]) -> list[str] | None:
    """The names that ``described_names`` wrote into a region file; None when there are none."""
    text = attributes.get("vocabulary")
    return text.splitlines() if isinstance(text, str) and text else None


def region_classes(
    folder: str | os.PathLike,
    num_classes: int | None,
    path: str | os.PathLike | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> list[str] | None:
    """The names of the columns of ``class_probs`` after the background, or None if unknown.

    Those of ``path``, one per line; else those in the region file itself; else those of the data folder's manifest
    (simulated or drawn data); else, for a file of 1 + 1,600 columns, those of the Bottom-Up detector; else None.

    Args:
        num_classes: C, the number of columns with the background; None when the regions have none.
        attributes: of the region file.

    Raises:
        UserError: the list cannot be read, or has more names than there are columns.
    """
    if num_classes is None:
        return None
    manifests = [Path(folder) / name for name in MANIFESTS if (Path(folder) / name).is_file()]
    if path is not None:
        names = read_names(path, "The names of the region classes")
    elif (stored := names_in(attributes or {})) is not None:
        path, names = "The region file", stored
    elif manifests:
        manifest = read_json(manifests[0], "The data folder's manifest")
        path, names = manifests[0], manifest.get("classes") if isinstance(manifest, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}: expected a list 'classes' of names.")
    elif num_classes == 1 + BOTTOM_UP_CLASSES:
        path = RESOURCES / "objects_vocab.txt"
        names = read_names(path, "The names of the region classes")
    else:
        return None
    if len(names) > num_classes - 1:
        raise UserError(
            f"{path} names {len(names)} classes, but the regions have {num_classes} class probabilities with the "
            "background; it is the list of another detector."
        )
    return names


def class_columns(
    names: Sequence[str], classes: Iterable[str], lemma: Callable[[str], str]
) -> dict[str, tuple[int, ...]]:
    """Class of the captions -> the columns that name it; a class that no column names is not in it.

    A column names a class when it, or one of its synonyms (separated by commas), is the class's name, or when it is
    one word and names it by ``class_of_word``.

    >>> class_columns(["TV,television", "men", "red ball"], ["television", "man", "ball"], {"men": "man"}.get)
    {'television': (1,), 'man': (2,)}
    """
    wanted = set(classes)
    found: dict[str, list[int]] = {}
    for column, synonyms in enumerate(names, 1):
        named = set()
        for name in (synonym.strip().lower() for synonym in synonyms.split(",")):
            named.add(name if name in wanted or " " in name else class_of_word(name, wanted, lemma))
        for name in named & wanted:
            found.setdefault(name, []).append(column)
    return {name: tuple(columns) for name, columns in found.items()}
