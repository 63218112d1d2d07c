"""A simulated detector with errors: the K boxes that it reports for a picture, whether objects are mentioned or not.

``detect_invented`` is the detector of the world of captions, ``detect_real`` the one of the world of annotations, whose
errors depend on the size of the objects. Both return (K, 4) float64 xyxy boxes in whole pixels, in random order.
"""

from __future__ import annotations

import numpy as np

from xmodaler_ssattn.boxes import area as area_of
from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.worlds.simulated.assumptions import AnnotationsAssumptions, CaptionsAssumptions
from xmodaler_ssattn.worlds.simulated.world import MIN_AREA, MIN_SIDE_PX, REFERENCE_AREA, Layout

# Background boxes are as large as objects are: median area, spread of its logarithm and of the aspect's.
_BACKGROUND_AREA, _BACKGROUND_SPREAD, _BACKGROUND_ASPECT_SPREAD = 0.04, 1.0, 0.4
_ROUNDS = 20  # of filling up; a picture too small for K different boxes then gets similar ones


def detect_invented(a: CaptionsAssumptions, num_regions: int, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """One good box of most objects (the largest in a crowded picture), then loose ones, parts and background."""
    objects = layout.boxes_px.astype(float)
    area = area_of(objects)
    seen = np.flatnonzero(rng.random(len(objects)) >= a.missed)
    best = rng.permutation(seen)[:num_regions]
    if len(seen) > num_regions:
        best = _largest(seen, area, num_regions)
    rest = num_regions - len(best)
    which, what = np.zeros(rest, dtype=int), np.full(rest, 2)
    if len(objects):
        which = _by_size(area, rest, rng)
        what = rng.choice(3, size=rest, p=(a.loose_share, a.partial_share, 1 - a.loose_share - a.partial_share))
    boxes = [
        _jittered(objects[best], a.jitter, rng),
        _jittered(objects[which[what == 0]], a.loose_jitter, rng),
        _parts(objects[which[what == 1]], rng),
        _background(int((what == 2).sum()), layout, rng),
    ]
    return rng.permutation(_inside(np.concatenate(boxes), layout))


def detect_real(a: AnnotationsAssumptions, num_regions: int, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """One region per object that is not missed (the largest of too many), then duplicates, then parts of objects and
    background, without pairs whose IoU is above ``suppress_iou``.
    """
    objects = layout.boxes_px.astype(float)
    area = np.maximum(layout.area(objects), MIN_AREA)
    overlooked = a.missed + a.missed_small * np.exp(-area / a.missed_area)
    seen = rng.permutation(np.flatnonzero(rng.random(len(objects)) >= overlooked))
    if len(seen) > num_regions:
        seen = _largest(seen, area, num_regions)
    more = rng.permutation(np.repeat(seen, rng.binomial(a.most_duplicates, a.duplicate_chance, size=len(seen))))
    source = np.concatenate([seen, more])
    spread = a.jitter * np.exp(a.jitter_spread * rng.standard_normal(len(source)))
    spread = spread * (area[source] / REFERENCE_AREA) ** -a.jitter_area
    boxes = _inside(_jittered(objects[source], spread[:, None], rng), layout)
    kept = _apart(np.zeros((0, 4)), boxes, a.suppress_iou, num_regions)
    for round_ in range(_ROUNDS):
        lacking = num_regions - len(kept)
        if not lacking:
            break
        some = int(rng.binomial(lacking, a.partial_share)) if len(objects) else 0
        which = _by_size(area, some, rng) if some else np.zeros(0, dtype=int)
        boxes = np.concatenate([_parts(objects[which], rng), _background(lacking - some, layout, rng)])
        limit = a.suppress_iou if round_ < _ROUNDS - 1 else 1.0
        kept = _apart(kept, _inside(boxes, layout), limit, num_regions)
    return rng.permutation(kept)


def _largest(numbers: np.ndarray, area: np.ndarray, most: int) -> np.ndarray:
    return numbers[np.argsort(-area[numbers], kind="stable")[:most]]


def _by_size(area: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The numbers of `count` objects, larger ones more often."""
    chance = np.sqrt(area)
    return rng.choice(len(area), size=count, p=chance / chance.sum())


def _apart(kept: np.ndarray, boxes: np.ndarray, limit: float, most: int) -> np.ndarray:
    """`kept` and, in their order, those of `boxes` whose IoU with all before them is at most `limit`."""
    candidates = np.concatenate([kept, boxes])
    overlap = iou(candidates, candidates)
    chosen = list(range(len(kept)))
    for number in range(len(kept), len(candidates)):
        if len(chosen) < most and overlap[number, chosen].max(initial=0.0) <= limit:
            chosen.append(number)
    return candidates[chosen]


def _jittered(boxes: np.ndarray, spread: float | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    centres = centres + spread * rng.standard_normal(centres.shape) * sides
    sides = sides * np.exp(spread * rng.standard_normal(sides.shape))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def _parts(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece of each box: 0.35 to 0.7 of each side, anywhere in it."""
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = rng.uniform(0.35, 0.7, sides.shape)
    corner = boxes[:, :2] + rng.random(sides.shape) * (1 - kept) * sides
    return np.concatenate([corner, corner + kept * sides], axis=1)


def _background(count: int, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    area = np.exp(np.log(_BACKGROUND_AREA) + _BACKGROUND_SPREAD * rng.standard_normal(count))
    area = np.clip(area, MIN_AREA, 0.6) * layout.width * layout.height
    wide = np.sqrt(area * np.exp(_BACKGROUND_ASPECT_SPREAD * rng.standard_normal(count)))
    sides = np.stack([np.minimum(wide, 0.95 * layout.width), np.minimum(area / wide, 0.95 * layout.height)], axis=1)
    corner = rng.random((count, 2)) * ((layout.width, layout.height) - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def _inside(boxes: np.ndarray, layout: Layout) -> np.ndarray:
    """Whole pixels, inside the picture, with sides of at least MIN_SIDE_PX."""
    size = np.array([layout.width, layout.height], dtype=float)
    low = np.clip(np.rint(boxes[:, :2]), 0, size - MIN_SIDE_PX)
    high = np.clip(np.rint(boxes[:, 2:]), low + MIN_SIDE_PX, size)
    return np.concatenate([low, high], axis=1)
