"""What a feature pack gives for one image, and what every reader of a pack has in common."""

from __future__ import annotations

import abc
import dataclasses
import os
import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from xmodaler_ssattn.data.region_file import ORDER_OF_SOURCE
from xmodaler_ssattn.errors import UserError

_DIGITS = re.compile(r"(\d+)$")


class PackError(UserError):
    """One image of a pack that cannot be read; the message names file and line or key."""


@dataclasses.dataclass
class PackedImage:
    """One image as the pack has it: n regions in the pack's order.

    Attributes:
        width, height: pixels; None when the pack does not say.
        boxes_px: (n, 4) xyxy pixels of the original image.
        features: (n, D).
        class_probs: (n, C), or None.
        scores: (n,) the detector's confidence, when the pack has one, or None.
        where: file and line, for messages.
    """

    image_id: int
    width: int | None
    height: int | None
    boxes_px: np.ndarray
    features: np.ndarray
    class_probs: np.ndarray | None
    scores: np.ndarray | None
    where: str


class Pack(abc.ABC):
    """A feature pack on disk.

    Attributes:
        name: of the format, on the command line and in the file's ``source``.
        background: where the format's class probabilities have the background: "first", "last", or "none"
            when they have no such column; None when the format has no class probabilities.
        source, order, vocabulary_sha256, weights_sha256: recorded in the region file.
        problems: what the listing found to be unusable, as sentences with file and line.
    """

    name: ClassVar[str]
    background: str | None = None

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.source = self.name
        self.order = ORDER_OF_SOURCE
        self.vocabulary_sha256 = self.weights_sha256 = ""

    @abc.abstractmethod
    def ids(self) -> list[int]:
        """All images, in the pack's order, each once; cheap, without decoding features."""

    @abc.abstractmethod
    def read(self, image_id: int) -> PackedImage:
        """One image; a ``PackError`` names what is wrong with it."""

    def count(self, image_id: int) -> int:
        """How many regions an image has."""
        return len(self.read(image_id).features)


def image_id_of(text: str) -> int | None:
    """The number at the end of a name, as in ``1000092795``, ``COCO_val2014_000000391895`` or ``12.jpg``; else None."""
    match = _DIGITS.search(text.strip().removesuffix(".jpg"))
    return int(match.group(1)) if match else None


def list_folder(folder: str | os.PathLike, suffix: str, problems: list[str]) -> dict[int, Path]:
    """Files ``ID + suffix`` of a folder by id, in ascending order of ids; other files with it become problems.

    Raises:
        UserError: the folder does not exist or holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        reason = "is a file, this format has a folder" if folder.exists() else "does not exist"
        raise UserError(f"The folder {folder} {reason}.")
    found: dict[int, Path] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.name.endswith(suffix):
            continue
        stem = entry.name[: -len(suffix)]
        if stem.isdecimal():
            found[int(stem)] = Path(entry.path)
        elif suffix != ".npy" or not stem.endswith("_cls_prob"):
            problems.append(f"{entry.path}: the name is no image id followed by {suffix}")
    if not found:
        raise UserError(f"The folder {folder} holds no file named ID{suffix}.")
    return dict(sorted(found.items()))
