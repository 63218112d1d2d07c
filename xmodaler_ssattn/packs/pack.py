"""One image of a feature pack, and the base class of the readers of packs."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from xmodaler_ssattn.errors import UserError, numbered
from xmodaler_ssattn.ids import id_in_name, image_id_of
from xmodaler_ssattn.packs.region_file import ORDER_OF_SOURCE


class PackError(UserError):
    """One image of a pack that cannot be read; the message names file and line or key."""


@dataclasses.dataclass
class PackedImage:
    """One image of a pack: n regions in the pack's order. What the pack does not have is None.

    Attributes:
        width, height: pixels.
        boxes_px: (n, 4) xyxy pixels of the original image.
        features, class_probs: (n, D), (n, C).
        scores: (n,) the detector's confidence.
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


class Glimpse(NamedTuple):
    """The properties of an input, or of one line of a text, that do not depend on its format.

    Attributes:
        kind: "npz", "npy", "hdf5", "row" (one line of a text) or "prefix".
        names: the keys of an npz file, the data sets of an HDF5 file, or the short values of a row.
    """

    path: Path  # of kind "prefix": the beginning of the names of several files
    kind: str
    names: frozenset[str] = frozenset()
    columns: int = 0  # values in a row


class Pack(abc.ABC):
    """A feature pack on disk; a format is a class derived from this one in a file of ``formats/``.

    Its constructor takes the path of ``--input`` (a list of paths when ``several``), then one path per entry of
    ``options``, by that name.

    Args:
        inputs: the files or folders of the features.

    Attributes:
        name: the name of the format, on the command line and in the file's ``source``.
        summary: the origin of the format, for --help.
        usage: the required inputs, as written on the command line.
        options: further inputs, name -> help; each is required.
        several: whether it takes more than one input.
        background: the position of the background in the format's class probabilities: "first", "last", or "none"
            when there is no such column; None when the format has no class probabilities.
        inputs: as given.
        source, order, vocabulary_sha256, weights_sha256, vocabulary: recorded in the region file.
        problems: sentences about unusable files or lines found by the listing.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    usage: ClassVar[str] = "--input FOLDER"
    options: ClassVar[Mapping[str, str]] = {}
    several: ClassVar[bool] = False
    background: str | None = None
    order = ORDER_OF_SOURCE
    vocabulary_sha256 = weights_sha256 = vocabulary = ""

    def __init__(self, *inputs: str | os.PathLike) -> None:
        self.inputs = [Path(path) for path in inputs]
        self.problems: list[str] = []
        self.source = self.name

    @classmethod
    def fits(cls, glimpse: Glimpse) -> bool:
        """Whether an input may be of this format; only used to name the right ``--format`` after a wrong one."""
        return False

    @abc.abstractmethod
    def ids(self) -> list[int]:
        """All images, in the pack's order, each once; cheap, without decoding features."""

    @abc.abstractmethod
    def place(self, image_id: int) -> str:
        """The file, and line or key, of an image, for messages."""

    @abc.abstractmethod
    def _read(self, image_id: int) -> PackedImage:
        """Read one image; ``read`` turns all exceptions into a ``PackError``."""

    def read(self, image_id: int) -> PackedImage:
        """Read one image; all errors become a ``PackError``."""
        try:
            return self._read(image_id)
        except UserError:
            raise
        except Exception as error:  # one damaged image must not stop the others
            hint = "do you have permission to read it" if isinstance(error, PermissionError) else "is the file damaged"
            what = f"{type(error).__name__}: {error}"
            raise PackError(f"{self.place(image_id)}: it cannot be read ({what}); {hint}?") from error

    def count(self, image_id: int) -> int:
        """The number of regions of an image."""
        return len(self.read(image_id).features)


class NpzFolder(Pack):
    """Base of the formats that are one folder of ``ID.npz`` files."""

    def __init__(self, folder: str | os.PathLike) -> None:
        super().__init__(folder)
        self._files = list_folder(folder, ".npz", self.problems)

    def ids(self) -> list[int]:
        return list(self._files)

    def place(self, image_id: int) -> str:
        return str(self._files[image_id])


def check_scores(scores: np.ndarray, name: str, where: str) -> None:
    """Raise a ``PackError`` unless these are probabilities: percent and scores before the softmax are not."""
    wrong = ~((scores >= 0) & (scores <= 1.001))
    if wrong.any():
        found = f"{name} of region {np.argwhere(wrong)[0, 0]} is {scores[wrong][0]:g}, expected 0 to 1"
        raise PackError(f"{where}: {found}; is it in percent, or before the softmax?")


def check_name(inside: str | int, image_id: int, where: str) -> None:
    """Raise a ``PackError`` when the id in a file differs from the id in its name."""
    try:
        number = id_in_name(inside) if isinstance(inside, str) else image_id_of(inside)
    except UserError as error:
        raise PackError(f"{where}: {error}.") from None
    if number != image_id:
        raise PackError(f"{where}: it contains the image id {number}, its name has {image_id}; one of them is wrong.")


def list_folder(folder: str | os.PathLike, suffix: str, problems: list[str]) -> dict[int, Path]:
    """Image id -> file of a folder or its subfolders with this id and suffix in its name, in ascending order of ids.

    The names are those of ``ids.id_in_name``: ``7.npz``, ``7.jpg.npz``, ``COCO_val2014_000000000007.npz``. Names
    without an id, duplicated ids, and files such as ``8.npz.gz`` without an ``8.npz`` become problems.

    Raises:
        UserError: the folder does not exist or has no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        reason = "is a file, this format has a folder" if folder.exists() else "does not exist"
        raise UserError(f"The folder {folder} {reason}.")
    found: dict[int, Path] = {}
    unread: list[tuple[int, Path]] = []
    for path in _walk(folder, problems):
        stem, dot, more = path.name.lower().rpartition(suffix)
        if not dot:
            continue
        try:
            image_id = id_in_name(path.name[: len(stem)])
        except UserError as error:
            if not more and not is_class_file(path):
                problems.append(f"{path}: the name is not an image id followed by {suffix} ({error})")
            continue
        if more:
            unread.append((image_id, path))
        elif image_id in found:
            problems.append(f"{path}: image {image_id} also has the file {found[image_id]}")
        else:
            found[image_id] = path
    problems += [
        f"{path}: not read, expected a name that ends with {suffix}; unpack it if it is compressed"
        for image_id, path in unread
        if image_id not in found
    ]
    if not found:
        shown = f"\n{numbered(problems)}" if problems else ""
        raise UserError(f"The folder {folder} contains no file named ID{suffix}.{shown}")
    return dict(sorted(found.items()))


def is_class_file(path: Path) -> bool:
    """Whether this is a file of class probabilities next to a file of features, as in VLP."""
    return path.name.lower().endswith("_cls_prob.npy")


def _walk(folder: Path, problems: list[str]) -> Iterator[Path]:
    """Files of a folder and its subfolders, including links, except hidden ones; each folder once, sorted by name."""

    def failed(error: OSError) -> None:
        problems.append(f"{error.filename}: this folder cannot be read ({error.strerror})")

    seen = set()
    for place, below, files in os.walk(folder, onerror=failed, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))
