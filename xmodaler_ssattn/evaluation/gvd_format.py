"""Read and check the files of Grounded Video Description's grounding evaluator.

A wrong file must never silently score 0: all problems are reported at once, each with its image and field.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.results import gvd_submission, is_results, parse_results
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.ids import id_key, plain_id
from xmodaler_ssattn.schema import typed

MODES = ("gen", "gt")


@dataclass(frozen=True)
class Reference:
    """The reference restricted to the wanted images."""

    classes: tuple[str, ...]  # the file's ``vocab`` in the file's order, else the 480 classes
    images: tuple[Mapping[str, Any], ...]  # the records that ``grounding`` and ``forced`` take


class Submission(NamedTuple):
    """A submission for the images of a reference."""

    predictions: dict[str, list[Mapping[str, Any]]]  # the input of ``grounding`` (mode "gen") and ``forced`` ("gt")
    missing: list[str]  # ids of the reference's images that it lacks
    mode: str  # "gen" or "gt"


def read_split_ids(path: str | os.PathLike, splits: Iterable[str]) -> set[str]:
    """The image ids (as strings) of the named splits of GVD's ``{"train": [id], "val": [id], "test": [id]}``.

    Raises UserError: the file cannot be read, or lacks a split.
    """
    table = read_json(path, "Split ids")
    if not isinstance(table, dict):
        raise UserError(f"Split ids {path}: expected a JSON object split -> [image id], got {type(table).__name__}.")
    ids: set[str] = set()
    for split in splits:
        if not isinstance(table.get(split), list):
            raise UserError(f"Split ids {path}: no list named {split!r}; the file has {', '.join(sorted(table))}.")
        ids.update(map(id_key, table[split]))
    return ids


Position = Annotated[int, Meta(ge=0)]
Box = tuple[float, float, float, float]
Side = Annotated[float, Meta(gt=0)]


class _Caption(Struct):
    tokens: list[str]
    process_idx: list[Position]
    process_clss: list[str]
    process_bnd_box: list[Box]


class _Image(Struct):
    captions: list[_Caption]
    image_size: tuple[Side, Side] | None = None


class _Sentence(Struct):
    idx_in_sent: list[Position]
    clss: list[str]
    bbox: list[Box]


def _list_problems(record: Mapping[str, list], positions: str, names: str, boxes: str) -> list[str]:
    """Problems of the parallel lists of one caption or sentence whose types are right."""
    lengths = {field: len(record[field]) for field in (positions, names, boxes)}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{field} has {n}" for field, n in lengths.items())
        return [f"the lists must have equal lengths, but {counts}"]
    return [
        f"{boxes}[{i}] must be 4 finite numbers x1, y1, x2, y2, found {list(box)!r:.200}"
        for i, box in enumerate(record[boxes])
        if not all(map(math.isfinite, box))
    ]


def _caption_problems(caption: Mapping[str, Any]) -> list[str]:
    """Problems of a reference caption whose types are right."""
    positions, words = caption["process_idx"], len(caption["tokens"])
    repeated = sorted({p for p in positions if positions.count(p) > 1})
    return [
        *_list_problems(caption, "process_idx", "process_clss", "process_bnd_box"),
        *(f"process_idx: position {position} is annotated twice" for position in repeated),
        *(f"process_idx: position {p} in a caption of {words} words" for p in positions if p >= words),
    ]


def check_reference(data: Any, what: str, keep: set[str] | None = None) -> Reference:
    """Check parsed reference data; ``what`` names it in messages.

    Args:
        keep: image ids (strings) to keep, others are not checked; None: all.

    Raises:
        UserError: there are problems (listed with image, caption and field), or no image is left.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("annotations"), list):
        swapped = isinstance(data, Mapping) and ("results" in data or is_results(data))
        raise UserError(
            f'{what}: expected an object with a list "annotations" (and the class names in "vocab").'
            + (" It is a submission or a results file; are reference and submission swapped?" if swapped else "")
        )
    classes = _classes(data, what)
    problems: list[str] = []
    kept: dict[str, Mapping[str, Any]] = {}
    for number, record in enumerate(data["annotations"]):
        if not isinstance(record, Mapping) or isinstance(record.get("image_id"), bool):
            problems.append(f"annotation {number}: expected an object with image_id and captions.")
            continue
        if (image_id := plain_id(record.get("image_id"))) is None:
            problems.append(
                f"annotation {number}: field image_id must be an integer from 0, got {record.get('image_id')!r:.60}."
            )
            continue
        if keep is not None and str(image_id) not in keep:
            continue
        if str(image_id) in kept:
            problems.append(f"image {image_id}: is duplicated.")
            continue
        kept[str(image_id)] = {**record, "image_id": image_id}
        try:
            typed(record, _Image)
        except UserError as error:
            problems.append(f"image {image_id}: {error}.")
            continue
        for i, caption in enumerate(record["captions"]):
            problems += [f"image {image_id}, caption {i}: {problem}." for problem in _caption_problems(caption)]
    raise_all(problems, what)
    if keep is not None and not kept:
        raise UserError(f"{what}: none of its {len(data['annotations'])} images is in the split.")
    return Reference(classes, tuple(kept.values()))


def _classes(data: Mapping[str, Any], what: str) -> tuple[str, ...]:
    classes = data["vocab"] if "vocab" in data else read_classes()
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{what}: field vocab must be a list of class names.")
    return tuple(classes)


