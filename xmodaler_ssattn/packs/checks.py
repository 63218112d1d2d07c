"""Check the contents of a region file that can be opened: boxes, probabilities, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.select import BORDER_TOLERANCE_PX, FRACTION, SUM_TOLERANCE
from xmodaler_ssattn.packs.store import RegionStore

IDS_SHOWN = 10


class Inspection:
    """The results of checks, without repeated sentences.

    Attributes:
        problems: a run would fail or learn from wrong numbers.
        warnings: unusual, but possible.
        facts: correct values.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.facts: list[str] = []

    def problem(self, *sentences: str) -> None:
        _add_new(self.problems, sentences)

    def warn(self, *sentences: str) -> None:
        _add_new(self.warnings, sentences)

    def fact(self, *sentences: str) -> None:
        _add_new(self.facts, sentences)

    def add(self, other: Inspection, prefix: str = "") -> None:
        """Add the results of another inspection; its facts begin with ``prefix``."""
        self.problem(*other.problems)
        self.warn(*other.warnings)
        self.fact(*(prefix + fact for fact in other.facts))


def _add_new(known: list[str], sentences: Iterable[str]) -> None:
    known.extend(sentence for sentence in dict.fromkeys(sentences) if sentence not in known)


def inspect_boxes(store: RegionStore, image_ids: Sequence[int], limit: int | None = None) -> Inspection:
    """Check every box of the given images: inside the picture, not inverted, in pixels."""
    found = Inspection()
    without, outside, inverted, fractions, empty, count = [], [], [], [], 0, 0
    for image_id in image_ids:
        if store.num_boxes(image_id) == 0:
            without.append(image_id)
            continue
        boxes = store.boxes_px(image_id, limit)
        edge = np.array(store.image_size(image_id) * 2) + BORDER_TOLERANCE_PX
        if (boxes < -BORDER_TOLERANCE_PX).any() or (boxes > edge).any() or not np.isfinite(boxes).all():
            outside.append(image_id)
        if (boxes[:, :2] > boxes[:, 2:]).any():
            inverted.append(image_id)
        if boxes.max() <= FRACTION:
            fractions.append(image_id)
        empty += int((boxes[:, :2] == boxes[:, 2:]).any(axis=1).sum())
        count += len(boxes)
    for ids, what in (
        (without, "have no region, and attention needs at least one: extract them again, or leave them out."),
        (outside, "have a box that leaves the picture by more than a pixel; are the sizes right?"),
        (inverted, "have a box with x2 < x1 or y2 < y1"),
        (fractions, "have boxes that are all within 1 pixel: fractions instead of pixels?"),
    ):
        if ids:
            found.problem(f"{store.path}: {len(ids)} images {what} First ones: {ids[:IDS_SHOWN]}")
    if empty:
        found.warn(f"{store.path}: {empty} of {count} boxes have no area.")
    if images := len(image_ids) - len(without):
        found.fact(f"{count / images:.1f} regions per image, {images:,} images")
    return found


def inspect_numbers(store: RegionStore, image_ids: Sequence[int], class_probs: bool) -> Inspection:
    """Read features and class probabilities of the given images.

    Args:
        class_probs: whether to read them.
    """
    found = Inspection()
    sums, zero, background = [], [], []
    low, high = np.inf, -np.inf
    for image_id in image_ids:
        if store.num_boxes(image_id) == 0:
            continue  # reported by inspect_boxes
        regions = store.read(image_id, class_probs=class_probs)
        try:
            regions.check_numbers(store.path)
        except UserError as error:
            found.problem(str(error))
            continue
        low, high = min(low, float(regions.features.min())), max(high, float(regions.features.max()))
        if not regions.features.any(axis=1).all():
            zero.append(image_id)
        if regions.class_probs is not None:
            sums.append(regions.class_probs.sum(axis=1))
            background.append(regions.class_probs[:, 0])
    if low <= high:
        found.fact(f"features from {low:g} to {high:g}; those of a Bottom-Up network are 0 or more")
    if zero:
        found.warn(
            f"{store.path}: {len(zero)} of {len(image_ids)} images have a region whose features "
            f"are all 0, e.g. {zero[:IDS_SHOWN]}."
        )
    if sums:
        total = np.concatenate(sums)
        if (total > 1 + SUM_TOLERANCE).any():
            found.problem(
                f"{store.path}: class probabilities of a region sum to {total.max():.3f}; expected at most 1."
            )
        elif (total < 1 - SUM_TOLERANCE).any():
            found.warn(
                f"{store.path}: class probabilities sum to {total.min():.3f}, not 1, for some region; "
                "this is right only if the background column was dropped."
            )
        share = float(np.concatenate(background).mean())
        found.fact(f"column 0 (background) has {100 * share:.0f} % of the probability on average")
    return found
