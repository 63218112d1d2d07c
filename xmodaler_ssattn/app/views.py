"""What the page shows of one captioned picture, as plain values that need no Gradio.

Letters: K regions, T words. Positions of words count from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.report.plot import PALETTE

# Attention weights -> their name on the page.
KINDS = {"gamma": "\u03b3 gamma", "alpha": "\u03b1 alpha", "beta": "\u03b2 beta"}
MEANINGS = {
    "gamma": "the attention that the model uses: alpha and beta together",
    "alpha": "the attention of each word, from what was written before it",
    "beta": "the attention to where a region is and what it shows, the same for all words",
}
ALL = -1  # all object words, where one word can be chosen by its position
MOST_SIDE = 1600  # pixels of the picture on the page; its boxes are listed in pixels of the original
VEIL = np.array([10, 15, 22], dtype=np.float32)  # the page of `xmodaler report` has the same dark
OPACITY, FILL = 0.82, 0.18
Box = tuple[float, float, float, float]


class Answer(NamedTuple):
    """A captioned picture."""

    name: str  # of the file
    picture: Image.Image  # upright RGB, at most MOST_SIDE on its longer side
    scale: float  # pixels of ``picture`` per pixel of the original
    caption: GroundedCaption  # with attention; boxes in pixels of the original
    objects: tuple[int, ...]  # positions of the object words
    ground_by: str  # the weights that chose the words' boxes, a key of KINDS
    notice: str = ""  # a remark about the picture


def shrunk(picture: Image.Image) -> tuple[Image.Image, float]:
    """The picture at the size of the page, and its scale.

    >>> shrunk(Image.new("RGB", (3200, 800)))[0].size
    (1600, 400)
    """
    scale = min(1.0, MOST_SIDE / max(picture.size))
    if scale == 1.0:
        return picture, scale
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS), scale


def kinds_of(caption: GroundedCaption) -> list[str]:
    """The weights that the caption has; a model without beta has alpha only, which then is its gamma."""
    has_beta = caption.attention is not None and caption.attention.beta is not None
    return list(KINDS) if has_beta else ["alpha"]


def labels_of(answer: Answer) -> dict[int, str]:
    """Position of an object word -> its label; a repeated word gets a number.

    A caption "a dog and a dog" has the labels {1: "dog", 4: "dog 2"}.
    """
    labels: dict[int, str] = {}
    counts: Counter[str] = Counter()
    for at in answer.objects:
        text = answer.caption.words[at].text
        counts[text] += 1
        labels[at] = text if counts[text] == 1 else f"{text} {counts[text]}"
    return labels


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """Label -> colour, in the order of the caption."""
    return {label: PALETTE[at % len(PALETTE)] for at, label in enumerate(labels)}


def highlighted(answer: Answer) -> list[tuple[str, str | None]]:
    """The caption in pieces, between which Gradio puts spaces: (object word, its label), (the words between, None).

    "a dog and a car" is [("a", None), ("dog", "dog"), ("and a", None), ("car", "car")].
    """
    labels = labels_of(answer)
    pieces: list[tuple[str, str | None]] = []
    for at, word in enumerate(answer.caption.words):
        label = labels.get(at)
        if label is None and pieces and pieces[-1][1] is None:
            pieces[-1] = (f"{pieces[-1][0]} {word.text}", None)
        else:
            pieces.append((word.text, label))
    return pieces


def clicked(answer: Answer, piece: int) -> int:
    """The position of the object word that is this piece of ``highlighted``; ALL for the text between them."""
    labels = [label for _, label in highlighted(answer)]
    if not 0 <= piece < len(labels) or labels[piece] is None:
        return ALL
    return next(at for at, label in labels_of(answer).items() if label == labels[piece])


def weights_of(answer: Answer, kind: str, at: int) -> np.ndarray:
    """(K,) float32 weights at the word with that position."""
    attention = answer.caption.attention
    assert attention is not None  # the app asks for it
    if kind == "beta":
        assert attention.beta is not None
        return attention.beta
    return (attention.alpha if kind == "alpha" else attention.gamma)[at]


def place_of(answer: Answer, kind: str, at: int) -> tuple[Box, float]:
    """The box of a word by these weights, xyxy pixels of the original, and its weight.

    By the weights that the model grounds with, it is the box of the caption; by others the one with the largest weight.
    """
    word, boxes = answer.caption.words[at], answer.caption.boxes_px
    if kind == answer.ground_by or boxes is None:
        return word.box_px, word.weight
    weights = weights_of(answer, kind, at)
    best = int(weights.argmax())
    x1, y1, x2, y2 = map(float, boxes[best])
    return (x1, y1, x2, y2), float(weights[best])


def boxes_of(answer: Answer, kind: str) -> list[tuple[str, Box, float]]:
    """(label, box, weight) of each object word, see ``place_of``."""
    return [(label, *place_of(answer, kind, at)) for at, label in labels_of(answer).items()]


def outline(answer: Answer, box_px: Box) -> np.ndarray:
    """(H, W) float32, the opacity of a box on ``answer.picture``: 1 at its border, FILL inside, 0 outside."""
    width, height = answer.picture.size
    line = max(2, round(max(width, height) / 250))
    mask = np.zeros((height, width), dtype=np.float32)
    x1, y1, x2, y2 = (round(side * answer.scale) for side in box_px)
    x1, x2 = min(max(x1, 0), width - 1), min(max(x2, x1 + 1), width)
    y1, y2 = min(max(y1, 0), height - 1), min(max(y2, y1 + 1), height)
    mask[y1:y2, x1:x2] = 1
    mask[y1 + line : y2 - line, x1 + line : x2 - line] = FILL
    return mask


def shaded(answer: Answer, weights: np.ndarray) -> Image.Image:
    """The picture under a veil that is thin where weights (K,) >= 0 are large, as on the page of `xmodaler report`."""
    boxes = answer.caption.boxes_px
    assert boxes is not None
    width, height = answer.picture.size
    veil = np.ones((height, width, 1), dtype=np.float32)
    shares = np.clip(weights / max(float(weights.max(initial=0)), 1e-12), 0, 1)
    for share, box in zip(shares, np.rint(boxes * answer.scale).astype(int)):
        x1, y1, x2, y2 = np.clip(box, 0, (width, height, width, height))
        veil[y1:y2, x1:x2] *= 1 - share
    veil *= OPACITY
    pixels = np.asarray(answer.picture, dtype=np.float32) * (1 - veil) + VEIL * veil
    return Image.fromarray(pixels.astype(np.uint8))


def marked(
    answer: Answer, kind: str, at: int | None
) -> tuple[tuple[Image.Image, list[tuple[np.ndarray, str]]], dict[str, str]]:
    """The picture with boxes, ((picture, [((H, W) opacity, label), ...]), label -> colour).

    Args:
        at: the position of one word, which is shown with its attention; None: all object words.
    """
    labels = labels_of(answer)
    colours = colours_of(list(labels.values()))
    if at is None:
        boxes = [(outline(answer, box), label) for label, box, _ in boxes_of(answer, kind)]
        return (answer.picture, boxes), colours
    label = labels.get(at, answer.caption.words[at].text)
    box, _ = place_of(answer, kind, at)
    shown = shaded(answer, weights_of(answer, kind, at))
    return (shown, [(outline(answer, box), label)]), {label: colours.get(label, "#FFFFFF")}


def reading(answer: Answer, kind: str, at: int | None) -> str:
    """A sentence about what the picture shows now."""
    letter = KINDS[kind].split()[0]
    if at is None:
        if not answer.caption.words:
            return "The model wrote no word for this picture."
        if not answer.objects:
            return "The caption names no object; choose a word to see its attention."
        return f"The box of each object word by {letter}, {MEANINGS[kind]}."
    (x1, y1, x2, y2), weight = place_of(answer, kind, at)
    word = f"\u201c{answer.caption.words[at].text}\u201d"
    whose = f"{letter}, the same for all words" if kind == "beta" else f"{letter} of {word}"
    return (
        f"{whose}: bright regions have much of it. The box of {word}, {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}, has "
        f"{weight:.2f}."
    )


def table(answer: Answer, kind: str) -> str:
    """The boxes as an HTML table; all text from models is escaped."""
    found = boxes_of(answer, kind)
    if not found:
        return ""
    heads = "".join(f"<th scope='col'>{head}</th>" for head in ("word", "x1", "y1", "x2", "y2", "weight"))
    rows = []
    for label, box, weight in found:
        cells = "".join(f"<td>{side:.0f}</td>" for side in box)
        rows.append(f"<tr><th scope='row'>{escape(label)}</th>{cells}<td>{weight:.2f}</td></tr>")
    caption = f"<caption>Boxes in pixels of {escape(answer.name)}</caption>"
    return f"<table class='boxes'>{caption}<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def word_choices(answer: Answer) -> list[tuple[str, int]]:
    """(label, value) for the choice of a word: first all object words, then each word by its position."""
    return [("all object words", ALL), *((word.text, at) for at, word in enumerate(answer.caption.words))]
