"""The results file: everything that a scorer or a report needs about a model's captions, without the model.

One JSON object::

    {"schema": "xmodaler_ssattn/results", "version": 1,
     "split": "val", "epoch": 3, "ground_by": "gamma", "region_rule": "argmax",
     "config_sha256": "...", "loss_sha256": "...", "config": "the whole config as yaml",
     "scores": {"CIDEr": 0.61, ...},                  fractions; null where a score is 0/0
     "object_words": {"men": "man", ...},             word -> class, for the words of these captions
     "images": [{"image_id": 1, "image_size": [w, h] or null,
                 "caption": CAPTION, "greedy": CAPTION or null,
                 "forced": [SENTENCE, ...],           with INFERENCE.GT_ATTENTION: GVD's gt-mode sentences
                 "boxes_px": [[x1, y1, x2, y2], ...]  with INFERENCE.SAVE_ATTENTION
                }, ...]}

    CAPTION  {"text": "...", "words": [{"text": "man", "region": 4, "box_px": [x1, y1, x2, y2], "weight": 0.71}, ...],
              "log_prob": -9.1 or null,
              "attention": {"alpha": ARRAY, "beta": ARRAY or null, "gamma": ARRAY}   with INFERENCE.SAVE_ATTENTION}
    ARRAY    {"dtype": "float16", "shape": [T, K], "base64": "..."}  little-endian, row by row

``caption`` is the model's main caption (from beam search when that is on), ``greedy`` its greedy one. Boxes are in
pixels of the original image. A caption without grounding (of a model without attention) has no "words" and no
"attention". Readers ignore keys that they do not know.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct

from xmodaler_ssattn.caption import Attention, Caption, GroundedCaption, GroundedWord
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.grounding import record_of
from xmodaler_ssattn.files import read_json, write_json
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.schema import typed

SCHEMA = "xmodaler_ssattn/results"
VERSION = 1


@dataclass(frozen=True)
class ImageResult:
    """One image's captions."""

    image_id: int
    caption: str  # the main one: a ``GroundedCaption`` or ``Caption``, with ``greedy`` if there is one, or a plain text
    forced: tuple[Mapping[str, Any], ...] = ()  # GVD's sentence of each reference caption, under teacher forcing

    @property
    def grounded(self) -> GroundedCaption | None:
        """The caption whose grounding is scored: the greedy one, else the main one; None when there are no boxes."""
        caption = getattr(self.caption, "greedy", None)
        caption = self.caption if caption is None else caption
        return caption if isinstance(caption, GroundedCaption) else None


@dataclass(frozen=True)
class Results:
    """A results file."""

    images: tuple[ImageResult, ...]  # in the file's order
    object_words: Mapping[str, str] = field(default_factory=dict)  # word -> class
    header: Mapping[str, Any] = field(default_factory=dict)  # every other top-level entry: split, epoch, scores, ...


# --- writing --------------------------------------------------------------------------------------------------------


def _short(value: float) -> float:
    """The shortest decimal that gives the same float32."""
    return float(str(np.float32(value)))


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """An array as float16 in base64. float16 keeps three digits, enough for display but not for scoring."""
    array = np.ascontiguousarray(array, dtype="<f2")
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"dtype": "float16", "shape": list(array.shape), "base64": data}


def _caption_record(caption: str, save_attention: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"text": str(caption)}
    if isinstance(caption, Caption):
        record["log_prob"] = None if caption.log_prob is None else float(caption.log_prob)
    if not isinstance(caption, GroundedCaption):
        return record
    record["words"] = [
        {"text": word.text, "region": int(word.region), "box_px": list(map(_short, word.box_px)),
         "weight": _short(word.weight)}
        for word in caption.words
    ]  # fmt: skip
    if save_attention and caption.attention is not None:
        record["attention"] = {
            name: None if array is None else encode_array(array) for name, array in caption.attention._asdict().items()
        }
    return record


def _image_record(result: ImageResult, save_attention: bool) -> dict[str, Any]:
    caption = result.caption
    size, boxes = getattr(caption, "image_size", None), getattr(caption, "boxes_px", None)
    greedy = getattr(caption, "greedy", None)
    record: dict[str, Any] = {
        "image_id": int(result.image_id),
        "image_size": None if size is None else list(map(_short, size)),
        "caption": _caption_record(caption, save_attention),
        "greedy": None if greedy is None else _caption_record(greedy, save_attention),
    }
    if result.forced:
        record["forced"] = list(result.forced)
    if save_attention and boxes is not None:
        record["boxes_px"] = [list(map(_short, box)) for box in np.asarray(boxes)]
    return record


def write_results(path: str | os.PathLike, results: Results, *, save_attention: bool = False) -> None:
    """Write a results file atomically.

    Args:
        save_attention: also write the K boxes, beta, and alpha and gamma of every word, if the captions have them.
    """
    header = dict(results.header)
    if "scores" in header:
        header["scores"] = {k: None if math.isnan(v) else v for k, v in header["scores"].items()}
    data = {"schema": SCHEMA, "version": VERSION, **header, "object_words": dict(results.object_words)}
    data["images"] = [_image_record(result, save_attention) for result in results.images]
    write_json(path, data)


# --- reading --------------------------------------------------------------------------------------------------------


class _Word(Struct):
    text: str
    region: Annotated[int, Meta(ge=0)]
    box_px: tuple[float, float, float, float]
    weight: float


class _Array(Struct):
    dtype: Literal["float16"]
    shape: list[int]
    base64: str

    def decoded(self) -> np.ndarray:
        try:
            data = base64.b64decode(self.base64, validate=True)
            return np.frombuffer(data, dtype="<f2").reshape(self.shape).astype(np.float32)
        except ValueError as error:
            raise UserError(f"not a float16 array ({error})") from error


