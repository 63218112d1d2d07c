"""Signs that a score is wrong although its files are well formed, as sentences to show with the score.

Boxes in another unit or order, the images of another data set, empty captions: the published evaluators
silently give all of these a score near 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou_gvd

# A box may touch the edge of its image in either convention (the last pixel, or the one after it), and be rounded.
EDGE_PX = 2.0
# Another format of the boxes is suggested when with it a quarter of them hit, and twice as many as with the given one,
READING_SHARE, READING_GAIN = 0.25, 2
# and when nearly all boxes then lie within their images, up to the rounding of a coarse unit such as percent.
FITTING_SHARE, EDGE_SHARE = 0.9, 0.01
RESIZED = (224, 256, 336, 384, 448, 512)  # common sizes of square input pictures


def grounding_doubts(
    reference: Sequence[Mapping[str, Any]], predictions: Mapping[str, Sequence[Mapping[str, Any]]], mode: str
) -> list[str]:
    """Signs of an error in predictions that ``gvd_format.check_predictions`` accepted.

    Args:
        reference, predictions: as ``grounding.match_generated`` (mode "gen") and ``forced.match_forced`` ("gt").

    Returns:
        one sentence per doubt, without a full stop; empty when there is none.
    """
    compared, boxes, sizes, images = _compared(reference, predictions, mode)
    captions = [(record["image_id"], caption) for record in reference for caption in record["captions"]]
    annotated = [(image, box) for image, caption in captions for box in caption["process_bnd_box"]]
    doubts = _unit_doubts([box for _, box in annotated], [image for image, _ in annotated], "boxes of the reference")
    if not boxes and mode == "gen":
        return [*doubts, "no sentence names an object: there are no classes and boxes, so nothing is scored"]
    if not boxes:
        return [*doubts, "no sentence has a box at any word, so every annotated word counts as a miss"]
    doubts += _unit_doubts(boxes, images, "boxes")
    px, wide_high = np.array(boxes, dtype=np.float64), np.array(sizes, dtype=np.float64)
    outside = _outside(px, wide_high, EDGE_PX) & ~_inverted(px)
    what = "reach out of their image; expected pixels of the original image, not of a resized one"
    doubts += _counted(outside, boxes, images, "boxes", what)
    if not compared:
        doubts.append(
            "no class that is predicted is annotated in its image; are the ids and classes those of this data set?"
            if mode == "gen"
            else "no annotated word position has a box; positions count all tokens of the reference, from 0"
        )
    else:
        doubts += _other_readings(compared, px, wide_high)
    return doubts


def _inverted(px: np.ndarray) -> np.ndarray:
    return (px[:, 2:] < px[:, :2]).any(axis=1)


def _outside(px: np.ndarray, size: np.ndarray, edge: float | np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN where the reference has no image size
        return ((px[:, 2:] > size + edge) | (px[:, :2] < -edge)).any(axis=1)


def _unit_doubts(boxes: Sequence[Sequence[float]], images: Sequence[Any], noun: str) -> list[str]:
    px = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    inverted = "are inverted (x2 < x1 or y2 < y1) and hit nothing; expected x1, y1, x2, y2, not x, y, width, height"
    fractions = "lie within 0..1, as fractions do; expected pixels of the original image"
    return [
        *_counted(_inverted(px), boxes, images, noun, inverted),
        *_counted((np.abs(px) <= 1).all(axis=1), boxes, images, noun, fractions),
    ]


def _counted(wrong: np.ndarray, boxes: Sequence[Any], images: Sequence[Any], noun: str, what: str) -> list[str]:
    if not wrong.any():
        return []
    first = int(np.argmax(wrong))
    count = f"{int(wrong.sum())} of {len(boxes)} {noun}"
    return [f"{count} {what}, the first one in image {images[first]}: {list(boxes[first])}"]


def _compared(reference, predictions, mode):
    """((row of a box, annotated box) pairs, boxes, their image sizes, their image ids)."""
    compared: list[tuple[int, Sequence[float]]] = []
    boxes, sizes, images = [], [], []
    for record in reference:
        sentences = predictions.get(str(record["image_id"])) or ()
        size = record.get("image_size") or (np.nan, np.nan)
        for number, sentence in enumerate(sentences):
            captions = record["captions"] if mode == "gen" else record["captions"][number : number + 1]
            key = "clss" if mode == "gen" else "idx_in_sent"
            annotated: dict[Any, list[Sequence[float]]] = {}
            for caption in captions:
                names = caption["process_clss" if mode == "gen" else "process_idx"]
                for name, box in zip(names, caption["process_bnd_box"]):
                    annotated.setdefault(name, []).append(box)
            for name, box in zip(sentence[key], sentence["bbox"]):
                compared += [(len(boxes), other) for other in annotated.get(name, ())]
                boxes.append(box)
                sizes.append(size)
                images.append(record["image_id"])
    return compared, boxes, sizes, images


def _other_readings(compared: Sequence[tuple[int, Sequence[float]]], px: np.ndarray, size: np.ndarray) -> list[str]:
    """The box format with which far more boxes hit an annotated box of their class than with the expected one."""
    rows = np.array([row for row, _ in compared])
    annotated = np.array([box for _, box in compared], dtype=np.float64)
    there = np.unique(rows)

    def fit(read: np.ndarray) -> bool:
        """Whether the boxes lie within their images; without this check, a wrong format may hit by chance."""
        return bool(np.mean(_inverted(read) | _outside(read, size, EDGE_PX + EDGE_SHARE * size)) <= 1 - FITTING_SHARE)

    def hits(read: np.ndarray) -> int:
        hit = iou_gvd(read[rows], annotated) > IOU_THRESHOLD
        return len(np.unique(rows[hit]))

    by_size = np.hstack([size, size])
    readings = {
        "x, y, width, height": np.hstack([px[:, :2], px[:, :2] + px[:, 2:]]),
        "centre x, centre y, width, height": np.hstack([px[:, :2] - px[:, 2:] / 2, px[:, :2] + px[:, 2:] / 2]),
        "x1, x2, y1, y2": px[:, [0, 2, 1, 3]],
        "y1, x1, y2, x2": px[:, [1, 0, 3, 2]],
        "fractions of the image": px * by_size,
        "percent of the image": px * by_size / 100,
        "thousandths of the image": px * by_size / 1000,
        **{f"pixels of the image resized to {n} x {n}": px * by_size / n for n in RESIZED},
    }
    given = hits(px)
    found = {name: hits(read) for name, read in readings.items() if fit(read)}
    name = max(found, key=found.__getitem__, default="")
    if not name or found[name] < max(READING_SHARE * len(there), READING_GAIN * given, 1):
        return []
    return [
        f"{given} of {len(there)} boxes hit an annotated object of their class, {found[name]} would if they were read "
        f"as {name}; expected x1, y1, x2, y2 in pixels of the original image"
    ]


def caption_doubts(
    captions: Mapping[Any, str], references: Mapping[Any, Sequence[str]], metrics: Sequence[str]
) -> list[str]:
    """Signs of an error in captions and their references, as sentences without a full stop.

    Args:
        captions: image -> the tokens of its caption.
        references: image -> the tokens of its reference captions.
        metrics: names of the metrics that are computed.
    """
    doubts = []
    empty = [str(image) for image, caption in captions.items() if not caption.strip()]
    if empty:
        doubts.append(f"{len(empty)} of {len(captions)} captions have no word, at image {_first(empty)}")
    if len(captions) > 1 and len(set(captions.values())) == 1:
        doubts.append(f"all {len(captions)} captions are the same: {next(iter(captions.values()))!r}")
    blank = [str(image) for image in captions if not any(text.strip() for text in references[image])]
    if blank:
        doubts.append(f"{len(blank)} of {len(captions)} images have references without a word: {_first(blank)}")
    capitals = sum(text != text.lower() for image in captions for text in (captions[image], *references[image]))
    if capitals:  # the tokeniser leaves none
        doubts.append(f"{capitals} of the texts have capital letters: they are scored as tokens, but are not tokenised")
    if "CIDEr" in metrics and len({frozenset(references[image]) for image in captions}) == 1:
        doubts.append(
            "CIDEr is 0 for every caption: it gives weight to phrases that few images' references contain, and "
            + ("there is only one image" if len(captions) == 1 else "all images here have the same references")
            + "; score more images"
        )
    return doubts


def _first(names: Sequence[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
