"""Grounded Video Description on Flickr30k (flickr_branch): ``ID.npy`` features and one h5 of proposals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.ids import id_in_name, image_id_of
from xmodaler_ssattn.packs.pack import Glimpse, Pack, PackedImage, PackError, is_class_file, list_folder
from xmodaler_ssattn.packs.region_file import hdf5_file, open_hdf5
from xmodaler_ssattn.packs.safe_arrays import read_dataset, read_npy, scalar


class GroundedVideoDescription(Pack):
    """``dets_labels`` (N, 100, >= 6): x1, y1, x2, y2, class (0 = background), score; ``nms_num`` (N,).

    Row i belongs to image i of ``dic_flickr30k.json``. Features are those of an X-101-FPN, not of the
    Bottom-Up network. No class probabilities, no image sizes. Regions with low scores are kept; GVD's
    loader drops those of 0.2 or less, as ``--min-score 0.2`` does here.

    Args:
        folder: of the features.
        boxes: the h5 file.
        dictionary: ``dic_flickr30k.json``.
    """

    name = "gvd"
    summary = "Grounded Video Description"
    usage = "--input FOLDER --boxes X.h5 --dictionary dic_flickr30k.json"
    options: ClassVar = {
        "boxes": "the boxes, where the format has them in other files",
        "dictionary": "dic_flickr30k.json",
    }

    def __init__(self, folder: str | os.PathLike, boxes: str | os.PathLike, dictionary: str | os.PathLike) -> None:
        super().__init__(folder)
        self._files = list_folder(folder, ".npy", self.problems)
        self._boxes = Path(boxes)
        self._labels, self._counts = _proposals(boxes)
        images = _images(dictionary)
        if len(images) != len(self._labels):
            raise UserError(
                f"{dictionary} lists {len(images)} images, {boxes} has {len(self._labels)} rows; "
                "they do not belong together."
            )
        self._rows: dict[int, int] = {}
        for row, image in enumerate(images):
            self._add(row, image, f"{dictionary}, image {row} of the list")
        for image_id in self._files.keys() - self._rows.keys():
            self.problems.append(f"{self._files[image_id]}: {dictionary} does not list this image")

    @classmethod
    def fits(cls, glimpse: Glimpse) -> bool:
        if glimpse.kind == "npy":
            return not is_class_file(glimpse.path)
        return glimpse.kind == "hdf5" and "dets_labels" in glimpse.names

    def _add(self, row: int, image: object, where: str) -> None:
        try:
            image_id = _id_of(image)
        except UserError as error:
            self.problems.append(f"{where}: {error}")
            return
        if image_id in self._rows:
            self.problems.append(f"{where}: image {image_id} is duplicated in row {self._rows[image_id]}")
        elif image_id in self._files:
            self._rows[image_id] = row
        elif self._counts[row] > 0:  # else it has no regions anyway
            self.problems.append(f"{where}: image {image_id} has proposals, but there is no {image_id}.npy")

    def ids(self) -> list[int]:
        return list(self._rows)

    def place(self, image_id: int) -> str:
        return f"{self._files[image_id]} with row {self._rows[image_id]} of {self._boxes}"

    def count(self, image_id: int) -> int:
        return scalar(self._counts[self._rows[image_id]], f"{self.place(image_id)}: nms_num")

    def _read(self, image_id: int) -> PackedImage:
        where, count = self.place(image_id), self.count(image_id)
        features = read_npy(self._files[image_id])
        if features.ndim != 2 or not 1 <= count <= min(len(features), self._labels.shape[1]):
            raise PackError(f"{where}: nms_num is {count}, but the features have shape {features.shape}.")
        labels = read_dataset(self._labels, where, (self._rows[image_id], slice(count)))
        classes = labels[:, 4]
        wrong = (classes % 1 != 0) | (classes < 0)
        if wrong.any():
            raise PackError(
                f"{where}: column 4 holds {classes[wrong][0]:g}, expected a class; are the columns x1, y1, x2, y2, "
                "class, score?"
            )
        return PackedImage(image_id, None, None, labels[:, :4], features[:count], None, labels[:, 5], where)


def _proposals(path: str | os.PathLike) -> tuple[h5py.Dataset, np.ndarray]:
    """``dets_labels``, to be read row by row, and ``nms_num``."""
    with hdf5_file(path, "GVD's proposals") as file:
        if missing := [key for key in ("dets_labels", "nms_num") if not isinstance(file.get(key), h5py.Dataset)]:
            raise UserError(f"{path}: the data sets {', '.join(missing)} are missing; expected flickr_branch's.")
        labels, counts = file["dets_labels"], read_dataset(file["nms_num"], f"{path}, nms_num").reshape(-1)
        if labels.ndim != 3 or labels.shape[2] < 6 or len(labels) != len(counts):
            raise UserError(
                f"{path}: dets_labels has shape {labels.shape} and nms_num {counts.shape}; "
                "expected (N, 100, 6 or more) and (N,)."
            )
    return open_hdf5(path, "GVD's proposals")["dets_labels"], counts


def _images(dictionary: str | os.PathLike) -> list:
    content = read_json(dictionary, "GVD's dictionary")
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise UserError(f"{dictionary} has no list 'images'; expected GVD's dic_flickr30k.json.")
    return images


def _id_of(image: object) -> int:
    """The id of an image of the dictionary, by its ``id``, its ``file_path`` or both."""
    image = image if isinstance(image, dict) else {}
    found = {
        id_in_name(image[key]) if isinstance(image[key], str) else image_id_of(image[key])
        for key in ("id", "file_path")
        if key in image
    }
    if len(found) != 1:
        raise UserError(f"id {image.get('id')!r} and file_path {image.get('file_path')!r} do not give one image id")
    return found.pop()
