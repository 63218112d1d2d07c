"""The regions to which the attention of an object word should go: sparse pairs of a word and a region, with weights.

Letters: K regions, n pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD
from xmodaler_ssattn.data.annotations import Caption
from xmodaler_ssattn.data.sigma import phrase_overlap
from xmodaler_ssattn.errors import raise_all
from xmodaler_ssattn.partners import losses_of

POSITIVES = ("threshold", "best", "soft")
PAIR_LOSSES = ("WordAttentionLoss", "PointerLoss")  # losses that read the pairs of words and regions


class PairRule(NamedTuple):
    """How a box chooses regions.

    ``threshold``: all regions above ``min_iou``, each with weight 1; ``best``: the one with the largest IoU; ``soft``:
    all regions, with the weights softmax(IoU / temperature), if any IoU is above ``min_iou``.
    """

    positives: str = "threshold"
    min_iou: float = IOU_THRESHOLD
    temperature: float = 0.5


def pair_rule(cfg: Any) -> PairRule | None:
    """The rule in LOSSES.WORD_ATTENTION; None if no loss of ``PAIR_LOSSES`` is used, or it has no weight.

    Raises:
        UserError: lists all values that cannot work.
    """
    settings = cfg.LOSSES.WORD_ATTENTION
    if not losses_of(cfg, *PAIR_LOSSES) or settings.WEIGHT == 0:
        return None
    problems = []
    if settings.POSITIVES not in POSITIVES:
        problems.append(f"POSITIVES: expected one of {', '.join(POSITIVES)}; got {settings.POSITIVES!r}.")
    if not 0 <= settings.MIN_IOU < 1:
        problems.append(f"MIN_IOU: expected 0 <= MIN_IOU < 1, got {settings.MIN_IOU!r}.")
    if not 0 < settings.TEMPERATURE < float("inf"):
        problems.append(f"TEMPERATURE: expected a number > 0, got {settings.TEMPERATURE!r}.")
    raise_all(problems, "LOSSES.WORD_ATTENTION")
    return PairRule(settings.POSITIVES, settings.MIN_IOU, settings.TEMPERATURE)


def regions_of_box(overlap: np.ndarray, rule: PairRule) -> tuple[np.ndarray, np.ndarray]:
    """The regions of one box, from its overlap with each, (K,) float64.

    Returns:
        (n,) int64 region indices, ascending, and (n,) float64 weights. n is 0 when no region is above ``min_iou``.

    >>> overlap = np.array([0.9, 0.2, 0.6])
    >>> [part.tolist() for part in regions_of_box(overlap, PairRule("threshold"))]
    [[0, 2], [1.0, 1.0]]
    """
    above = np.flatnonzero(overlap > rule.min_iou)
    if len(above) == 0:
        return above, np.zeros(0)
    if rule.positives == "best":
        above = overlap.argmax(keepdims=True)  # the first of equal values
    elif rule.positives == "soft":
        weights = np.exp((overlap - overlap.max()) / rule.temperature)
        return np.arange(len(overlap)), weights / weights.sum()
    return above, np.ones(len(above))


def word_pairs(regions_px: np.ndarray, caption: Caption, words: int, rule: PairRule) -> np.ndarray:
    """The pairs of one caption.

    Args:
        regions_px: (K, 4) xyxy pixels.
        words: only the first ``words`` words of the caption are used in training.

    Returns:
        (n, 3) float32: position of the word (from 0), region, weight. An object word without a box or beyond the first
        ``words``, and a word that no region reaches, have no pair.
    """
    found = []
    for phrase in caption["phrases"]:
        head, boxes = phrase["head"], phrase["boxes"]
        if head is None or head >= words or not boxes:
            continue
        regions, weights = regions_of_box(phrase_overlap(regions_px, boxes, rule.min_iou), rule)
        found.append(np.stack([np.full(len(regions), head), regions, weights], axis=1))
    return np.concatenate(found).astype(np.float32) if found else np.zeros((0, 3), dtype=np.float32)


def of_captions(tables: Sequence[np.ndarray], chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the tables of some captions: (n,) int64, number of the caption in the sample; and (n, ...)."""
    parts = [tables[caption] for caption in chosen]
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts]), np.concatenate(parts)


def sample_pairs(pairs_of_caption: Sequence[np.ndarray], chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of an image's chosen captions, as a sample has them.

    Args:
        pairs_of_caption: from ``word_pairs``, for every caption of the image.
        chosen: the captions of the sample, in its order; may contain one twice.

    Returns:
        (n, 3) int64: number of the caption in the sample, position of the word, region; and (n,) float32 weights.
    """
    number, table = of_captions(pairs_of_caption, chosen)
    return np.column_stack([number, table[:, :2].astype(np.int64)]), table[:, 2]
