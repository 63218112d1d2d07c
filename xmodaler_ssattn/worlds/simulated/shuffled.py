"""The leak test's region file: whole images' regions exchanged among the images of a split.

What a trained model says must come from an image's own regions. Evaluated on this file, nothing else changed, its
scores must fall to those of captions that belong to other images:

    xmodaler eval --weights W --config-file C --data DIR DATALOADER.REGIONS DIR/regions_shuffled.h5 OUTPUT_DIR OTHER

If CIDEr stays well above what the references of exchanged images give, something beside the regions tells the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter
from xmodaler_ssattn.worlds.simulated.world import generator

SOURCE = "simulated, then exchanged among images of a split: no image has its own regions"


def derangement(ids: Sequence[int], seed: int, name: str = "") -> dict[int, int]:
    """image id -> another image's id, each used once: a random circle through all of them, so that none stays.

    Raises:
        UserError: fewer than two images.
    """
    if len(ids) < 2:
        raise UserError(f"Shuffling exchanges images within a split; {name or 'it'} has {len(ids)}, two are needed.")
    circle = generator(seed, "derangement", name).permutation(np.sort(np.asarray(ids, dtype=np.int64)))
    return dict(zip(circle.tolist(), np.roll(circle, -1).tolist()))


def write_shuffled(source: Path, target: Path, splits: Mapping[str, Sequence[int]], seed: int) -> None:
    """Copy a region file with every image's regions replaced by another one's.

    Boxes are stretched to the size of the image that they come to, so that p stays as it was.
    """
    store = RegionStore(source)
    giver: dict[int, int] = {}
    for split, members in splits.items():
        giver.update(derangement(members, seed, split))
    ids = store.ids.tolist()
    with RegionWriter(
        target,
        ids,
        store.num_regions,
        store.feature_dim,
        store.num_classes,
        feature_dtype=store.field_dtype("features").name,
        probs_dtype=store.field_dtype("class_probs").name,
        source=SOURCE,
    ) as writer:
        for image_id in ids:
            regions, (width, height) = store.read(giver[image_id]), store.image_size(image_id)
            factor = np.array([width / regions.width, height / regions.height] * 2, dtype=np.float32)
            writer.write(image_id, width, height, regions.boxes_px * factor, regions.features, regions.class_probs)
