"""Which image belongs to which split: Karpathy's as GVD uses it, or the one of the Entities authors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import read_json

# Images per split that the two schemes are known to have.
EXPECTED = {
    "karpathy": {"train": 29000, "val": 1014, "test": 1000},
    "plummer": {"train": 29783, "val": 1000, "test": 1000},
}


def read_splits(path: str | os.PathLike) -> dict[str, list[int]]:
    """Read split ids.

    Args:
        path: a JSON file ``{"train": [ids], "val": [...], "test": [...]}`` (ids as text or numbers, as GVD's
            ``split_ids_flickr30k_entities.json``), or a folder with ``train.txt``, ``val.txt``,
            ``test.txt``, one id a line, as the Entities repository has them.

    Returns:
        split -> ids in the file's order.

    Raises:
        UserError: a file or split is missing, an id is no integer, or stands twice.
    """
    path = Path(path)
    if path.is_dir():
        missing = [str(path / f"{split}.txt") for split in SPLITS if not (path / f"{split}.txt").is_file()]
        raise_all((f"{name} does not exist" for name in missing), "The folder of split lists is not complete")
        found: Mapping[str, Sequence[object]] = {
            split: (path / f"{split}.txt").read_text(encoding="utf-8").split() for split in SPLITS
        }
    else:
        found = read_json(path, "Split ids")
        if not isinstance(found, dict) or any(not isinstance(found.get(split), list) for split in SPLITS):
            raise UserError(f"Split ids: {path} must be an object with the lists {', '.join(SPLITS)}.")
    problems, splits, home = [], {}, {}
    for split in SPLITS:
        splits[split] = []
        for value in found[split]:
            try:
                image_id = int(str(value))
            except ValueError:
                problems.append(f"{split}: the image id {value!r} is no integer")
                continue
            if image_id in home:
                problems.append(f"image {image_id} stands in {home[image_id]} and in {split}")
            home[image_id] = split
            splits[split].append(image_id)
    raise_all(problems, f"The split ids in {path} cannot be used")
    return splits


def overlap_warnings(ours: Mapping[str, Sequence[int]], others: Mapping[str, Sequence[int]], name: str) -> list[str]:
    """Sentences that say where our split and another one contradict each other.

    What matters is an image that one scheme trains on and the other one evaluates on: numbers, features
    or weights made under both do not compare.
    """
    warnings = []
    for here, there in (("train", "test"), ("train", "val"), ("test", "train"), ("val", "train")):
        shared = len(set(ours.get(here, ())) & set(others.get(there, ())))
        if shared:
            warnings.append(
                f"{shared} images of this {here} split are in the {there} split of {name}; "
                "do not compare scores across the two, nor use weights trained under the other one."
            )
    return warnings


def read_unrelated(path: str | os.PathLike) -> dict[int, set[int]]:
    """Read ``UNRELATED_CAPTIONS``: lines ``image-id sentence-number`` (from 1), ``#`` begins a comment.

    Returns:
        image id -> positions of the captions counted from 0.
    """
    found: dict[int, set[int]] = {}
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The list of unrelated captions {path} does not exist.")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split("#")[0].split()
        if not parts:
            continue
        if len(parts) != 2 or not all(part.isdecimal() for part in parts) or int(parts[1]) < 1:
            raise UserError(f"{path}, line {number}: expected 'image-id sentence-number', found {line!r}.")
        found.setdefault(int(parts[0]), set()).add(int(parts[1]) - 1)
    return found
