"""References and predictions of the caption metrics, in the common formats.

Image ids are strings here: JSON turns the keys of an object into strings, and COCO-style lists hold integers. Leading
zeros are ignored (``ids.id_key``), so that predictions named after files find references with COCO's numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.results import is_results, parse_results
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.ids import id_key

SWAPPED = "are references and predictions swapped?"


def _image_id(record: Any, key: str) -> str | None:
    value = record.get(key) if isinstance(record, Mapping) else None
    return None if isinstance(value, bool) or not isinstance(value, (int, str)) else id_key(value)


def _coco_captions(records: Sequence[Any], name: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """(image, caption) of each record ``{"image_id", "caption"}``; ``name`` is the name of the list in ``problems``."""
    for number, record in enumerate(records):
        if (image := _image_id(record, "image_id")) is None:
            problems.append(f"{name}[{number}], field image_id: expected an image id.")
        elif not isinstance(record.get("caption"), str):
            problems.append(f"image {image}, field caption: expected a text, got {record.get('caption')!r}.")
        else:
            yield image, record["caption"]


def _add(found: dict[str, Any], name: str, value: Any, problems: list[str]) -> None:
    """Put the entry of an image into ``found``, without the leading zeros of its name."""
    image = id_key(name)
    if image in found:
        problems.append(f"image {image}: is duplicated, also as {name!r}.")
    found.setdefault(image, value)


def read_reference_captions(path: str | os.PathLike) -> dict[str, list[str]]:
    """Read reference captions.

    Args:
        path: ``{image_id: [caption, ...]}`` or, in COCO style, ``{"images": [{"id"}], "annotations": [{"image_id",
            "caption"}]}``.

    Returns:
        image id -> its captions, in the file's order; for COCO style in the order of ``images``.

    Raises:
        UserError: an image or field is wrong (the message names it), or an image has no caption.
    """
    data, what = read_json(path, "References"), f"References {path}"
    if not isinstance(data, Mapping) or is_results(data):
        got = "a results file" if isinstance(data, Mapping) else type(data).__name__
        raise UserError(
            f"{what}: expected an object, image id -> [caption] or COCO style, got {got}"
            + (f"; {SWAPPED}" if data and not isinstance(data, str) else ".")
        )
    problems: list[str] = []
    references: dict[str, list[str]] = {}
    if isinstance(data.get("annotations"), list):
        images = data.get("images", [])
        if not isinstance(images, list):
            problems.append(f"field images: expected a list of objects with an id, got {images!r:.60}.")
            images = []
        for number, record in enumerate(images):
            if (image := _image_id(record, "id")) is None:
                problems.append(f"images[{number}], field id: expected an image id.")
            else:
                references.setdefault(image, [])
        for image, caption in _coco_captions(data["annotations"], "annotations", problems):
            references.setdefault(image, []).append(caption)
    elif data and all(isinstance(caption, str) for caption in data.values()):
        first = next(iter(data))
        raise UserError(
            f"{what}: image {first}: expected a list of captions, as of every image here got one caption; {SWAPPED}"
        )
    else:
        for name, captions in data.items():
            if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                problems.append(f"image {id_key(name)}: expected a list of captions.")
            else:
                _add(references, name, captions, problems)
    empty = [image for image, captions in references.items() if not captions]
    problems += [f"image {image}: there is no reference caption." for image in empty if not problems]
    raise_all(problems, what)
    if not references:
        raise UserError(f"{what}: it contains no reference caption.")
    return references


def read_predictions(path: str | os.PathLike, *, greedy: bool = False) -> dict[str, str]:
    """Read predicted captions.

    Args:
        path: ``{image_id: caption}``, COCO style results ``[{"image_id", "caption"}]``, or our results file.
        greedy: take the greedy captions of our results file; other formats have one caption per image.

    Raises:
        UserError: an image or field is wrong (the message names it), or an image is duplicated.
    """
    data, what = read_json(path, "Predictions"), f"Predictions {path}"
    if is_results(data):
        images = parse_results(data, what).images
        pairs = [(str(r.image_id), getattr(r.caption, "greedy", None) if greedy else r.caption) for r in images]
        absent = [image for image, caption in pairs if caption is None]
        if absent:
            raise UserError(f"{what}: no greedy caption for image {', '.join(absent[:10])}.")
        return {image: str(caption) for image, caption in pairs}
    problems: list[str] = []
    predictions: dict[str, str] = {}
    if isinstance(data, list):
        for image, caption in _coco_captions(data, "entries", problems):
            if image in predictions:
                problems.append(f"image {image}: is duplicated.")
            predictions[image] = caption
    elif isinstance(data, Mapping):
        if isinstance(data.get("annotations"), list) or (
            data and all(isinstance(captions, list) and len(captions) > 1 for captions in data.values())
        ):
            raise UserError(f"{what}: expected one caption per image, got several; {SWAPPED}")
        for name, caption in data.items():
            if not isinstance(caption, str):
                problems.append(f"image {id_key(name)}: expected a caption, got {caption!r:.60}.")
            else:
                _add(predictions, name, caption, problems)
    else:
        raise UserError(f"{what}: expected an object or a list, got {type(data).__name__}.")
    raise_all(problems, what)
    if not predictions:
        raise UserError(f"{what}: it contains no caption.")
    return predictions


def keep_common(references: Mapping[str, Any], predictions: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The predictions that have references, and the reference images without a prediction.

    Raises UserError: an image with a prediction has no references (a score over the rest would hide a mix-up).
    """
    unknown = [image for image in predictions if image not in references]
    if unknown:
        hint = ""
        if len(unknown) == len(predictions):
            hint = f" The references have ids like {next(iter(references))!r}; are they of the same data set and split?"
        raise UserError(
            f"Predictions: {len(unknown)} of {len(predictions)} images have no references: {', '.join(unknown[:10])}."
            + hint
        )
    return dict(predictions), [image for image in references if image not in predictions]
