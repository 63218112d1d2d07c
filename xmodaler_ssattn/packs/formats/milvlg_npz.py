"""The npz folder of MILVLG/bottom-up-attention.pytorch (utils/extract_utils.py)."""

from __future__ import annotations

from xmodaler_ssattn.packs.pack import Glimpse, NpzFolder, PackedImage, PackError, check_name
from xmodaler_ssattn.packs.safe_arrays import read_npz, scalar, single_value


class MilvlgNpz(NpzFolder):
    """``ID.npz``, ``ID.jpg.npz`` or ``COCO_val2014_ID.jpg.npz`` with x, bbox, num_bbox, image_w, image_h.

    A key ``cls_prob`` is read, background first. The key ``info`` is a pickled dict and is not read; the class
    probabilities in it (detectron2 mode, without the background) are recomputed by the classifier instead. Some
    packs have x as (D, n), which is transposed. Rows after ``num_bbox`` must be zero.
    """

    name = "milvlg-npz"
    summary = "MILVLG/bottom-up-attention.pytorch"
    background = "first"

    @classmethod
    def fits(cls, glimpse: Glimpse) -> bool:
        return glimpse.kind == "npz" and {"x", "bbox"} <= glimpse.names

    def _read(self, image_id: int) -> PackedImage:
        path = self._files[image_id]
        arrays = read_npz(path, ("x", "bbox", "num_bbox", "image_w", "image_h"), ("cls_prob", "image_id"))
        width, height, count = (
            scalar(arrays[key], f"{path}, key {key!r}") for key in ("image_w", "image_h", "num_bbox")
        )
        features, boxes, probs = arrays["x"], arrays["bbox"], arrays.get("cls_prob")
        if features.ndim == 2 and features.shape[0] != count and features.shape[1] == count:
            features = features.T
        shapes = f"{path}: num_bbox is {count}, but x has shape {arrays['x'].shape} and bbox {boxes.shape}"
        if features.ndim != 2 or len(features) < count or len(boxes) < count:
            raise PackError(f"{shapes}.")
        if features[count:].any() or boxes[count:].any():
            raise PackError(f"{shapes}, with numbers after these rows.")
        if "image_id" in arrays:
            check_name(single_value(arrays["image_id"]), image_id, f"{path}, key 'image_id'")
        if probs is not None:
            probs = probs[:count]
        return PackedImage(image_id, width, height, boxes[:count], features[:count], probs, None, str(path))
