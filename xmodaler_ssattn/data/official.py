"""Make annotation records from the official Entities files (our rule), or from GVD's prepared file.

Problems are not raised but returned as ``Problem``, so that the caller can show them all at once or continue without
the affected parts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict, TypeVar

from msgspec import Meta

from xmodaler_ssattn.classes import class_of_phrase
from xmodaler_ssattn.data.annotations import Box, Caption, Image, Phrase
from xmodaler_ssattn.data.entities import read_objects, read_sentences, token_of
from xmodaler_ssattn.data.splits import CAPTIONS_PER_IMAGE
from xmodaler_ssattn.data.vocabulary import Vocabulary
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.ids import plain_id
from xmodaler_ssattn.packs.region_file import MAX_SIDE
from xmodaler_ssattn.schema import typed

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A part of the data that cannot be used."""

    image_id: int
    message: str  # a sentence with the file and the line or key
    left_out: str  # the part that is left out if the user continues: "image", "boxes of the phrase", "box" or "nothing"
    lack: str = ""  # a phrase such as "have no Sentences file", if the images with this problem are counted, not listed


@dataclasses.dataclass
class Loaded:
    """One image as read."""

    image_id: int
    record: Image | None = None  # None when it cannot be used
    tokens: list[str] = dataclasses.field(default_factory=list)  # for the vocabulary
    problems: list[Problem] = dataclasses.field(default_factory=list)
    boxes: int = 0  # ``bndbox`` elements
    clipped: int = 0  # those that exceeded the border by a pixel


# --- Sentences/ and Annotations/ ---------------------------------------------------------------------
def load_entities(image_id: int, sentences: Path, objects_file: Path | None) -> Loaded:
    """Read one image's files of ``Sentences`` and ``Annotations``; classes come later (``add_classes``).

    Without ``objects_file`` only the words are read, for an image outside all splits.
    """
    loaded = Loaded(image_id)
    captions: dict[int, Caption] = {}
    objects = None
    try:
        captions = read_sentences(sentences)
        loaded.tokens = [token for caption in captions.values() for token in caption["tokens"]]
    except UserError as error:
        loaded.problems.append(Problem(image_id, str(error), "image"))
    try:
        objects = read_objects(objects_file) if objects_file is not None else None
    except UserError as error:
        loaded.problems.append(Problem(image_id, str(error), "image"))
    if objects is None or not captions:
        return loaded
    loaded.problems += [Problem(image_id, str(problem), "box") for problem in objects.problems]
    loaded.boxes, loaded.clipped = objects.boxes, objects.clipped
    for line, caption in captions.items():
        for phrase in caption["phrases"]:
            chain = phrase["chain"]
            phrase["boxes"] = objects.boxes_px.get(chain, [])
            if not phrase["boxes"] and chain is not None and chain not in objects.without_box:
                words = " ".join(caption["tokens"][phrase["start"] : phrase["end"]])
                message = f"{sentences}, line {line}: chain {chain} of the phrase {words!r} is not in {objects_file}."
                loaded.problems.append(Problem(image_id, message, "boxes of the phrase"))
    loaded.record = {
        "image_id": image_id,
        "width": objects.width,
        "height": objects.height,
        "captions": list(captions.values()),
    }
    return loaded


def add_classes(record: Image, classes: Collection[str], lemma: Callable[[str], str]) -> None:
    """Fill ``class`` and ``head`` of every phrase by the fallback rule (``classes.class_of_phrase``)."""
    for caption in record["captions"]:
        for phrase in caption["phrases"]:
            words = caption["tokens"], phrase["start"], phrase["end"]
            phrase["class"], phrase["head"] = class_of_phrase(*words, classes, lemma)


# --- flickr30k_cleaned_class.json and dic_flickr30k.json ---------------------------------------------
class GvdCaption(TypedDict):
    """One sentence; the entries of the three lists ``process_*`` belong together."""

    tokens: list[str]
    process_idx: list[int]
    process_clss: list[str]
    process_bnd_box: list[Box]


class GvdImage(TypedDict):
    """The parts of an image of ``flickr30k_cleaned_class.json`` that are read."""

    image_size: Annotated[list[int | float], Meta(min_length=2)]
    captions: list[GvdCaption]


class GvdFile(TypedDict):
    """``flickr30k_cleaned_class.json``; its entries are checked one by one."""

    vocab: list[Any]
    annotations: list[Any]


class _Words(TypedDict):
    ix_to_word: dict[str, Any]
    wtod: dict[str, Any]
    wtol: dict[str, Any]


class GvdDictionary(_Words, total=False):  # NotRequired needs Python 3.11
    """The parts of ``dic_flickr30k.json`` that are read; ``images`` may be missing."""

    images: list[dict[str, Any]]


class OfficialFile(NamedTuple):
    """GVD's prepared annotations: the class names, and the images by id."""

    path: Path
    classes: list[str]
    images: dict[int, Mapping[str, Any]]


class OfficialDictionary(NamedTuple):
    """GVD's dictionary: vocabulary, classes in the order of its evaluator, and lemma of each word."""

    vocabulary: Vocabulary
    classes: list[str]
    lemmas: dict[str, str]
    image_ids: list[int]


