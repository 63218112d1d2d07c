"""GroundedCaption: a caption with the region of each of its words, and Caption: one of a model without attention.

The stock test loop passes only one object per image to the evaluator. A subclass of ``str`` passes through it
unchanged and works in code that expects text, including ``json.dump``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

SameClass = TypeVar("SameClass", bound="Caption")


class GroundedWord(NamedTuple):
    """One generated word and its region."""

    text: str
    region: int  # index of the chosen region among the image's K regions
    box_px: tuple[float, float, float, float]  # its box, x1, y1, x2, y2 in pixels of the original image
    weight: float  # its attention weight (gamma sums to 1 + lambda, alpha and beta to 1)


class Attention(NamedTuple):
    """The attention weights of a caption of T words over K regions, float32 arrays."""

    alpha: np.ndarray  # (T, K)
    beta: np.ndarray | None  # (K,); None for a model without spatial-semantic attention: gamma equals alpha
    gamma: np.ndarray  # (T, K)


class Caption(str):
    """A caption whose words have no regions: the model has no attention.

    Attributes:
        image_size: (width, height) in pixels; None when unknown.
        greedy: the same image's greedily decoded caption, when this one comes from beam search.
        references: the reference captions under teacher forcing; always empty without regions.
        log_prob: the model's log-probability of the caption, None when unknown.
    """

    image_size: tuple[float, float] | None
    greedy: Caption | None
    references: tuple[Caption, ...]
    log_prob: float | None

    def __new__(
        cls: type[SameClass], text: str, *, image_size: tuple[float, float] | None = None, log_prob: float | None = None
    ) -> SameClass:
        self = super().__new__(cls, text)
        self.image_size, self.log_prob = image_size, log_prob
        self.greedy, self.references = None, ()
        return self

    def with_companions(self: SameClass, *, greedy: Any = None, references: Sequence[Any] = ()) -> SameClass:
        """A copy of this caption with the image's greedy caption and forced references, captions of the same class."""
        twin = copy.copy(self)
        twin.greedy, twin.references = greedy, tuple(references)
        return twin


class GroundedCaption(Caption):
    """A caption, as text, with the region of every word.

    Attributes:
        words: one ``GroundedWord`` per word, in order; ``" ".join(w.text for w in words)`` is the text.
        boxes_px: (K, 4) float32, the image's regions, x1, y1, x2, y2 in pixels; None when unknown.
        attention: all attention weights, or None when they were not requested.
        references: the words of each reference caption with the regions attended to under teacher forcing; empty
            unless ``INFERENCE.GT_ATTENTION`` is True.
    """

    words: tuple[GroundedWord, ...]
    boxes_px: np.ndarray | None
    attention: Attention | None
    greedy: GroundedCaption | None
    references: tuple[GroundedCaption, ...]  # type: ignore[assignment]

    def __new__(
        cls,
        words: Iterable[GroundedWord],
        *,
        boxes_px: np.ndarray | None = None,
        image_size: tuple[float, float] | None = None,
        attention: Attention | None = None,
        greedy: GroundedCaption | None = None,
        references: Sequence[GroundedCaption] = (),
        log_prob: float | None = None,
    ) -> GroundedCaption:
        words = tuple(words)
        text = " ".join(word.text for word in words)
        self = super().__new__(cls, text, image_size=image_size, log_prob=log_prob)
        self.words, self.boxes_px, self.attention = words, boxes_px, attention
        self.greedy, self.references = greedy, tuple(references)
        return self

    def __getnewargs__(self) -> tuple[Any]:
        # For copy and pickle: str would call __new__ with the text. The other attributes are copied automatically.
        return (self.words,)


def ground_words(
    texts: Sequence[str],
    weights: np.ndarray,
    boxes_px: np.ndarray,
    num_regions: int,
    scores: np.ndarray | None = None,
) -> tuple[GroundedWord, ...]:
    """Give each word the region with the largest weight at its step; ties go to the lowest index.

    Args:
        texts: T words.
        weights: (>= T, >= num_regions) attention weights, one row per word; later columns are padding.
        boxes_px: (>= num_regions, 4), x1, y1, x2, y2 in pixels.
        num_regions: the image's true number of regions, > 0.
        scores: (T, num_regions), choose the region instead of ``weights``, see ``region_rules``.
    """
    if num_regions <= 0:
        raise ValueError("An image without regions cannot be grounded (num_regions is 0).")
    if not len(texts):
        return ()
    valid = weights[: len(texts), :num_regions]
    chosen = (valid if scores is None else scores).argmax(axis=1)
    words = []
    for step, (text, region) in enumerate(zip(texts, chosen, strict=True)):
        x1, y1, x2, y2 = map(float, boxes_px[region])
        words.append(GroundedWord(text, int(region), (x1, y1, x2, y2), float(valid[step, region])))
    return tuple(words)
