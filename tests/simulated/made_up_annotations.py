"""Three made-up annotation records with boxes, and the folder that `xmodaler prepare annotations` would write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import SPLITS, annotation_header, coco_reference, file_name

CLASSES = ["man", "boy", "dog", "hat", "people", "person", "tree", "street", "ball"]
BOY, GIRL, DOG, HAT, TREE = (
    [10, 50, 60, 150],
    [70, 40, 120, 150],
    [150, 100, 190, 140],
    [20, 50, 40, 60],
    [0, 0, 30, 90],
)


def phrase(tokens: Sequence[str], said: str, name: str | None, chain: str | None, *boxes: Sequence[int]) -> dict:
    """The phrase of these words in the tokens; its head is the last word when it has a class."""
    words = said.split()
    [start] = [at for at in range(len(tokens)) if list(tokens[at : at + len(words)]) == words][:1]
    end = start + len(words)
    head = end - 1 if name is not None else None
    return {"start": start, "end": end, "head": head, "class": name, "chain": chain, "boxes": [list(b) for b in boxes]}


def caption(text: str, *phrases: tuple) -> dict[str, Any]:
    tokens = text.split()
    return {"raw": f"{text} .", "tokens": tokens, "phrases": [phrase(tokens, *each) for each in phrases]}


def record(image_id: int, *captions: dict, size: tuple[int, int] = (200, 160)) -> dict[str, Any]:
    return {"image_id": image_id, "width": size[0], "height": size[1], "captions": list(captions)}


def children(image_id: int = 1) -> dict[str, Any]:
    """A group of two boxes, one of them a boy; a dog; a frisbee, which is not a class; an unseen street."""
    return record(
        image_id,
        caption(
            "two young people watch a brown dog on the street",
            ("two young people", "people", "1", BOY, GIRL),
            ("a brown dog", "dog", "3", DOG),
            ("the street", "street", "4"),
        ),
        caption(
            "a small boy throws a red frisbee to a dog",
            ("a small boy", "boy", "2", BOY),
            ("a red frisbee", None, "5", [100, 20, 110, 30]),
            ("a dog", "dog", "3", DOG),
        ),
        caption("a boy outside", ("a boy", "boy", "2", BOY)),
        caption("a small man runs", ("a small man", "man", "2", BOY)),
        caption("dogs running", ("dogs", "dog", "3", DOG)),
    )


def hatted(image_id: int = 2) -> dict[str, Any]:
    """A man whose hat one caption mentions; a small tree at the rim that two mention."""
    man = [60, 20, 140, 160]
    return record(
        image_id,
        caption("a man in a green hat", ("a man", "man", "1", man), ("a green hat", "hat", "2", [80, 20, 100, 30])),
        caption("a man by a tree", ("a man", "man", "1", man), ("a tree", "tree", "3", [0, 0, 20, 60])),
        caption("a man running near a tree", ("a man", "man", "1", man), ("a tree", "tree", "3", [0, 0, 20, 60])),
        caption("a man", ("a man", "man", "1", man)),
        caption("a man", ("a man", "man", "1", man)),
    )


def empty(image_id: int = 3) -> dict[str, Any]:
    return record(image_id, *(caption("it rains") for _ in range(5)))


def write_annotations(
    folder: Path, images: dict[str, list[dict]], classes: Sequence[str] = CLASSES, source: str = "entities"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        header = annotation_header(split, source, False, "a rule", classes)
        (folder / file_name(split)).write_text(json.dumps({**header, "images": images[split]}))
        references = [entry for image in images[split] for entry in coco_reference(image, 0)[1]]
        (folder / f"captions_{split}.json").write_text(json.dumps({"annotations": references}))
    return folder


def small_folder(folder: Path, **changes: Any) -> Path:
    """Eight training images, two of val and two of test."""
    kinds = (children, hatted, empty, hatted)
    images = {
        "train": [kinds[number % 4](10 + number) for number in range(8)],
        "val": [children(30), hatted(31)],
        "test": [hatted(40), children(41)],
    }
    return write_annotations(folder, {**images, **changes})