def _read(path: str | os.PathLike, what: str, kind: type[T], name: str) -> T:
    try:
        return typed(read_json(path, what), kind)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}; expected GVD's {name}.") from error


def read_official(path: str | os.PathLike) -> OfficialFile:
    """Read ``flickr30k_cleaned_class.json``; a ``UserError`` names missing or duplicated entries."""
    content = _read(path, "GVD's annotations", GvdFile, "flickr30k_cleaned_class.json")
    names = content["vocab"]
    problems = []
    for at, name in enumerate(names):
        if not isinstance(name, str):
            problems.append(f"vocab[{at}] is {name!r}, expected a name")
        if (first := names.index(name)) < at:
            problems.append(f"the class {name!r} is duplicated: vocab[{first}] and vocab[{at}]")
    images = {}
    for number, image in enumerate(content["annotations"]):
        image_id = plain_id(image.get("image_id")) if isinstance(image, dict) else None
        if image_id is None:
            problems.append(f"annotations[{number}] has no integer image_id")
        elif image_id in images:
            problems.append(f"image {image_id} is duplicated in annotations[{number}]")
        else:
            images[image_id] = image
    raise_all(problems, str(path))
    return OfficialFile(Path(path), names, images)


def read_dictionary(path: str | os.PathLike) -> OfficialDictionary:
    """Read ``dic_flickr30k.json``; a ``UserError`` names a missing key or a gap in the indices."""
    content = _read(path, "GVD's dictionary", GvdDictionary, "dic_flickr30k.json")
    words = content["ix_to_word"]
    indices = [str(index) for index in range(1, len(words) + 1)]
    if gaps := [index for index in indices if index not in words]:
        raise UserError(f"{path}: ix_to_word lacks the indices {', '.join(gaps[:10])} of 1 to {len(words)}.")
    vocabulary = Vocabulary([words[index] for index in indices], f"{path}, ix_to_word")
    if odd := [word for word, lemma in content["wtol"].items() if not isinstance(lemma, str)]:
        raise UserError(f"{path}: wtol must give a word for each word, but {odd[0]!r} has {content['wtol'][odd[0]]!r}.")
    ids = [plain_id(image["id"]) for image in content.get("images", []) if "id" in image]
    if None in ids:
        raise UserError(f"{path}: images[{ids.index(None)}] has an id that is not an integer.")
    return OfficialDictionary(vocabulary, list(content["wtod"]), content["wtol"], ids)


def load_official(file: OfficialFile, image_id: int) -> Loaded:
    """One image of GVD's file as a record; empty tokens are dropped and positions adjusted."""
    loaded = Loaded(image_id)
    if image_id not in file.images:
        message, lack = f"image {image_id} is not in {file.path}.", f"are not in {file.path}"
        loaded.problems.append(Problem(image_id, message, "image", lack))
        return loaded
    known = set(file.classes)
    try:
        image = typed(file.images[image_id], GvdImage)
        captions = [_official_caption(caption, known) for caption in image["captions"]]
        width, height = image["image_size"][:2]
        if len(captions) != CAPTIONS_PER_IMAGE:
            raise UserError(f"it has {len(captions)} captions, expected {CAPTIONS_PER_IMAGE}")
        if not all(1 <= side <= MAX_SIDE and side == int(side) for side in (width, height)):
            raise UserError(f"image_size is {image['image_size']}, expected two whole numbers of pixels")
    except UserError as error:
        loaded.problems.append(Problem(image_id, f"{file.path}, image {image_id}: {error}.", "image"))
        return loaded
    loaded.tokens = [token for caption in captions for token in caption["tokens"]]
    loaded.boxes = len({tuple(box) for caption in captions for phrase in caption["phrases"] for box in phrase["boxes"]})
    loaded.record = {"image_id": image_id, "width": int(width), "height": int(height), "captions": captions}
    return loaded


def _official_caption(caption: GvdCaption, known: Collection[str]) -> Caption:
    position: dict[int, int] = {}
    words: list[str] = []
    for index, word in enumerate(caption["tokens"]):
        if token_of(word):
            position[index] = len(words)
            words.append(word)
    if not words:
        raise UserError("a caption has no words")
    places, names, boxes = caption["process_idx"], caption["process_clss"], caption["process_bnd_box"]
    if not len(places) == len(names) == len(boxes):
        raise UserError(
            f"process_idx, process_clss and process_bnd_box have {len(places)}, {len(names)} and {len(boxes)} entries"
        )
    phrases: list[Phrase] = []
    for place, name, box in zip(places, names, boxes):
        if place not in position:
            raise UserError(f"process_idx {place} is not the position of a word of {caption['tokens']}")
        if name not in known:
            raise UserError(f"the class {name!r} is not in 'vocab'")
        if box[2] < box[0] or box[3] < box[1]:
            raise UserError(f"process_bnd_box {box} is not x1 <= x2, y1 <= y2")
        head = position[place]
        phrases.append({"start": head, "end": head + 1, "head": head, "class": name, "chain": None, "boxes": [box]})
    return {"raw": " ".join(words), "tokens": [token_of(word) for word in words], "phrases": phrases}
