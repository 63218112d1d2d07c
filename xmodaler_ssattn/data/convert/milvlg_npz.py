"""The npz folder of MILVLG/bottom-up-attention.pytorch (utils/extract_utils.py)."""

from __future__ import annotations

import os

from xmodaler_ssattn.data.convert.pack import Pack, PackedImage, PackError, list_folder
from xmodaler_ssattn.data.convert.safe_arrays import read_npz, scalar


class MilvlgNpz(Pack):
    """``ID.npz`` with x, bbox, num_bbox, image_w, image_h.

    The key ``info`` is a pickled dict and is not read, so the class probabilities in it (detectron2
    mode, without the background) are recomputed by the classifier instead. Some packs hold x as
    (D, n); they are turned.
    """

    name = "milvlg-npz"

    def __init__(self, folder: str | os.PathLike) -> None:
        super().__init__()
        self._files = list_folder(folder, ".npz", self.problems)

    def ids(self) -> list[int]:
        return list(self._files)

    def read(self, image_id: int) -> PackedImage:
        path = self._files[image_id]
        arrays = read_npz(path, ("x", "bbox", "num_bbox", "image_w", "image_h"))
        width, height, count = (
            scalar(arrays[key], f"{path}, key {key!r}") for key in ("image_w", "image_h", "num_bbox")
        )
        features, boxes = arrays["x"], arrays["bbox"]
        if features.ndim == 2 and features.shape[0] != count and features.shape[1] == count:
            features = features.T
        if features.ndim != 2 or len(features) < count or len(boxes) < count:
            raise PackError(f"{path}: num_bbox is {count}, but x has shape {arrays['x'].shape} and bbox {boxes.shape}.")
        return PackedImage(image_id, width, height, boxes[:count], features[:count], None, None, str(path))