class _Attention(Struct):
    alpha: _Array
    gamma: _Array
    beta: _Array | None = None


class _Caption(Struct):
    text: str
    words: list[_Word] | None = None
    log_prob: float | None = None
    attention: _Attention | None = None

    def caption(self, image_size: Any, boxes_px: np.ndarray | None) -> Caption:
        if self.words is None:
            return Caption(self.text, image_size=image_size, log_prob=self.log_prob)
        words = [GroundedWord(word.text, word.region, word.box_px, word.weight) for word in self.words]
        for number, word in enumerate(words):
            if not all(map(math.isfinite, (*word.box_px, word.weight))):
                raise UserError(f"words[{number}] must have finite numbers, found {word!r}")
        attention = None
        if self.attention is not None:
            alpha, beta, gamma = self.attention.alpha, self.attention.beta, self.attention.gamma
            attention = Attention(alpha.decoded(), None if beta is None else beta.decoded(), gamma.decoded())
        return GroundedCaption(
            words, attention=attention, log_prob=self.log_prob, image_size=image_size, boxes_px=boxes_px
        )


class _Image(Struct):
    image_id: int
    caption: _Caption
    greedy: _Caption | None = None
    image_size: tuple[float, float] | None = None
    boxes_px: list[tuple[float, float, float, float]] | None = None
    forced: list[dict[str, Any]] = []

    def result(self) -> ImageResult:
        boxes = None if self.boxes_px is None else np.array(self.boxes_px, dtype=np.float32).reshape(-1, 4)
        caption = self.caption.caption(image_size=self.image_size, boxes_px=boxes)
        greedy = None if self.greedy is None else self.greedy.caption(image_size=self.image_size, boxes_px=boxes)
        if greedy is not None and type(caption) is type(greedy):
            caption = caption.with_companions(greedy=greedy)
        return ImageResult(self.image_id, caption, tuple(self.forced))


def decode_array(record: Any) -> np.ndarray:
    """The inverse of ``encode_array``, as float32. Raises UserError for a record that is not one."""
    return typed(record, _Array).decoded()


def is_results(data: Any) -> bool:
    """Whether parsed JSON claims to be a results file."""
    return isinstance(data, Mapping) and data.get("schema") == SCHEMA


def parse_results(data: Any, what: str) -> Results:
    """Check parsed JSON and turn it into captions; ``what`` names it in messages. The list of images is consumed.

    Raises UserError: another schema or version, a wrong field (with its image), or a duplicated image.
    """
    if not is_results(data):
        raise UserError(f'{what}: expected an object with "schema": "{SCHEMA}".')
    if data.get("version") != VERSION:
        raise UserError(f"{what}: version {data.get('version')!r} is not the one this program reads ({VERSION}).")
    words = data.get("object_words", {})
    if not isinstance(words, Mapping) or not isinstance(data.get("images"), list):
        raise UserError(f"{what}: expected an object object_words and a list images.")
    images: dict[int, ImageResult] = {}
    for number, record in enumerate(progress(data["images"], desc=what)):
        data["images"][number] = None  # free the parsed text, which takes 1 GB for 31,014 images
        try:
            image = typed(record, _Image).result()
        except UserError as error:
            name = record.get("image_id", f"number {number}") if isinstance(record, Mapping) else f"number {number}"
            raise UserError(f"{what}: image {name}: {error}.") from error
        if image.image_id in images:
            raise UserError(f"{what}: image {image.image_id} is duplicated.")
        images[image.image_id] = image
    header = {k: v for k, v in data.items() if k not in ("schema", "version", "object_words", "images")}
    return Results(tuple(images.values()), dict(words), header)


def read_results(path: str | os.PathLike) -> Results:
    """Read a results file. Raises UserError; see ``parse_results``."""
    return parse_results(read_json(path, "Results"), f"Results {path}")


# --- GVD ------------------------------------------------------------------------------------------------------------


def sentence_of(words: Sequence[GroundedWord], object_words: Mapping[str, str]) -> dict[str, list]:
    """GVD's record of one sentence: class, position and box of each object word, repeated ones included."""
    return record_of(
        (object_words[word.text], i, list(word.box_px)) for i, word in enumerate(words) if word.text in object_words
    )


def gvd_predictions(images: Iterable[ImageResult], object_words: Mapping[str, str], mode: str = "gen") -> dict:
    """``{str(image_id): [sentence, ...]}`` as ``grounding`` (mode "gen") and ``forced`` (mode "gt") take it.

    Raises UserError: the captions of an image have no boxes or, in mode "gt", no forced sentences.
    """
    predictions: dict[str, list[Mapping[str, Any]]] = {}
    for result in images:
        caption, what = result.grounded, f"image {result.image_id}"
        if mode == "gt" and not result.forced:
            raise UserError(f"{what}: no forced sentences; evaluate with INFERENCE.GT_ATTENTION True.")
        if mode == "gen" and caption is None:
            raise UserError(f"{what}: its caption has no regions, so it cannot be grounded.")
        sentences = list(result.forced) if mode == "gt" else [sentence_of(caption.words, object_words)]
        predictions[str(result.image_id)] = sentences
    return predictions


def gvd_submission(results: Results, mode: str = "gen") -> dict[str, Any]:
    """A submission that GVD's ``eval_grd_flickr30k_entities.py`` reads (its ``--eval_mode`` is in ``eval_mode``)."""
    return {
        "results": gvd_predictions(results.images, results.object_words, mode),
        "eval_mode": {"gen": "gen", "gt": "GT"}[mode],
        "external_data": {"used": True, "details": "Region features of an object detector trained on Visual Genome."},
    }
