"""The original Bottom-Up tsv (peteanderson80/bottom-up-attention, tools/generate_tsv.py)."""

from __future__ import annotations

from xmodaler_ssattn.packs.formats.tsv import TsvPack
from xmodaler_ssattn.packs.pack import PackedImage


class CaffeTsv(TsvPack):
    """image_id, image_w, image_h, num_boxes, boxes, features. No class probabilities and no scores.

    If the number of boxes was adaptive, the order is that of the proposals and not of scores.
    """

    name = "caffe-tsv"
    summary = "the original Bottom-Up files"
    columns = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
    id_column = "image_id"

    def _read(self, image_id: int) -> PackedImage:
        return self.read_arrays(self.row(image_id), "image_w", "image_h", image_id)
