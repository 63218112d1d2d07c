"""The choice of objects for captions: large and central objects and some kinds are preferred.

Spatial-Semantic Attention can learn this in the drawn scenes: salience depends only on p (size, place) and c (kind).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from xmodaler_ssattn.worlds.drawn.scenes import Scene, SceneObject

SIZE_WEIGHT = 3.0  # on the logarithm of the box's share of the picture
CENTRE_WEIGHT = 9.0  # on the distance of the box's centre from the picture's, in picture diagonals
APPEAL_WEIGHT = 3.8  # on the kind's appeal
NEARNESS_WEIGHT = 5.0  # a second object is one near the first; distance in picture diagonals


def salience(scene: Scene) -> list[float]:
    """One number for each object; mention chances are proportional to its exponential."""
    values = []
    for item in scene.objects:
        x1, y1, x2, y2 = item.box_px
        share = (x2 - x1) * (y2 - y1) / (scene.width * scene.height)
        away = math.dist(_centre(item), (scene.width / 2, scene.height / 2)) / _diagonal(scene)
        values.append(SIZE_WEIGHT * math.log(share) - CENTRE_WEIGHT * away + APPEAL_WEIGHT * item.kind.appeal)
    return values


def choose_first(scene: Scene, rng: random.Random) -> int:
    """The object that a caption is about."""
    return _sample(salience(scene), rng)


def choose_second(scene: Scene, first: int, rng: random.Random) -> int | None:
    """Another object, salient or near the first, of another kind; None when there is none."""
    values = salience(scene)
    here = scene.objects[first]
    for index, item in enumerate(scene.objects):
        if item.kind is here.kind:
            values[index] = -math.inf
        else:
            values[index] -= NEARNESS_WEIGHT * math.dist(_centre(item), _centre(here)) / _diagonal(scene)
    return _sample(values, rng) if max(values) > -math.inf else None


def _sample(values: Sequence[float], rng: random.Random) -> int:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return rng.choices(range(len(values)), weights)[0]


def _centre(item: SceneObject) -> tuple[float, float]:
    x1, y1, x2, y2 = item.box_px
    return (x1 + x2) / 2, (y1 + y2) / 2


def _diagonal(scene: Scene) -> float:
    return math.hypot(scene.width, scene.height)
