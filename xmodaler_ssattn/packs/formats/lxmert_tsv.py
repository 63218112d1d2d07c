"""The tsv of LXMERT and of airsplay/py-bottom-up-attention."""

from __future__ import annotations

from xmodaler_ssattn.packs.formats.tsv import TsvPack, decode
from xmodaler_ssattn.packs.pack import PackedImage, check_scores


class LxmertTsv(TsvPack):
    """Height before width; ``objects_conf`` is the probability of the best class. No full class probabilities."""

    name = "lxmert-tsv"
    summary = "LXMERT, airsplay/py-bottom-up-attention"
    columns = (
        *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
        *("num_boxes", "boxes", "features"),
    )
    id_column = "img_id"

    def _read(self, image_id: int) -> PackedImage:
        row = self.row(image_id)
        image = self.read_arrays(row, "img_w", "img_h", image_id, scores="objects_conf")
        # Not used, but wrong values show that the columns are in another order.
        for column in ("objects_id", "attrs_id"):
            decode(row, column, image.where, len(image.features), 1, "int64")
        check_scores(decode(row, "attrs_conf", image.where, len(image.features), 1), "attrs_conf", image.where)
        return image
