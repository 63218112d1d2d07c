"""Grounded-Image-Captioning (Zhou et al.): ``flickrbu_att/ID.npz`` and ``flickrbu_box/ID.npy``."""

from __future__ import annotations

import os
from typing import ClassVar

from xmodaler_ssattn.packs.pack import Glimpse, NpzFolder, PackedImage, list_folder
from xmodaler_ssattn.packs.safe_arrays import read_npy, read_npz


class GroundedImageCaptioning(NpzFolder):
    """Features under the key ``feat``, boxes in pixels. No sizes, no scores, no class probabilities.

    Args:
        folder: ``flickrbu_att``.
        boxes: ``flickrbu_box``.
    """

    name = "gic"
    summary = "Grounded-Image-Captioning"
    usage = "--input flickrbu_att --boxes flickrbu_box"
    options: ClassVar = {"boxes": "the boxes, where the format has them in other files"}

    def __init__(self, folder: str | os.PathLike, boxes: str | os.PathLike) -> None:
        super().__init__(folder)
        self._boxes = list_folder(boxes, ".npy", self.problems)
        without_boxes = [path for image_id, path in self._files.items() if image_id not in self._boxes]
        without_features = [path for image_id, path in self._boxes.items() if image_id not in self._files]
        self.problems += [f"{path}: no ID.npy among the boxes" for path in without_boxes]
        self.problems += [f"{path}: no ID.npz among the features" for path in without_features]

    @classmethod
    def fits(cls, glimpse: Glimpse) -> bool:
        return glimpse.kind == "npz" and {"feat"} <= glimpse.names

    def ids(self) -> list[int]:
        return [image_id for image_id in self._files if image_id in self._boxes]

    def place(self, image_id: int) -> str:
        return f"{self._files[image_id]} and {self._boxes[image_id]}"

    def _read(self, image_id: int) -> PackedImage:
        features = read_npz(self._files[image_id], ("feat",))["feat"]
        boxes = read_npy(self._boxes[image_id])
        return PackedImage(image_id, None, None, boxes, features, None, None, self.place(image_id))
