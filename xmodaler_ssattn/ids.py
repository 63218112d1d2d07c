"""The rule for image ids in pictures, packs, annotations and lists.

An image id is a whole number from 0 to 2**63 - 1, written with the digits 0 to 9; leading zeros are ignored. The
name of a file gives an id when its stem is such a number, or ends with one after an underscore and the parts before
it are words: ``COCO_val2014_000000000139.jpg`` is image 139, but ``img_12_3.jpg`` may be image 3 or 12 and is refused.
Nothing else is an id: not ``-7``, ``1e9``, ``12.0``, ``True`` and ``²`` are not ids.
"""

from __future__ import annotations

import numbers
import os
import re
from typing import Any

from xmodaler_ssattn.errors import UserError

LARGEST_ID = 2**63 - 1  # the largest int64
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".mpo")
# Suffixes of pictures that are not read but recognised as pictures.
UNREADABLE_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf")
_SUFFIXES = frozenset((*PICTURE_SUFFIXES, *UNREADABLE_SUFFIXES, ".npz", ".npy", ".txt", ".xml"))
_DIGITS = re.compile(r"[0-9]+")
_PART = re.compile(r"[^\W_]+")


def image_id_of(value: Any) -> int:
    """The image id of an integer of Python or numpy, or of a text of digits; spaces around it are ignored.

    Raises:
        UserError: it is something else; the message is a phrase about the value, to follow the place.

    >>> image_id_of("000000000139"), image_id_of(139)
    (139, 139)
    >>> image_id_of("1e9")
    Traceback (most recent call last):
    xmodaler_ssattn.errors.UserError: the image id '1e9' is not an integer from 0 to 2**63 - 1
    """
    text = str(value).strip() if isinstance(value, (str, numbers.Integral)) and not isinstance(value, bool) else ""
    digits = text.lstrip("0") or "0"
    # The length is checked first: int() refuses thousands of digits with its own error.
    if _DIGITS.fullmatch(text) and len(digits) <= len(str(LARGEST_ID)) and int(digits) <= LARGEST_ID:
        return int(digits)
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise UserError(f"the image id {shown} is not an integer from 0 to 2**63 - 1")


def plain_id(value: Any) -> int | None:
    """``image_id_of``, or None where that raises.

    >>> [plain_id(value) for value in ("0007", 7, "-7", "1e9", 7.0, True)]
    [7, 7, None, None, None, None]
    """
    try:
        return image_id_of(value)
    except UserError:
        return None


def id_key(value: Any) -> str:
    """An image id as the key of a JSON object, without leading zeros; other texts are unchanged.

    >>> [id_key(value) for value in ("0007", 7, "img_7")]
    ['7', '7', 'img_7']
    """
    number = plain_id(value)
    return str(value if number is None else number)


def id_in_name(name: str | os.PathLike) -> int:
    """The image id in a file name; folders and known suffixes (``.jpg``, ``.jpg.npz``) are ignored.

    Raises:
        UserError: the name contains no id, or several numbers; the message is a phrase about the name.

    >>> id_in_name("val2014/COCO_val2014_000000000139.jpg.npz")
    139
    >>> id_in_name("img_12_3.jpg")
    Traceback (most recent call last):
    xmodaler_ssattn.errors.UserError: img_12_3.jpg contains several numbers, so its image id is not clear
    """
    name = os.fspath(name)
    stem = re.split(r"[/\\]", name)[-1].strip()
    while os.path.splitext(stem)[1].lower() in _SUFFIXES:
        stem = os.path.splitext(stem)[0]
    before, _, digits = stem.rpartition("_")
    if not _DIGITS.fullmatch(digits):
        raise UserError(f"{name} does not end with a number")
    if not all(part[0].isalpha() for part in _PART.findall(before)):
        raise UserError(f"{name} contains several numbers, so its image id is not clear")
    try:
        return image_id_of(digits)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
