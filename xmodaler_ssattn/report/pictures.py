"""Find pictures by image id, and add them to a page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path
from xmodaler_ssattn.ids import id_in_name

# Formats that both browsers and Pillow can show.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def find_pictures(folder: str | os.PathLike, image_ids: Iterable[int]) -> dict[int, Path]:
    """image id -> ``folder/{id}.jpg``, or another suffix of ``SUFFIXES``; ids without a picture are left out.

    Names like ``COCO_val2014_000000000139.jpg`` (see ``ids.py``) are used when no picture is named by the plain id.

    Raises:
        UserError: ``folder`` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images: {folder} is not a folder; expected a folder of pictures named by image id.")
    plain: dict[int, Path] = {}
    padded: dict[int, Path] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in SUFFIXES:
            continue
        with contextlib.suppress(UserError):  # a picture of something else
            number = id_in_name(name)
            (plain if stem == str(number) else padded).setdefault(number, folder / name)
    return {i: found for i in image_ids if (found := plain.get(i) or padded.get(i)) is not None}


def place_picture(picture: Path, page: Path, *, refer: bool = False) -> str:
    """Make a picture reachable from the page, in ``page/pictures`` or, with ``refer``, where it is; its address."""
    if refer:
        return picture.resolve().as_uri()
    link_or_copy(picture, page / "pictures" / picture.name)
    return f"pictures/{quote(picture.name)}"


def link_or_copy(picture: Path, target: Path) -> None:
    """Make a picture appear at ``target``: a hard link, or a copy if the file system cannot link."""
    if not (target.exists() and os.path.samefile(picture, target)):
        with atomic_path(target) as temporary:
            temporary.unlink()
            try:
                os.link(picture.resolve(), temporary)
            except OSError:
                shutil.copyfile(picture, temporary)
