"""The tsv of LXMERT and of airsplay/py-bottom-up-attention."""

from __future__ import annotations

from xmodaler_ssattn.data.convert.pack import PackedImage
from xmodaler_ssattn.data.convert.tsv import TsvPack


class LxmertTsv(TsvPack):
    """Height before width; ``objects_conf`` is the probability of the best class. No full class probabilities."""

    name = "lxmert-tsv"
    columns = (
        "img_id",
        "img_h",
        "img_w",
        "objects_id",
        "objects_conf",
        "attrs_id",
        "attrs_conf",
        "num_boxes",
        "boxes",
        "features",
    )
    id_column = "img_id"

    def read(self, image_id: int) -> PackedImage:
        row, where = self.row(image_id)
        return self.read_arrays(row, "img_w", "img_h", image_id, where, scores="objects_conf")
