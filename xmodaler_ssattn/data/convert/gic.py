"""Grounded-Image-Captioning (Zhou et al.): ``flickrbu_att/ID.npz`` and ``flickrbu_box/ID.npy``."""

from __future__ import annotations

import os

from xmodaler_ssattn.data.convert.pack import Pack, PackedImage, PackError, list_folder
from xmodaler_ssattn.data.convert.safe_arrays import read_npy, read_npz


class GroundedImageCaptioning(Pack):
    """Features under the key ``feat``, boxes in pixels. No sizes, no scores, no class probabilities.

    Args:
        folder: ``flickrbu_att``.
        boxes: ``flickrbu_box``.
    """

    name = "gic"

    def __init__(self, folder: str | os.PathLike, boxes: str | os.PathLike) -> None:
        super().__init__()
        self._files = list_folder(folder, ".npz", self.problems)
        self._boxes = list_folder(boxes, ".npy", self.problems)
        self.problems += [
            f"{path}: no {image_id}.npy among the boxes"
            for image_id, path in self._files.items()
            if image_id not in self._boxes
        ]

    def ids(self) -> list[int]:
        return [image_id for image_id in self._files if image_id in self._boxes]

    def read(self, image_id: int) -> PackedImage:
        path = self._files[image_id]
        features, boxes = read_npz(path, ("feat",))["feat"], read_npy(self._boxes[image_id])
        where = f"{path} and {self._boxes[image_id]}"
        if boxes.ndim != 2 or boxes.shape[1] < 4:
            raise PackError(f"{where}: boxes of shape {boxes.shape}, expected (n, 4).")
        return PackedImage(image_id, None, None, boxes[:, :4], features, None, None, where)