def read_classes_of(path: str | os.PathLike) -> tuple[str, ...]:
    """The class names of a reference file; its images are not checked.

    Raises UserError: the file cannot be read, or has no list of names.
    """
    data = read_json(path, "Grounding reference")
    if not isinstance(data, Mapping):
        raise UserError(f"Grounding reference {path}: expected an object, got {type(data).__name__}.")
    return _classes(data, f"Grounding reference {path}")


def read_reference(path: str | os.PathLike, keep: set[str] | None = None) -> Reference:
    """Read ``flickr30k_cleaned_class.json`` or a file of that format. Arguments and errors as ``check_reference``."""
    data = read_json(path, "Grounding reference")
    return check_reference(data, f"Grounding reference {path}", keep)


def mode_of(data: Any, what: str, wanted: str | None) -> str:
    """ "gen" or "gt": the submission's ``eval_mode``, else the wanted mode, else "gen".

    Raises UserError: the submission's mode is not the wanted one, or is neither of the two.
    """
    stated = data.get("eval_mode") if isinstance(data, Mapping) else None
    if stated is None:
        return wanted or "gen"
    mode = stated.lower() if isinstance(stated, str) else stated
    if mode not in MODES:
        raise UserError(f"{what}, field eval_mode: expected 'gen' or 'GT', got {stated!r:.60}.")
    if wanted not in (None, mode):
        raise UserError(
            f"{what}: its eval_mode is {stated!r}, but mode {wanted!r} was asked for. Leave out --mode to score it in "
            f"its own mode, or give the submission of mode {wanted!r}."
        )
    return mode


def check_predictions(
    data: Any, what: str, mode: str, classes: Iterable[str], sentences_of: Mapping[str, int]
) -> dict[str, list[Mapping[str, Any]]]:
    """Check a parsed submission for the images that will be scored; other images are not checked.

    Args:
        data: ``{"results": {image_id: [sentence, ...]}, ...}``.
        what: names the data in messages.
        mode: "gen" (one sentence per image) or "gt" (one per reference caption).
        classes: the class names that may occur.
        sentences_of: ``{str(image_id): number of reference captions}`` of the images to be scored.

    Returns:
        ``data["results"]``, its ids without leading zeros.

    Raises:
        UserError: there are problems, listed with image, sentence and field.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be 'gen' or 'gt', got {mode!r}.")
    if not isinstance(data, Mapping) or not isinstance(data.get("results"), dict):
        raise UserError(f'{what}: expected an object with an object "results" (image id -> list of sentences).')
    results, known = {}, set(classes)
    problems: list[str] = []
    for name, sentences in data["results"].items():
        if id_key(name) in results:
            problems.append(f"image {id_key(name)}: is duplicated, also as {name!r}.")
        results[id_key(name)] = sentences
    unknown: dict[str, list[str]] = {}  # name -> the sentences that have it
    for image_id, captions in sentences_of.items():
        if image_id not in results:
            continue
        sentences, expected = results[image_id], 1 if mode == "gen" else captions
        if not isinstance(sentences, list) or len(sentences) != expected:
            got = len(sentences) if isinstance(sentences, list) else type(sentences).__name__
            for_gt = mode == "gen" and got == captions
            hint = " With one sentence per reference caption it is for --mode gt." if for_gt else ""
            problems.append(f"image {image_id}: {mode} mode expects {expected} sentence(s), got {got}.{hint}")
            continue
        for i, sentence in enumerate(sentences):
            where = f"image {image_id}, sentence {i}"
            try:
                typed(sentence, _Sentence)
                found = _list_problems(sentence, "idx_in_sent", "clss", "bbox")
            except UserError as error:
                found = [str(error)]
            problems += [f"{where}: {problem}." for problem in found]
            for name in () if found else sentence["clss"]:
                if name not in known:
                    unknown.setdefault(name, []).append(where)
    for name, places in unknown.items():
        meant = f"; is {name.strip().lower()!r} meant?" if name.strip().lower() in known else "."
        times = f" ({len(places)} times)" if len(places) > 1 else ""
        problems.append(f"{places[0]}: clss: {name!r} is not one of the {len(known)} classes{times}{meant}")
    raise_all(problems, what)
    return results


def read_submission(path: str | os.PathLike, mode: str | None, reference: Reference) -> Submission:
    """Read a submission, or a results file of ours, and check it against the reference.

    Args:
        mode: "gen" or "gt"; None: the submission's ``eval_mode``, else "gen".

    Raises:
        UserError: see ``mode_of`` and ``check_predictions``; or the submission contains none of the reference's images.
    """
    data, what = read_json(path, "Submission", finite=False), f"Submission {path}"
    mode = mode_of(data, what, mode)
    if is_results(data):
        data = gvd_submission(parse_results(data, f"Results {path}"), mode)
    elif isinstance(data, Mapping) and "annotations" in data and "results" not in data:
        raise UserError(f"{what}: it is a reference (it has annotations); are reference and submission swapped?")
    sentences_of = {str(record["image_id"]): len(record["captions"]) for record in reference.images}
    results = check_predictions(data, what, mode, reference.classes, sentences_of)
    missing = [image_id for image_id in sentences_of if image_id not in results]
    if len(missing) == len(sentences_of) and sentences_of:
        ids = f" Its ids are like {next(iter(results))!r}, the reference's like {missing[0]!r}." if results else ""
        raise UserError(
            f"{what}: it contains none of the {len(sentences_of)} images of the reference's split; "
            f"is it the submission of another split?{ids}"
        )
    return Submission(results, missing, mode)
