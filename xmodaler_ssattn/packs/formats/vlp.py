"""Vision-Language Pre-training (VLP) on Flickr30k: npy folders, or the h5 parts of its larger sets."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.ids import id_in_name
from xmodaler_ssattn.packs.pack import Glimpse, Pack, PackedImage, PackError, list_folder
from xmodaler_ssattn.packs.region_file import hdf5_file, open_hdf5
from xmodaler_ssattn.packs.safe_arrays import read_dataset, read_npy
from xmodaler_ssattn.packs.trust import check_openable

_DIGITS = re.compile(r"_(?:feat|bbox)([0-9]+)$")


class VisionLanguagePretraining(Pack):
    """Features (100, D), class probabilities (100, 1601) with the background first, boxes (100, 6).

    Boxes are x1, y1, x2, y2, class, score. X-101-FPN, no image sizes (VLP guesses them from the largest coordinate;
    here real ones must be given).

    Args:
        features: a folder of ``ID.npy`` and ``ID_cls_prob.npy``; or the prefix of ``PREFIX_feat###.h5`` and
            ``PREFIX_cls###.h5``, where ### are the last digits of the ids inside.
        boxes: the h5 file with one data set per id, or its prefix, ``PREFIX_bbox###.h5``.
    """

    name = "vlp"
    summary = "Vision-Language Pre-training"
    usage = "--input FOLDER-or-PREFIX --boxes X.h5-or-PREFIX"
    options: ClassVar = {"boxes": "the boxes, where the format has them in other files"}
    background = "first"

    def __init__(self, features: str | os.PathLike, boxes: str | os.PathLike) -> None:
        super().__init__(features)
        features, boxes = Path(features), Path(boxes)
        self._files = list_folder(features, ".npy", self.problems) if features.is_dir() else {}
        self._features = {} if self._files else self._index(_existing_parts(features, "_feat"))
        self._boxes = self._index([boxes] if boxes.is_file() else _existing_parts(boxes, "_bbox"))
        known = self._files or self._features
        self.problems += [f"image {i} has features, but no boxes" for i in known if i not in self._boxes]
        self.problems += [f"image {i} has boxes, but no features" for i in self._boxes if i not in known]
        self._open: dict[Path, h5py.File] = {}

    @classmethod
    def fits(cls, glimpse: Glimpse) -> bool:
        if glimpse.kind == "prefix":
            return bool(_parts(glimpse.path, "_feat"))
        part = glimpse.kind == "hdf5" and "_feat" in glimpse.path.name and "dets_labels" not in glimpse.names
        return part or glimpse.kind == "npy"

    def _index(self, paths: list[Path]) -> dict[int, tuple[Path, str]]:
        """image id -> file and name of its data set; what cannot be used is recorded as a problem."""
        found: dict[int, tuple[Path, str]] = {}
        with contextlib.suppress(UserError):  # all at once is faster; a bad one is named below
            check_openable(paths, "VLP's pack")
        for path in paths:
            try:
                with hdf5_file(path, "VLP's pack") as file:
                    keys = [key for key in file if isinstance(key, str)]  # bytes: not text, damaged
            except UserError as error:
                self.problems.append(str(error))
                continue
            digits = _DIGITS.search(path.stem)
            for key in keys:
                try:
                    image_id = id_in_name(key)
                except UserError as error:
                    self.problems.append(f"{path}, data set {key!r}: {error}")
                    continue
                if image_id in found:
                    self.problems.append(f"{path}: image {image_id} is duplicated in {found[image_id][0]}")
                elif digits and not f"{image_id:0{len(digits[1])}}".endswith(digits[1]):
                    ids = f"whose ids end in {digits[1]}"
                    self.problems.append(f"{path}: image {image_id} does not belong to this part, {ids}")
                else:
                    found[image_id] = path, key
        return found

    def ids(self) -> list[int]:
        return [image_id for image_id in self._files or self._features if image_id in self._boxes]

    def place(self, image_id: int) -> str:
        path = self._files[image_id] if self._files else self._features[image_id][0]
        return f"{path} and {self._boxes[image_id][0]}, data set {self._boxes[image_id][1]!r}"

    def _read(self, image_id: int) -> PackedImage:
        where = self.place(image_id)
        if self._files:
            path = self._files[image_id]
            features = read_npy(path)
            classes = path.with_name(f"{path.stem}_cls_prob.npy")
            probs = read_npy(classes) if classes.exists() else None
        else:
            path, key = self._features[image_id]
            features = self._dataset(path, key)
            classes = path.with_name("_cls".join(path.name.rsplit("_feat", 1)))
            probs = self._dataset(classes, key) if classes.exists() else None
        boxes = self._dataset(*self._boxes[image_id])
        if boxes.ndim != 2 or boxes.shape[1] != 6:
            raise PackError(f"{where}: boxes of shape {boxes.shape}, expected (n, 6) with the score last.")
        return PackedImage(image_id, None, None, boxes[:, :4], features, probs, boxes[:, 5], where)

    def _dataset(self, path: Path, key: str) -> np.ndarray:
        if path not in self._open:
            self._open[path] = open_hdf5(path, "VLP's pack")
        dataset = self._open[path].get(key)
        if not isinstance(dataset, h5py.Dataset):
            raise PackError(f"{path}: there is no data set {key!r}.")
        return read_dataset(dataset, f"{path}, data set {key!r}")


def _parts(prefix: Path, kind: str) -> list[Path]:
    return sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}{kind}*.h5"))


def _existing_parts(prefix: Path, kind: str) -> list[Path]:
    if parts := _parts(prefix, kind):
        return parts
    raise UserError(f"There is neither {prefix} nor any {prefix}{kind}###.h5.")
