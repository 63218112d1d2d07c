"""A file of pairs of a word and a region from any teacher, for LOSSES.WORD_ATTENTION.PAIRS.

::

    {"schema": "xmodaler_ssattn/word_pairs", "version": 1, "split": "train", "vocabulary_sha256": "...",
     "annotations_sha256": "...", "regions_sha256": "...", "images": [
    {"image_id": 1000, "pairs": [[0, 1, 17, 0.5], [0, 1, 3, 0.25]]},
    ...]}

A pair is [caption of the image in the annotation file, position of the word from 0, region, weight of 1e-6 to 1e6].
The three digests are those of the files for which the pairs were made; a file for others is refused. Images without a
pair may be left out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta

from xmodaler_ssattn.data.annotations import Image
from xmodaler_ssattn.data.json_list import json_list, open_json_list
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.packs.store import RegionStore

SCHEMA, VERSION = "xmodaler_ssattn/word_pairs", 1
HINT = (
    "Write the pairs for this split, vocabulary, annotation and region file: `xmodaler prepare match` writes those of "
    "POS-SCAN's matcher; for another teacher see xmodaler_ssattn/data/pair_file.py."
)

_Index = Annotated[int, Meta(ge=0)]
Pair = tuple[_Index, _Index, _Index, Annotated[float, Meta(ge=1e-6, le=1e6)]]


class ImagePairs(TypedDict):
    """The pairs of one image."""

    image_id: _Index
    pairs: list[Pair]


def made_for(
    split: str, annotation_file: str | os.PathLike, vocabulary_file: str | os.PathLike, store: RegionStore
) -> dict[str, Any]:
    """The header of a pair file: schema, split, and digests of the vocabulary, the annotations and all regions."""
    boxes = hashlib.sha256()
    for image_id in sorted(store.ids.tolist()):
        if store.num_boxes(image_id):
            boxes.update(np.int64(image_id).tobytes() + store.boxes_px(image_id).tobytes())
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "split": split,
        "vocabulary_sha256": sha256_of(vocabulary_file),
        "annotations_sha256": sha256_of(annotation_file),
        "regions_sha256": boxes.hexdigest(),
    }


def write_pairs(
    path: str | os.PathLike,
    pairs: Iterable[tuple[int, Sequence[Pair]]],
    *,
    split: str,
    annotation_file: str | os.PathLike,
    vocabulary_file: str | os.PathLike,
    store: RegionStore,
) -> None:
    """Write a file of pairs: of each image its id and pairs. The other arguments are what they were made for."""
    with json_list(path, made_for(split, annotation_file, vocabulary_file, store), "images") as out:
        for image_id, found in pairs:
            out.add({"image_id": image_id, "pairs": [list(pair) for pair in found]})


class PairFile:
    """The pairs of all images, in memory.

    Raises:
        UserError: the file is missing, damaged, or made for another split, vocabulary, annotation file or region file.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        split: str,
        annotation_file: str | os.PathLike,
        vocabulary_file: str | os.PathLike,
        store: RegionStore,
    ) -> None:
        self.path, self._store = Path(path), store
        wanted = made_for(split, annotation_file, vocabulary_file, store)
        _, images = open_json_list(path, "images", ImagePairs, wanted, what="file of word pairs", hint=HINT)
        self._pairs: dict[int, np.ndarray] = {}
        for image in images:
            if image["image_id"] in self._pairs:
                raise UserError(f"{path}: image {image['image_id']} is duplicated. {HINT}")
            self._pairs[image["image_id"]] = np.array(image["pairs"], np.float64).reshape(-1, 4)

    def others(self, image_ids: Iterable[int]) -> list[str]:
        """A sentence if the file has images that are not among ``image_ids``."""
        found = sorted(self._pairs.keys() - set(image_ids))
        return [f"{self.path}: {len(found)} images are not in the split, e.g. {found[:10]}. {HINT}"] if found else []

    def of_image(self, image: Image, words: int, regions: int | None) -> list[np.ndarray]:
        """The pairs of each caption, as ``word_pairs`` returns them.

        Args:
            words: pairs of later words are left out.
            regions: pairs of later regions are left out; None: none of them.

        Raises:
            UserError: a caption, word or region that does not exist; names the image.
        """
        image_id, captions = image["image_id"], image["captions"]
        table = self._pairs.get(image_id, np.zeros((0, 4)))
        lengths = np.array([len(caption["tokens"]) for caption in captions])
        caption, word, region = table[:, :3].astype(np.int64).T
        exists = (caption < len(captions)) & (region < self._store.num_boxes(image_id))
        exists &= word < lengths[np.minimum(caption, len(captions) - 1)]
        if not exists.all():
            raise UserError(
                f"{self.path}: image {image_id}: the pair {table[~exists][0].tolist()} names a caption, word or region "
                f"that it does not have. {HINT}"
            )
        kept = (word < words) & (region < (self._store.num_regions if regions is None else regions))
        return [table[kept & (caption == number), 1:].astype(np.float32) for number in range(len(captions))]
