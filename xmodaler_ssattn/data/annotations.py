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

import codecs
import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TextIO, TypedDict

from msgspec import Meta

from xmodaler_ssattn.boxes import union_box
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, decode_text, parse_json, parse_quickly, read_json
from xmodaler_ssattn.ids import LARGEST_ID
from xmodaler_ssattn.schema import typed

SCHEMA = "xmodaler_ssattn/annotations"
VERSION = 1
SPLITS = ("train", "val", "test")
HINT = "Write it with `xmodaler prepare annotations`."

_START = '"images": ['

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
class JsonListWriter:
    """Write one item per line."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._separator = file, "\n"

    def add(self, item: Any) -> None:
        self._file.write(self._separator + json.dumps(item, ensure_ascii=False, allow_nan=False))
        self._separator = ",\n"


@contextlib.contextmanager
def json_list(path: str | os.PathLike, header: Mapping[str, Any], key: str) -> Iterator[JsonListWriter]:
    """Write ``{header..., "KEY": [item, item, ...]}`` without keeping the items in memory; the file is renamed to
    ``path`` when the block succeeds."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        text = json.dumps(header, ensure_ascii=False)
        file.write(f"{text[:-1]}{', ' if header else ''}{json.dumps(key)}: [")
        yield JsonListWriter(file)
        file.write("\n]}\n")


def annotation_header(
    split: str, source: str, gvd_identical: bool, rule: str, classes: Sequence[str]
) -> dict[str, Any]:
    """The header of an annotation file, in reading order."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "split": split,
        "source": source,
        "gvd_identical": gvd_identical,
        "rule": rule,
        "classes": list(classes),
    }


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
    """As ``read_annotations``, but the images are read one by one and are never all in memory.

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
            raise UserError(f"{path} is not an annotation file: it has no list 'images'. {HINT}")
        items = ((None, image) for image in header["images"])
    header.pop("images", None)
    for key, wanted in (("schema", SCHEMA), ("version", VERSION), ("split", split)):
        if wanted is not None and header.get(key) != wanted:
            raise UserError(f"{path}: its {key} is {header.get(key)!r}, expected {wanted!r}. {HINT}")
    return header, _checked(items, path)


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


def _lines(path: Path) -> Iterator[tuple[Image | None, Any]]:
    """The images of a file in our layout, in the form for ``_checked``."""
    with open(path, "rb") as file:
        file.readline()
        line = b""
        for number, line in enumerate(file, 2):
            if line.startswith(b"]}"):
                if line.strip() != b"]}" or file.read(1 << 20).strip():
                    raise UserError(f"{path}, line {number}: bytes follow the end; is it made of two files? {HINT}")
                return
            item = line.rstrip().removesuffix(b",")
            image = parse_quickly(item, Image)
            yield image, _parse(item, path, number) if image is None else None
    raise UserError(f"{path} is cut short: it does not end with ']}}' (last line: {line[:40]!r}). {HINT}")


def _parse(line: bytes, path: Path, number: int) -> Any:
    try:
        return parse_json(decode_text(line, "it"))
    except UserError as error:
        raise UserError(f"{path}, line {number}: {error} {HINT}") from error


def _checked(items: Iterable[tuple[Image | None, Any]], path: Path) -> Iterator[Image]:
    """Check images, each given with its types, or as None and the plain value that is read."""
    seen: set[int] = set()
    for number, (image, item) in enumerate(items):
        try:
            image = typed(item, Image) if image is None else image
            for at, caption in enumerate(image["captions"]):
                for phrase in caption["phrases"]:
                    if reason := _misplaced(phrase, len(caption["tokens"])):
                        raise UserError(f"captions[{at}]: {reason}")
        except UserError as error:
            known = item if image is None else image
            which = known.get("image_id") if isinstance(known, dict) else None
            raise UserError(f"{path}: image number {number} (image_id {which!r}): {error}. {HINT}") from error
        if image["image_id"] in seen:
            raise UserError(f"{path}: image {image['image_id']} is duplicated. {HINT}")
        seen.add(image["image_id"])
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
