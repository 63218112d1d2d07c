"""Check the contents of a region file that can be opened: boxes, probabilities, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.select import BORDER_TOLERANCE_PX, FRACTION, SUM_TOLERANCE
from xmodaler_ssattn.packs.store import RegionStore

IDS_SHOWN = 10
SAME_BOX = 0.9  # IoU of two boxes around the same pixels
SAME_FEATURE = 0.9  # median cosine of the features of the same boxes; rounding in another program changes little


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
    """Check the features and, if wanted, the class probabilities of the given images."""
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


def inspect_against(store: RegionStore, known: RegionStore) -> Inspection:
    """Compare regions with known ones of the same pictures, to see whether a detector is the one that made those.

    For each known region, the region with the largest IoU in the other file is compared: how many boxes are reached,
    and the cosine of the features of boxes with an IoU of at least SAME_BOX. Their order and number may differ.
    """
    found = Inspection()
    shared = [image_id for image_id in known.ids.tolist() if image_id in store and known.num_boxes(image_id)]
    if not shared:
        found.problem(f"{store.path} and {known.path} have no image in common; were the ids taken from other names?")
        return found
    if store.feature_dim != known.feature_dim:
        found.problem(f"the features have {store.feature_dim} numbers, those of {known.path} {known.feature_dim}")
        return found
    if sizes := [image_id for image_id in shared if store.image_size(image_id) != known.image_size(image_id)]:
        found.problem(f"{len(sizes)} images have another size than in {known.path}, e.g. {sizes[:IDS_SHOWN]}")
        return found
    overlaps, cosines = [], []
    for image_id in shared:
        ours, theirs = (one.read(image_id, class_probs=False) for one in (store, known))
        table = iou(theirs.boxes_px, ours.boxes_px)
        nearest, best = table.argmax(axis=1), table.max(axis=1)
        a, b = theirs.features.astype(np.float64), ours.features[nearest].astype(np.float64)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        overlaps.append(best)
        cosines.append(((a * b).sum(axis=1) / np.maximum(lengths, 1e-12))[best >= SAME_BOX])
    overlap, cosine = np.concatenate(overlaps), np.concatenate(cosines)
    found.fact(
        f"{len(shared)} images are also in {known.path}; of their {len(overlap):,} boxes there, "
        f"{100 * np.mean(overlap > 0.5):.1f} % are reached with IoU > 0.5 and "
        f"{100 * np.mean(overlap >= SAME_BOX):.1f} % with IoU >= {SAME_BOX:g}"
    )
    if not len(cosine):
        found.problem(f"no box is the same as in {known.path}: another detector, or boxes in another unit or order")
        return found
    low, median = np.quantile(cosine, [0.05, 0.5])
    found.fact(f"features of the same boxes: the median of their cosine is {median:.3f}, 5 % are below {low:.3f}")
    if median < SAME_FEATURE:
        found.problem(
            f"the features are not those of {known.path}: the median cosine of {len(cosine):,} same boxes is "
            f"{median:.3f}, expected more than {SAME_FEATURE:g} from the same detector"
        )
    return found
