"""36 boxes per picture: around the objects, with errors, and boxes of an object's size on the background.

`propose_from_scene` uses the true boxes of the objects and simulates a detector's errors; it is used for the data set.
`picture_proposals.propose_from_picture` does the same from pixels only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.worlds.drawn.scenes import Scene

NUM_REGIONS = 36
JITTER = 0.12  # standard deviation of a side's and the centre's error, as a share of the box's width or height
MAX_BACKGROUND_IOU = 0.3
MIN_SIDE_PX = 6.0
Box = tuple[float, ...]


def propose_from_scene(scene: Scene) -> np.ndarray:
    """(NUM_REGIONS, 4) float32 xyxy pixels: two or three boxes for each object, then background boxes."""
    rng = random.Random(f"{scene.seed}/proposals")
    objects = [tuple(map(float, item.box_px)) for item in scene.objects]
    boxes = [jittered(box, scene.width, scene.height, rng) for box in objects for _ in range(rng.choice((2, 3)))]
    return fill_with_background(boxes[:NUM_REGIONS], objects, scene.width, scene.height, rng)


def jittered(box: Box, width: int, height: int, rng: random.Random) -> Box:
    """The box with its centre moved and its sides changed by errors of JITTER, kept inside the picture."""
    x1, y1, x2, y2 = box
    wide, tall = x2 - x1, y2 - y1
    x = (x1 + x2) / 2 + rng.gauss(0, JITTER) * wide
    y = (y1 + y2) / 2 + rng.gauss(0, JITTER) * tall
    wide *= max(0.5, 1 + rng.gauss(0, JITTER))
    tall *= max(0.5, 1 + rng.gauss(0, JITTER))
    return inside((x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2), width, height)


def inside(box: Sequence[float], width: int, height: int) -> Box:
    """The box clipped to the picture, with sides of MIN_SIDE_PX at least."""
    x1, x2 = _clip(box[0], box[2], width)
    y1, y2 = _clip(box[1], box[3], height)
    return x1, y1, x2, y2


def _clip(low: float, high: float, size: int) -> tuple[float, float]:
    low, high = max(0.0, low), min(float(size), high)
    if high - low < MIN_SIDE_PX:
        middle = min(max((low + high) / 2, MIN_SIDE_PX / 2), size - MIN_SIDE_PX / 2)
        low, high = middle - MIN_SIDE_PX / 2, middle + MIN_SIDE_PX / 2
    return low, high


def fill_with_background(
    boxes: Sequence[Box], objects: Sequence[Box], width: int, height: int, rng: random.Random
) -> np.ndarray:
    """Add boxes of the objects' sizes at places that no object fills, up to NUM_REGIONS."""
    sizes = [(x2 - x1, y2 - y1) for x1, y1, x2, y2 in objects] or [(0.2 * width, 0.2 * height)]
    known = np.asarray(objects, dtype=np.float64).reshape(-1, 4)
    boxes = list(boxes)
    while len(boxes) < NUM_REGIONS:
        for _ in range(5):  # after five tries in a crowded picture any place will do
            wide, tall = (side * rng.uniform(0.8, 1.25) for side in rng.choice(sizes))
            x, y = rng.uniform(0, max(0.0, width - wide)), rng.uniform(0, max(0.0, height - tall))
            box = inside((x, y, x + wide, y + tall), width, height)
            if len(known) == 0 or iou(np.asarray([box]), known).max() < MAX_BACKGROUND_IOU:
                break
        boxes.append(box)
    return np.asarray(boxes, dtype=np.float32)
