"""The annotation files: one JSON a split, the COCO-style references, and GVD's reference format.

``{split}.json``, one image a line after the header::

    {"schema": "xmodaler_ssattn/annotations", "version": 1, "split": "train", "source": "entities",
     "gvd_identical": false, "rule": "...", "classes": ["railing", ...], "images": [
    {"image_id": 1000, "width": 500, "height": 375, "captions": [
      {"raw": "Two men .", "tokens": ["two", "men"], "phrases": [
        {"start": 0, "end": 2, "head": 1, "class": "man", "chain": "7", "boxes": [[1, 2, 3, 4]]}]}]},
    ...]}

A phrase is ``tokens[start:end]``; ``head`` is the position of its object word, ``class`` that word's
class (both null when there is none), ``chain`` the coreference chain (null for none), ``boxes`` xyxy
pixels counted from 0 (empty when nothing is drawn).
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from xmodaler_ssattn.data.classes import union_box
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, decode_text, parse_json, read_json
from xmodaler_ssattn.ids import LARGEST_ID

SCHEMA = "xmodaler_ssattn/annotations"
VERSION = 1
SPLITS = ("train", "val", "test")
HINT = "Write it with `xmodaler prepare annotations`."

_START = '"images": ['
_CAPTION_KEYS = {"tokens": list, "raw": str, "phrases": list}
_PHRASE_KEYS = {
    "start": int,
    "end": int,
    "head": (int, type(None)),
    "class": (str, type(None)),
    "chain": (str, type(None)),
    "boxes": list,
}


@dataclasses.dataclass
class Annotations:
    """One split: its header without the images, and the images as the file has them."""

    header: dict[str, Any]
    images: list[dict[str, Any]]


def file_name(split: str) -> str:
    """``train.json`` for "train"; a ``UserError`` for a split that does not exist."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}; expected one of {', '.join(SPLITS)}.")
    return f"{split}.json"


# --- writing ------------------------------------------------------------------------------------------
class JsonListWriter:
    """Write ``{header..., "KEY": [item, item, ...]}`` without holding the items in memory, one a line."""

    def __init__(self, file: TextIO, header: Mapping[str, Any], key: str) -> None:
        self._file = file
        self.count = 0
        text = json.dumps(header, ensure_ascii=False)
        file.write(text[:-1] + (", " if header else "") + json.dumps(key) + ": [")

    def add(self, item: Any) -> None:
        self._file.write((",\n" if self.count else "\n") + json.dumps(item, ensure_ascii=False, allow_nan=False))
        self.count += 1

    def close(self) -> None:
        self._file.write("\n]}\n")


@contextlib.contextmanager
def json_list(path: str | os.PathLike, header: Mapping[str, Any], key: str) -> Iterator[JsonListWriter]:
    """A ``JsonListWriter`` on a file that appears whole when the block succeeds."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        writer = JsonListWriter(file, header, key)
        yield writer
        writer.close()


def annotation_header(
    split: str, source: str, gvd_identical: bool, rule: str, classes: Sequence[str]
) -> dict[str, Any]:
    """The header of an annotation file, in the order in which people read it."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "split": split,
        "source": source,
        "gvd_identical": gvd_identical,
        "rule": rule,
        "classes": list(classes),
    }


def coco_reference(image: Mapping[str, Any], first_id: int) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """One image of the COCO-style caption references: its ``images`` and its ``annotations`` entries."""
    annotations = [
        {"image_id": image["image_id"], "id": first_id + number, "caption": caption["raw"]}
        for number, caption in enumerate(image["captions"])
    ]
    return {"id": image["image_id"]}, annotations


def gvd_reference(image: Mapping[str, Any]) -> dict[str, Any]:
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
        split: what the file must be, when the caller knows.

    Raises:
        UserError: missing, cut short, of another schema or split, or with a record that breaks the format;
            names the file, the image and the key.
    """
    header, images = open_annotations(path, split)
    return Annotations(header, list(images))


def open_annotations(
    path: str | os.PathLike, split: str | None = None
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """As ``read_annotations``, but the images come one by one and never are in memory together.

    Files in the layout that we write are read line by line; any other layout or encoding of the JSON is read whole.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The annotation file {path} does not exist. {HINT}")
    with open(path, "rb") as file:
        first = file.readline().rstrip()
    if first.endswith(_START.encode()) and not first.startswith(codecs.BOM_UTF8):
        header = _parse(first + b"]}", path, 1)
        items = _lines(path)
    else:
        try:
            header = read_json(path, "The annotation file")
        except UserError as error:
            raise UserError(f"{error} {HINT}") from error
        if not isinstance(header, dict) or not isinstance(header.get("images"), list):
            raise UserError(f"{path} is no annotation file: it has no list 'images'. {HINT}")
        items = iter(header["images"])
    header.pop("images", None)
    for key, wanted in (("schema", SCHEMA), ("version", VERSION), ("split", split)):
        if wanted is not None and header.get(key) != wanted:
            raise UserError(f"{path}: its {key} is {header.get(key)!r}, expected {wanted!r}. {HINT}")
    return header, _checked(items, path)


