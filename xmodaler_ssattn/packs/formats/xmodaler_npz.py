"""X-modaler's folder of npz files (tools/generate_npz.py), to read and to write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from xmodaler_ssattn.files import atomic_path
from xmodaler_ssattn.packs.pack import Glimpse, NpzFolder, PackedImage, PackError, check_name
from xmodaler_ssattn.packs.safe_arrays import read_npz, scalar, single_value
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.progress import progress


class XmodalerNpz(NpzFolder):
    """``ID.npz`` with image_w, image_h, boxes, features, and cls_prob (all columns, background first)."""

    name = "xmodaler-npz"
    summary = "X-modaler's own"
    background = "first"

    @classmethod
    def fits(cls, glimpse: Glimpse) -> bool:
        return glimpse.kind == "npz" and {"boxes", "features"} <= glimpse.names

    def _read(self, image_id: int) -> PackedImage:
        path = self._files[image_id]
        required = ("image_w", "image_h", "boxes", "features")
        arrays = read_npz(path, required, ("cls_prob", "num_boxes", "image_id"))
        width, height = (scalar(arrays[key], f"{path}, key {key!r}") for key in ("image_w", "image_h"))
        if "num_boxes" in arrays:
            count = scalar(arrays["num_boxes"], f"{path}, key 'num_boxes'")
            if count != len(arrays["features"]):
                raise PackError(f"{path}: num_boxes is {count}, but features has {len(arrays['features'])} rows.")
        if "image_id" in arrays:
            check_name(single_value(arrays["image_id"]), image_id, f"{path}, key 'image_id'")
        boxes, features, probs = arrays["boxes"], arrays["features"], arrays.get("cls_prob")
        return PackedImage(image_id, width, height, boxes, features, probs, None, str(path))


def export_npz(store: RegionStore, folder: str | os.PathLike) -> int:
    """Write ``ID.npz`` files that X-modaler's own datasets read (DATALOADER.FEATS_FOLDER); returns their number.

    Sizes and counts are 1-d arrays, because its reader uses ``content['image_h'][0]``. Existing files are replaced
    atomically.
    """
    folder = Path(folder)
    for image_id in progress(store.ids.tolist(), desc="npz"):
        regions = store.read(image_id)
        regions.check_numbers(store.path)
        arrays = {
            "image_id": np.array(regions.image_id),
            "image_w": np.array([regions.width]),
            "image_h": np.array([regions.height]),
            "num_boxes": np.array([len(regions.boxes_px)]),
            "boxes": regions.boxes_px,
            "features": regions.features,
        }
        if regions.class_probs is not None:
            arrays["cls_prob"] = regions.class_probs
        with atomic_path(folder / f"{image_id}.npz") as temporary:
            np.savez(temporary, **arrays)
    return len(store)
