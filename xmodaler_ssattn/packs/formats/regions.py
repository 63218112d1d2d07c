"""Our own region file as a source: to add class probabilities, cut, or store in half precision."""

from __future__ import annotations

import os

from xmodaler_ssattn.packs.pack import Glimpse, Pack, PackedImage
from xmodaler_ssattn.packs.store import RegionStore


class RegionPack(Pack):
    """A file that ``RegionWriter`` wrote."""

    name = "regions"
    summary = "a file of this program, to complete or cut"
    usage = "--input X.h5"
    background = "first"

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(path)
        self._store = RegionStore(path)
        for name in ("background", "source", "order", "vocabulary_sha256", "weights_sha256", "vocabulary"):
            if name in self._store.attributes:
                setattr(self, name, self._store.attributes[name])

    @classmethod
    def fits(cls, glimpse: Glimpse) -> bool:
        return glimpse.kind == "hdf5" and {"image_ids", "num_boxes", "features"} <= glimpse.names

    def ids(self) -> list[int]:
        return self._store.ids.tolist()

    def count(self, image_id: int) -> int:
        return self._store.num_boxes(image_id)

    def place(self, image_id: int) -> str:
        return f"{self._store.path}, image {image_id}"

    def _read(self, image_id: int) -> PackedImage:
        image = self._store.read(image_id)
        width, height, where = image.width, image.height, self.place(image_id)
        return PackedImage(image_id, width, height, image.boxes_px, image.features, image.class_probs, None, where)
