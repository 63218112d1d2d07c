"""A detector's errors around real boxes: what it overlooks, finds twice, draws too large or beside the thing.

Whether an object is mentioned or annotated plays no part.
"""

from __future__ import annotations

import numpy as np

from xmodaler_ssattn.boxes import area as area_of
from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.worlds.simulated.parameters import RealBoxes
from xmodaler_ssattn.worlds.simulated.regions import background, inside, jittered, parts
from xmodaler_ssattn.worlds.simulated.scene import MIN_AREA, Scene

_REFERENCE_AREA = 0.1
_ROUNDS = 20  # of filling up; a picture too small for K different boxes then gets similar ones


def detect(a: RealBoxes, num_regions: int, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """(K, 4) float64 boxes in whole pixels, in random order: of each object that is not overlooked one region, then
    duplicates, then parts of objects and background, without two whose IoU is above ``suppress_iou``.

    Where more objects are seen than there are regions, the largest get one.
    """
    objects = scene.boxes_px.astype(float)
    area = np.maximum(area_of(objects) / (scene.width * scene.height), MIN_AREA)
    overlooked = a.missed + a.missed_small * np.exp(-area / a.missed_area)
    seen = rng.permutation(np.flatnonzero(rng.random(len(objects)) >= overlooked))
    if len(seen) > num_regions:
        seen = seen[np.argsort(-area[seen], kind="stable")[:num_regions]]
    more = rng.permutation(np.repeat(seen, rng.binomial(a.most_duplicates, a.duplicate_chance, size=len(seen))))
    source = np.concatenate([seen, more])
    spread = a.jitter * np.exp(a.jitter_spread * rng.standard_normal(len(source)))
    spread = spread * (area[source] / _REFERENCE_AREA) ** -a.jitter_area
    boxes = inside(jittered(objects[source], spread[:, None], rng), scene.width, scene.height)
    kept = _apart(np.zeros((0, 4)), boxes, a.suppress_iou, num_regions)
    for round_ in range(_ROUNDS):
        lacking = num_regions - len(kept)
        if not lacking:
            break
        boxes = inside(_rest(a, lacking, objects, area, scene, rng), scene.width, scene.height)
        kept = _apart(kept, boxes, a.suppress_iou if round_ < _ROUNDS - 1 else 1.0, num_regions)
    return rng.permutation(kept)


def _rest(
    a: RealBoxes, count: int, objects: np.ndarray, area: np.ndarray, scene: Scene, rng: np.random.Generator
) -> np.ndarray:
    """(count, 4): parts of objects, larger ones more often, and background."""
    some = int(rng.binomial(count, a.partial_share)) if len(objects) else 0
    chance = np.sqrt(area)
    which = rng.choice(len(objects), size=some, p=chance / chance.sum()) if some else np.zeros(0, dtype=int)
    return np.concatenate([parts(objects[which], rng), background(count - some, scene, rng)])


def _apart(kept: np.ndarray, boxes: np.ndarray, limit: float, most: int) -> np.ndarray:
    """`kept` and, in their order, those of `boxes` whose IoU with all before them is at most `limit`."""
    candidates = np.concatenate([kept, boxes])
    overlap = iou(candidates, candidates)
    chosen = list(range(len(kept)))
    for number in range(len(kept), len(candidates)):
        if len(chosen) < most and overlap[number, chosen].max(initial=0.0) <= limit:
            chosen.append(number)
    return candidates[chosen]
