"""The pictures of a folder, and the image ids of pictures from any source.

An id is the number at the end of a picture's name, see ``ids.py``. For other names there is an id list: a JSON object
name -> id, which is written at the first run and kept from then on.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from xmodaler_ssattn.errors import UserError, numbered, raise_all, visible
from xmodaler_ssattn.files import read_json, write_json
from xmodaler_ssattn.ids import LARGEST_ID, PICTURE_SUFFIXES, UNREADABLE_SUFFIXES, id_in_name


@dataclasses.dataclass(frozen=True)
class FolderPictures:
    """The contents of a folder, a ``sources.PictureSource``; names are relative to it and sorted."""

    where: Path
    names: tuple[str, ...] = ()  # of the pictures
    others: tuple[str, ...] = ()  # of files whose suffix is not a picture's
    subfolders: tuple[str, ...] = ()  # that were not searched

    @property
    def note(self) -> str:
        """The other contents of the folder, which are ignored."""
        parts = [
            f"{len(found):,} {what}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
            for found, what in ((self.others, "other files"), (self.subfolders, "subfolders (see --recursive)"))
            if found
        ]
        return f"ignored: {'; '.join(parts)}" if parts else ""

    def read(self, names: Collection[str]) -> Iterator[tuple[str, Path]]:
        """Each name with its path, in the order given."""
        return ((name, self.where / name) for name in names)


def is_picture_name(name: str) -> bool:
    """By the suffix. Unreadable formats are listed as failed later, not ignored."""
    return name.lower().endswith(PICTURE_SUFFIXES + UNREADABLE_SUFFIXES)


def list_pictures(folder: str | os.PathLike, recursive: bool = False) -> FolderPictures:
    """The pictures of a folder, by suffix; names that begin with a dot are ignored.

    Args:
        recursive: also those in subfolders, except in linked ones.

    Raises:
        UserError: the folder is missing or contains no pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images: {folder} is not a folder; expected a folder of pictures.")
    names: list[str] = []
    others: list[str] = []
    subfolders: list[str] = []
    for place, below, files in os.walk(folder):
        here = Path(place).relative_to(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))
        if not recursive:
            subfolders += below
            below.clear()
        for name in files:
            if not name.startswith("."):
                (names if is_picture_name(name) else others).append((here / name).as_posix())
    if not names:
        hint = f" Its subfolders are searched with --recursive: {', '.join(subfolders[:5])}." if subfolders else ""
        raise UserError(f"--images: {folder} contains no pictures ({', '.join(PICTURE_SUFFIXES)}).{hint}")
    return FolderPictures(folder, tuple(sorted(names)), tuple(sorted(others)), tuple(subfolders))


def ids_from_names(names: Sequence[str]) -> dict[int, str]:
    """image id -> name, by the number in the name, ascending.

    Raises:
        UserError: names have no number or the same number (all are listed).
    """
    found: dict[int, str] = {}
    problems = []
    for name in names:
        try:
            number = id_in_name(name)
        except UserError as error:
            problems.append(str(error))
            continue
        if number in found:
            problems.append(f"{found[number]} and {name} have the same number, {number}")
        else:
            found[number] = name
    if problems:
        raise UserError(
            f"Image ids are taken from the pictures' names, but {len(problems)} of {len(names)} have none:\n"
            f"{numbered(problems)}\nRename them, or give --ids FILE: a JSON object name -> id, which is "
            "written with the numbers 1, 2, 3, ... when it does not exist."
        )
    return dict(sorted(found.items()))


def ids_from_file(names: Sequence[str], path: str | os.PathLike) -> dict[int, str]:
    """image id -> name, by the id list in ``path``, ascending.

    Names that it lacks get the next numbers, in the order of ``names``, and the list is written again. It keeps names
    that are not in ``names``.

    Raises:
        UserError: the file is not a JSON object of names and whole numbers, or an id is duplicated.
    """
    path = Path(path)
    known = read_json(path, "--ids") if path.exists() else {}
    if not isinstance(known, dict):
        raise UserError(f"--ids: {path} contains a {type(known).__name__}, expected an object name -> id.")
    owner: dict[int, str] = {}
    problems = []
    for name, number in known.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= LARGEST_ID:
            problems.append(f"{name} has the id {number!r}, expected a whole number of at least 0")
        elif number in owner:
            problems.append(f"{owner[number]} and {name} have the same id, {number}")
        else:
            owner[number] = name
    raise_all(problems, f"--ids: {path} cannot be used")
    unwritable = [name for name in names if any("\ud800" <= character <= "\udfff" for character in name)]
    raise_all(
        [f"{visible(name)} is not UTF-8" for name in unwritable],
        f"--ids: {path} cannot hold all names of pictures; rename these, or leave out --ids",
    )
    following = max(owner, default=0) + 1
    new = [name for name in names if name not in known]
    if following + len(new) - 1 > LARGEST_ID:
        raise UserError(f"--ids: {path}: after {following - 1} there are no numbers left for {len(new)} new pictures.")
    if new:
        known = {**known, **{name: following + place for place, name in enumerate(new)}}
        write_json(path, known, indent=1)
    return dict(sorted((known[name], name) for name in names))


def take_shard(ids: Sequence[int], shard: str) -> list[int]:
    """Every n-th id from the i-th on, for ``"i/n"`` with 1 <= i <= n.

    Raises:
        UserError: the text is wrong, or the shard has no pictures.
    """
    first, slash, count = shard.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise UserError(f"--shard: expected i/n with 1 <= i <= n, such as 2/4; got {shard!r}.")
    taken = list(ids)[int(first) - 1 :: int(count)]
    if not taken:
        raise UserError(f"--shard {shard}: there are only {len(ids)} pictures, so this shard has none.")
    return taken
