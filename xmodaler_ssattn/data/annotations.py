"""The annotation files: one JSON per split, the COCO-style references, and GVD's reference format.

``{split}.json``, one image per line after the header::

    {"schema": "xmodaler_ssattn/annotations", "version": 1, "split": "train", "source": "entities",
     "gvd_identical": false, "rule": "...", "classes": ["railing", ...], "images": [
    {"image_id": 1000, "width": 500, "height": 375, "captions": [
      {"raw": "Two men .", "tokens": ["two", "men"], "phrases": [
        {"start": 0, "end": 2, "head": 1, "class": "man", "chain": "7", "boxes": [[1, 2, 3, 4]]}]}]},
    ...]}

``Image``, ``Caption`` and ``Phrase`` below are the types of these records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

from msgspec import Meta

from xmodaler_ssattn.boxes import union_box
from xmodaler_ssattn.data.json_list import open_json_list
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.ids import LARGEST_ID

SCHEMA = "xmodaler_ssattn/annotations"
VERSION = 1
SPLITS = ("train", "val", "test")
HINT = "Write it with `xmodaler prepare annotations`."

Box = Annotated[list[int | float], Meta(min_length=4, max_length=4)]  # x1, y1, x2, y2 in pixels counted from 0
Words = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
# A phrase is tokens[start:end]; head is the position of its object word and class that word's class (both None when
# there is none), chain the coreference chain (or None), boxes its boxes (may be empty).
Phrase = TypedDict(
    "Phrase",
    {"start": int, "end": int, "head": int | None, "class": str | None, "chain": str | None, "boxes": list[Box]},
)


class Caption(TypedDict):
    """One sentence: ``raw`` as written, ``tokens`` in lower case without punctuation, and its phrases."""

    raw: str
    tokens: Words
    phrases: list[Phrase]


class Image(TypedDict):
    """One image; width and height in pixels."""

    image_id: Annotated[int, Meta(ge=0, le=LARGEST_ID)]
    width: Annotated[int, Meta(ge=1, le=LARGEST_ID)]
    height: Annotated[int, Meta(ge=1, le=LARGEST_ID)]
    captions: Annotated[list[Caption], Meta(min_length=1)]


class Annotations(NamedTuple):
    """One split: its header without the images, and the images."""

    header: dict[str, Any]
    images: list[Image]


def file_name(split: str) -> str:
    """``train.json`` for "train"; a ``UserError`` for a split that does not exist."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}; expected one of {', '.join(SPLITS)}.")
    return f"{split}.json"


# --- writing ------------------------------------------------------------------------------------------
def annotation_header(
    split: str, source: str, gvd_identical: bool, rule: str, classes: Sequence[str]
) -> dict[str, Any]:
    """The header of an annotation file, in reading order."""
    of_file = {"schema": SCHEMA, "version": VERSION, "split": split, "source": source}
    return of_file | {"gvd_identical": gvd_identical, "rule": rule, "classes": list(classes)}


def coco_reference(image: Image, first_id: int) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """One image of the COCO-style caption references: its ``images`` and its ``annotations`` entries."""
    annotations = [
        {"image_id": image["image_id"], "id": first_id + number, "caption": caption["raw"]}
        for number, caption in enumerate(image["captions"])
    ]
    return {"id": image["image_id"]}, annotations


def gvd_reference(image: Image) -> dict[str, Any]:
    """One image in the form of GVD's ``flickr30k_cleaned_class.json``, as its grounding evaluator reads it.

    An entry is a phrase that has a class and a box; several boxes of a chain become their union.
    """
    captions = []
    for caption in image["captions"]:
        entries = [phrase for phrase in caption["phrases"] if phrase["class"] is not None and phrase["boxes"]]
        captions.append(
            {
                "tokens": caption["tokens"],
                "process_idx": [phrase["head"] for phrase in entries],
                "process_clss": [phrase["class"] for phrase in entries],
                "process_bnd_box": [union_box(phrase["boxes"]) for phrase in entries],
            }
        )
    return {"image_id": image["image_id"], "image_size": [image["width"], image["height"]], "captions": captions}


# --- reading ------------------------------------------------------------------------------------------
def read_annotations(path: str | os.PathLike, split: str | None = None) -> Annotations:
    """Read and check one annotation file.

    Args:
        split: the expected split, if known.

    Raises:
        UserError: the file is missing, incomplete, of another schema or split, or a record breaks the format; the
            message names the file, the image and the key.
    """
    header, images = open_annotations(path, split)
    return Annotations(header, list(images))


def open_annotations(path: str | os.PathLike, split: str | None = None) -> tuple[dict[str, Any], Iterator[Image]]:
    """As ``read_annotations``, but the images are read one by one and are never all in memory."""
    wanted = {"schema": SCHEMA, "version": VERSION} | ({} if split is None else {"split": split})
    header, images = open_json_list(path, "images", Image, wanted, what="annotation file", hint=HINT)
    return header, _checked(images, Path(path))


def image_sizes(folder: str | os.PathLike) -> dict[int, tuple[int, int]]:
    """image id -> (width, height) of every split in a folder that ``prepare annotations`` wrote."""
    found: dict[int, tuple[int, int]] = {}
    for split in SPLITS:
        path = Path(folder) / file_name(split)
        if path.exists():
            images = open_annotations(path, split)[1]
            found.update({image["image_id"]: (image["width"], image["height"]) for image in images})
    if not found:
        raise UserError(
            f"{folder} contains no annotation file ({', '.join(map(file_name, SPLITS))}); "
            "run `xmodaler prepare annotations` first."
        )
    return found


def _checked(images: Iterable[Image], path: Path) -> Iterator[Image]:
    """Check what the types cannot express."""
    seen: set[int] = set()
    for number, image in enumerate(images):
        image_id = image["image_id"]
        for at, caption in enumerate(image["captions"]):
            for phrase in caption["phrases"]:
                if reason := _misplaced(phrase, len(caption["tokens"])):
                    where = f"{path}: image number {number} (image_id {image_id!r}): captions[{at}]"
                    raise UserError(f"{where}: {reason}. {HINT}")
        if image_id in seen:
            raise UserError(f"{path}: image {image_id} is duplicated. {HINT}")
        seen.add(image_id)
        yield image


def _misplaced(phrase: Phrase, words: int) -> str | None:
    """A problem with a phrase's positions or boxes that its type cannot express."""
    start, end, head = phrase["start"], phrase["end"], phrase["head"]
    if not (0 <= start < end <= words and (head is None or start <= head < end)):
        return f"phrase {start} to {end}, head {head}, does not fit {words} tokens"
    if (phrase["class"] is None) != (head is None):
        return f"phrase {start} to {end} must have both a class and a head, or neither"
    for x1, y1, x2, y2 in phrase["boxes"]:
        if x1 > x2 or y1 > y2:
            return f"box {[x1, y1, x2, y2]!r} is not x1 <= x2, y1 <= y2"
    return None
