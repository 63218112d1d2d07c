"""The splits: Karpathy's as used by GVD, or those of the Entities authors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import read_json, read_lines, read_text
from xmodaler_ssattn.ids import plain_id

CAPTIONS_PER_IMAGE = 5


def read_splits(path: str | os.PathLike) -> dict[str, list[int]]:
    """Read split ids.

    Args:
        path: a JSON file ``{"train": [ids], "val": [...], "test": [...]}`` (ids as text or numbers, as GVD's
            ``split_ids_flickr30k_entities.json``), or a folder with ``train.txt``, ``val.txt``, ``test.txt``, one id
            per line, as in the Entities repository.

    Returns:
        split -> ids in the file's order.

    Raises:
        UserError: a file or split is missing, an id is not a ``plain_id`` or is duplicated, also as ``7`` and ``007``.
    """
    path = Path(path)
    if path.is_dir():
        missing = [str(path / f"{split}.txt") for split in SPLITS if not (path / f"{split}.txt").is_file()]
        raise_all((f"{name} does not exist" for name in missing), "The folder of split lists is not complete")
        found: Any = {split: read_text(path / f"{split}.txt", "Split ids").split() for split in SPLITS}
    else:
        found = read_json(path, "Split ids")
        if not isinstance(found, dict) or any(not isinstance(found.get(split), list) for split in SPLITS):
            raise UserError(f"Split ids: {path} must be an object with the lists {', '.join(SPLITS)}.")
    problems: list[str] = []
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    home: dict[int, str] = {}
    for split, ids in splits.items():
        for value in found[split]:
            image_id = plain_id(value)
            if image_id is None:
                problems.append(f"{split}: the image id {value!r} is not an integer from 0 to 2**63 - 1")
                continue
            if image_id in home:
                problems.append(f"image {image_id} is in {home[image_id]} and in {split}")
            home[image_id] = split
            ids.append(image_id)
    raise_all(problems, f"The split ids in {path} cannot be used")
    return splits


def overlap_warnings(ours: Mapping[str, Sequence[int]], others: Mapping[str, Sequence[int]], name: str) -> list[str]:
    """Warnings about images that one scheme uses for training and the other for evaluation."""
    warnings = []
    for here, there in (("train", "test"), ("train", "val"), ("test", "train"), ("val", "train")):
        shared = len(set(ours.get(here, ())) & set(others.get(there, ())))
        if shared:
            warnings.append(
                f"{shared} images of this {here} split are in the {there} split of {name}; "
                "do not compare scores between the two, and do not use weights trained with the other one."
            )
    return warnings


def read_unrelated(path: str | os.PathLike) -> dict[int, set[int]]:
    """Read ``UNRELATED_CAPTIONS``: lines ``image-id sentence-number`` (from 1), ``#`` begins a comment.

    Returns:
        image id -> positions of the captions counted from 0.
    """
    found: dict[int, set[int]] = {}
    problems = []
    for number, line in enumerate(read_lines(path, "The list of unrelated captions"), 1):
        parts = line.split("#")[0].split()
        if not parts:
            continue
        image_id, sentence = map(plain_id, parts) if len(parts) == 2 else (None, None)
        if image_id is None or not sentence:
            problems.append(f"line {number}: expected 'image-id sentence-number', found {line!r}")
        else:
            found.setdefault(image_id, set()).add(sentence - 1)
    raise_all(problems, str(path))
    return found


def image_rank(seed: int, image_id: int) -> bytes:
    """A sort key that puts images in a fixed random order: a larger selection contains every smaller one."""
    return hashlib.blake2b(f"{seed}/{image_id}".encode(), digest_size=8).digest()
