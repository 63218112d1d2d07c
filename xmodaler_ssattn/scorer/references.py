"""The reference captions and boxes for rewards, read once from the training annotations."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xmodaler_ssattn.data.annotations import Image, file_name, gvd_reference, open_annotations
from xmodaler_ssattn.data.vocabulary import END, Vocabulary, read_vocabulary
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.scorer.cider import MAX_WORD

NO_CLASS = -1


class ImageObjects(NamedTuple):
    """The annotated objects of one image, from all its captions, each once."""

    classes: np.ndarray  # (G,) int64, index of the class
    boxes_px: np.ndarray  # (G, 4) float64, xyxy pixels; for several boxes of a phrase their enclosing box, as in GVD


class RewardReferences(NamedTuple):
    """The references of the training split.

    Captions are word ids with the end (0). A word that is not in the vocabulary has its own id after those of the
    vocabulary, so that no model can produce it and UNK does not match it. The last two are empty unless requested.
    """

    path: Path  # the annotation file
    captions: dict[int, list[list[int]]]  # image -> its full captions
    objects: dict[int, ImageObjects]
    class_of_word: np.ndarray  # (V,) int64, the class that each word of the vocabulary names, or ``NO_CLASS``


def references_path(cfg: Any) -> Path:
    """SCORER.GT_PATH, else the training annotations of DATALOADER.ANNO_FOLDER."""
    return Path(cfg.SCORER.GT_PATH or Path(cfg.DATALOADER.ANNO_FOLDER) / file_name("train"))


@functools.lru_cache(maxsize=1)
def read_reward_references(
    path: str | os.PathLike, vocabulary_file: str, *, objects: bool = False, lemma_folder: str = ""
) -> RewardReferences:
    """Read the training annotations; the last result is cached, since every part of a reward needs it.

    Args:
        path: ``train.json``.
        vocabulary_file: ``vocabulary.txt``.
        objects: whether to read the annotated objects and the class of each word.
        lemma_folder: the folder of ``lemmas.json``, for ``objects``.

    Raises:
        UserError: a file is missing or broken, or the vocabulary is too large for ``cider``.
    """
    vocabulary = read_vocabulary(vocabulary_file)
    if vocabulary.model_size > MAX_WORD:
        raise UserError(f"{vocabulary_file} has {len(vocabulary)} words; the CIDEr-D reward allows {MAX_WORD - 1}.")
    header, images = open_annotations(path, "train")
    classes = list(header.get("classes", ()))
    index = {name: number for number, name in enumerate(classes)}
    captions, found = {}, {}
    others: dict[str, int] = {}
    for image in images:
        texts, image_id = [caption["tokens"] for caption in image["captions"]], image["image_id"]
        captions[image_id] = [[*_encode(tokens, vocabulary, others), END] for tokens in texts]
        if objects:
            found[image_id] = _objects(image, index)
    class_of_word = np.full(vocabulary.model_size if objects else 0, NO_CLASS, dtype=np.int64)
    if objects:
        named = ObjectWords(classes, Lemmas.of_folder(lemma_folder), vocabulary.words)
        for number, word in enumerate(vocabulary.words, 1):
            class_of_word[number] = index.get(named(word), NO_CLASS)
    return RewardReferences(Path(path), captions, found, class_of_word)


def _encode(tokens: Sequence[str], vocabulary: Vocabulary, others: dict[str, int]) -> list[int]:
    ids = vocabulary.encode(tokens)
    for place, token in enumerate(tokens):
        if ids[place] == vocabulary.unk:
            # When the 16 bits of an id are used up, further words share the last id.
            ids[place] = min(others.setdefault(token, vocabulary.model_size + len(others)), MAX_WORD)
    return ids


def _objects(image: Image, index: dict[str, int]) -> ImageObjects:
    """The phrases with a class and a box, as in GVD's reference."""
    found = {
        (index[name], *map(float, box))
        for caption in gvd_reference(image)["captions"]
        for name, box in zip(caption["process_clss"], caption["process_bnd_box"])
        if name in index
    }
    table = np.array(sorted(found), dtype=np.float64).reshape(-1, 5)
    return ImageObjects(table[:, 0].astype(np.int64), table[:, 1:])
