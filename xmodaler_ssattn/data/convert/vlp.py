"""Vision-Language Pre-training (VLP) on Flickr30k: npy folders, or the h5 parts of its larger sets."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

from xmodaler_ssattn.data.convert.pack import Pack, PackedImage, PackError, image_id_of, list_folder
from xmodaler_ssattn.data.convert.safe_arrays import read_npy
from xmodaler_ssattn.data.region_file import open_hdf5
from xmodaler_ssattn.errors import UserError


class VisionLanguagePretraining(Pack):
    """Features (100, D), class probabilities (100, 1601) with the background first, boxes (100, 6).

    Boxes are x1, y1, x2, y2, class, score (the last column). X-101-FPN, no image sizes (VLP guesses them
    from the largest coordinate; here real ones must be given).

    Args:
        features: a folder of ``ID.npy`` and ``ID_cls_prob.npy``; or the prefix of ``PREFIX_feat###.h5`` and
            ``PREFIX_cls###.h5``, where ### are the last digits of the ids inside.
        boxes: the h5 file with one data set an id, or its prefix, ``PREFIX_bbox###.h5``.
    """

    name = "vlp"
    background = "first"

    def __init__(self, features: str | os.PathLike, boxes: str | os.PathLike) -> None:
        super().__init__()
        features = Path(features)
        self._files: dict[int, Path] = {}
        self._features: dict[int, tuple[Path, Path, str]] = {}
        if features.is_dir():
            self._files = list_folder(features, ".npy", self.problems)
        else:
            self._features = self._index_parts(features)
        box_files = [Path(boxes)] if Path(boxes).is_file() else _parts(Path(boxes), "_bbox")
        self._boxes: dict[int, tuple[Path, str]] = {}
        for path in box_files:
            self._boxes.update({image_id: (path, key) for image_id, key in _keys(path)})
        known = self._files or self._features
        self.problems += [
            f"image {image_id} has features but no boxes" for image_id in known if image_id not in self._boxes
        ]
        self._open: dict[Path, h5py.File] = {}

    def _index_parts(self, prefix: Path) -> dict[int, tuple[Path, Path, str]]:
        found = {}
        for path in _parts(prefix, "_feat"):
            classes = path.with_name(path.name.replace("_feat", "_cls"))
            found.update({image_id: (path, classes, key) for image_id, key in _keys(path)})
        return found

    def ids(self) -> list[int]:
        return [image_id for image_id in self._files or self._features if image_id in self._boxes]

    def read(self, image_id: int) -> PackedImage:
        if self._files:
            path = self._files[image_id]
            features = read_npy(path)
            classes = path.with_name(f"{image_id}_cls_prob.npy")
            probs = read_npy(classes) if classes.exists() else None
        else:
            path, classes, key = self._features[image_id]
            features = self._dataset(path, key)
            probs = self._dataset(classes, key) if classes.exists() else None
        box_path, key = self._boxes[image_id]
        boxes = self._dataset(box_path, key)
        where = f"{path} and {box_path}, data set {key!r}"
        if boxes.ndim != 2 or boxes.shape[1] < 5:
            raise PackError(f"{where}: boxes of shape {boxes.shape}, expected (n, 6) with the score last.")
        return PackedImage(image_id, None, None, boxes[:, :4], features, probs, boxes[:, -1], where)

    def _dataset(self, path: Path, key: str) -> np.ndarray:
        if path not in self._open:
            self._open[path] = open_hdf5(path, "VLP's pack")
        if key not in self._open[path]:
            raise PackError(f"{path}: there is no data set {key!r}.")
        return self._open[path][key][...]


def _keys(path: Path) -> list[tuple[int, str]]:
    """Image id and name of every data set of a part."""
    with open_hdf5(path, "VLP's pack") as file:
        return [(image_id, key) for key in file if (image_id := image_id_of(key)) is not None]


def _parts(prefix: Path, kind: str) -> list[Path]:
    parts = sorted(prefix.parent.glob(f"{prefix.name}{kind}*.h5"))
    if not parts:
        raise UserError(f"There is neither {prefix} nor any {prefix}{kind}###.h5.")
    return parts