def _lines(path: Path) -> Iterator[Any]:
    with open(path, "rb") as file:
        file.readline()
        line = b""
        for number, line in enumerate(file, 2):
            if line.startswith(b"]}"):
                if line.strip() != b"]}" or file.read(1 << 20).strip():
                    raise UserError(
                        f"{path}, line {number}: bytes follow behind the end; is it made of two files? {HINT}"
                    )
                return
            yield _parse(line.rstrip().removesuffix(b","), path, number)
    raise UserError(f"{path} is cut short: it does not end with ']}}' (last line: {line[:40]!r}). {HINT}")


def _parse(line: bytes, path: Path, number: int) -> Any:
    try:
        return parse_json(decode_text(line, "it"))
    except UserError as error:
        raise UserError(f"{path}, line {number}: {error} {HINT}") from error


def _checked(items: Iterable[Any], path: Path) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()
    for number, image in enumerate(items):
        try:
            _check_image(image)
        except (KeyError, TypeError, ValueError) as error:
            which = image.get("image_id") if isinstance(image, dict) else None
            reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path}: image number {number} (image_id {which!r}): {reason}. {HINT}") from error
        if image["image_id"] in seen:
            raise UserError(f"{path}: image {image['image_id']} stands twice. {HINT}")
        seen.add(image["image_id"])
        yield image


def _check_image(image: Any) -> None:
    """Raise KeyError, TypeError or ValueError for a record that breaks the format."""
    if not isinstance(image, dict):
        raise TypeError(f"expected an object, found {type(image).__name__}")
    for key in ("image_id", "width", "height"):
        if type(image[key]) is not int or image[key] > LARGEST_ID:
            raise TypeError(f"{key} must be a whole number, found {image[key]!r}")
    if image["image_id"] < 0:
        raise ValueError("image_id must be 0 or more")
    if image["width"] < 1 or image["height"] < 1:
        raise ValueError(f"width and height must be positive, found {image['width']} x {image['height']}")
    if not isinstance(image["captions"], list) or not image["captions"]:
        raise ValueError("it has no captions")
    for number, caption in enumerate(image["captions"]):
        try:
            _check_caption(caption)
        except KeyError as error:
            raise ValueError(f"caption {number}: the key {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"caption {number}: {error}") from error


def _check_caption(caption: Any) -> None:
    for key, kind in _CAPTION_KEYS.items():
        if not isinstance(caption[key], kind):
            raise TypeError(f"{key} must be of type {kind.__name__}, found {caption[key]!r}")
    tokens = caption["tokens"]
    if not tokens or not all(isinstance(token, str) and token for token in tokens):
        raise ValueError(f"tokens must be words, at least one and none empty, found {tokens!r}")
    for phrase in caption["phrases"]:
        for key, kind in _PHRASE_KEYS.items():
            if not isinstance(phrase[key], kind):
                raise TypeError(f"phrase {phrase!r}: {key} has the wrong type")
        start, end, head = phrase["start"], phrase["end"], phrase["head"]
        if not (0 <= start < end <= len(tokens) and (head is None or start <= head < end)):
            raise ValueError(f"phrase {start} to {end}, head {head}, does not fit {len(tokens)} tokens")
        if (phrase["class"] is None) != (head is None):
            raise ValueError(f"phrase {start} to {end} must have both a class and a head, or neither")
        for box in phrase["boxes"]:
            if any(type(value) not in (int, float) for value in box):
                raise TypeError(f"box {box!r} must be four numbers")
            if len(box) != 4 or not (box[0] <= box[2] and box[1] <= box[3]):
                raise ValueError(f"box {box!r} is not x1 <= x2, y1 <= y2")
