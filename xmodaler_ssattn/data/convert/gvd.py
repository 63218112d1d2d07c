"""Grounded Video Description on Flickr30k (flickr_branch): ``ID.npy`` features and one h5 of proposals."""

from __future__ import annotations

import os

import numpy as np

from xmodaler_ssattn.data.convert.pack import Pack, PackedImage, PackError, image_id_of, list_folder
from xmodaler_ssattn.data.convert.safe_arrays import read_npy
from xmodaler_ssattn.data.region_file import open_hdf5
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json


class GroundedVideoDescription(Pack):
    """``dets_labels`` (N, 100, >= 6): x1, y1, x2, y2, class (0 = background), score; ``nms_num`` (N,).

    Row i belongs to image i of ``dic_flickr30k.json``. Features are those of an X-101-FPN, not of the
    Bottom-Up network. No class probabilities, no image sizes. Regions of low score are kept; GVD's
    loader drops those of 0.2 and less, which ``--min-score 0.2`` does here.

    Args:
        folder: of the features.
        boxes: the h5 file.
        dictionary: ``dic_flickr30k.json``.
    """

    name = "gvd"

    def __init__(self, folder: str | os.PathLike, boxes: str | os.PathLike, dictionary: str | os.PathLike) -> None:
        super().__init__()
        self._files = list_folder(folder, ".npy", self.problems)
        self._boxes = boxes
        with open_hdf5(boxes, "GVD's proposals") as file:
            missing = [key for key in ("dets_labels", "nms_num") if key not in file]
            if missing:
                raise UserError(f"{boxes}: the data sets {', '.join(missing)} are missing; expected flickr_branch's.")
            self._labels, self._counts = file["dets_labels"][...], file["nms_num"][...].reshape(-1).astype(np.int64)
        if self._labels.ndim != 3 or self._labels.shape[2] < 6 or len(self._labels) != len(self._counts):
            raise UserError(
                f"{boxes}: dets_labels has shape {self._labels.shape} and nms_num {self._counts.shape}; "
                "expected (N, 100, 6 or more) and (N,)."
            )
        content = read_json(dictionary, "GVD's dictionary")
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list):
            raise UserError(f"{dictionary} has no list 'images'; expected GVD's dic_flickr30k.json.")
        if len(images) != len(self._labels):
            raise UserError(
                f"{dictionary} lists {len(images)} images, {boxes} has {len(self._labels)} rows; "
                "they do not belong together."
            )
        rows = {image_id_of(str(image.get("id", image.get("file_path", "")))): row for row, image in enumerate(images)}
        self._rows = {image_id: row for image_id, row in rows.items() if image_id in self._files}

    def ids(self) -> list[int]:
        return list(self._rows)

    def count(self, image_id: int) -> int:
        return int(self._counts[self._rows[image_id]])

    def read(self, image_id: int) -> PackedImage:
        row, path = self._rows[image_id], self._files[image_id]
        features, count = read_npy(path), int(self._counts[row])
        where = f"{path} with row {row} of {self._boxes}"
        if features.ndim != 2 or not 1 <= count <= len(features):
            raise PackError(f"{where}: nms_num is {count}, but the features have shape {features.shape}.")
        labels = self._labels[row, :count]
        return PackedImage(image_id, None, None, labels[:, :4], features[:count], None, labels[:, 5], where)
