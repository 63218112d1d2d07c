"""36 boxes per picture: around the objects, with errors, and boxes of an object's size on the background.

`propose_from_scene` uses the true boxes of the objects and simulates a detector's errors; it is used for the data set.

`propose_from_picture` does the same from the pixels only. The background of a scene changes from top to bottom and
hardly from left to right, and objects seldom hide it at the left and right border: a pixel that differs from both
belongs to an object. Objects that touch are split by their colours and outlines, and the parts are joined again, pair
by pair, the tightest fit first; every union on the way is a candidate. The region maker's class probabilities decide
which candidates show whole objects.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from xmodaler_ssattn.boxes import area, iou
from xmodaler_ssattn.worlds.drawn.brush import INK, SKIN
from xmodaler_ssattn.worlds.drawn.kinds import COLOURS, GLASS, METAL, TROUSERS, WOOD
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


# --- from the pixels only ------------------------------------------------------------------------------
DIFFERENCE = 70.0  # sum over the channels plus the largest, from which a pixel is foreground
BORDER = 2  # columns at the left and right that show the background
DARK, MIN_DARK = 105, 0.02  # objects have outlines: a part with fewer dark pixels than this share is a cloud
MIN_WHOLE = 4e-4  # of the picture's pixels: smaller connected parts are dust
MIN_FRAGMENT = 1.0e-4
MAX_FRAGMENTS = 40
TOUCHING = 4  # pixels between the boxes of two fragments that may belong together
LONGEST_SIDE = 640  # larger pictures are searched at this size
SAME_OBJECT = 0.7  # of the smaller box inside the other one: both show the same object
SIZE_BONUS = 0.15  # exponent of the area: of a whole and a part of it, equally likely, the whole is taken
SHIFT = 0.06  # of a side: likeness is the mean over the box and four copies moved by this much, against the noise
MIN_LIKENESS = 0.2  # less likely candidates are left out
SHARE_OF_OBJECTS = 0.45  # of the boxes, as in the data set; the others are background


def propose_from_picture(picture: Image.Image, class_probs: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Boxes from the pixels only, (NUM_REGIONS, 4) float32 xyxy; the same picture always gives the same ones.

    They are the best candidates, each object once, jittered copies of them, and background boxes, in the shares that
    the data set has. ``class_probs``: (n, 4) boxes -> (n, C) what each crop shows, background first.
    """
    picture = picture.convert("RGB")
    width, height = picture.size
    rng = random.Random(zlib.crc32(picture.tobytes()))
    shrink = max(1.0, max(width, height) / LONGEST_SIDE)
    small = picture if shrink == 1.0 else picture.resize((round(width / shrink), round(height / shrink)))
    boxes = [inside([shrink * side for side in box], width, height) for box in candidates(small)]
    found = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    kept = _best(found, _likeness(found, class_probs, width, height)) if len(found) else []
    objects = [tuple(box) for box in found[kept].tolist()]
    boxes = list(objects)
    while objects and len(boxes) < round(NUM_REGIONS * SHARE_OF_OBJECTS):
        boxes.append(jittered(objects[len(boxes) % len(objects)], width, height, rng))
    return fill_with_background(boxes, objects, width, height, rng)


def _likeness(
    boxes_px: np.ndarray, class_probs: Callable[[np.ndarray], np.ndarray], width: int, height: int
) -> np.ndarray:
    """(n,) the confidence that a box contains an object of one kind."""
    sides = np.tile(boxes_px[:, 2:] - boxes_px[:, :2], 2)
    moves = SHIFT * np.asarray([(0, 0, 0, 0), (1, 0, 1, 0), (-1, 0, -1, 0), (0, 1, 0, 1), (0, -1, 0, -1)])
    copies = [inside(box, width, height) for move in moves for box in (boxes_px + move * sides).tolist()]
    probs = class_probs(np.asarray(copies, dtype=np.float32)).reshape(len(moves), len(boxes_px), -1)
    return probs.mean(axis=0)[:, 1:].max(axis=1)


def _best(boxes_px: np.ndarray, likeness: np.ndarray) -> list[int]:
    """Numbers of the likeliest boxes, at most NUM_REGIONS; no part of a likelier box, and no box around one."""
    kept: list[int] = []
    score = likeness * area(boxes_px) ** SIZE_BONUS
    for number in np.argsort(-score, kind="stable").tolist():
        if len(kept) == NUM_REGIONS:
            break
        if kept and likeness[number] < MIN_LIKENESS:
            continue
        common = _intersections(boxes_px[number], boxes_px[kept])
        if (common <= SAME_OBJECT * np.minimum(area(boxes_px[[number]]), area(boxes_px[kept]))).all():
            kept.append(number)
    return kept


def _intersections(box_px: np.ndarray, others_px: np.ndarray) -> np.ndarray:
    sides = np.minimum(box_px[2:], others_px[:, 2:]) - np.maximum(box_px[:2], others_px[:, :2])
    return np.clip(sides, 0, None).prod(axis=1)


def candidates(picture: Image.Image) -> list[tuple[float, ...]]:
    """Boxes (x1, y1, x2, y2 in pixels) of whatever differs from the background: about 150, many of parts of objects."""
    pixels = np.asarray(picture)
    mask = fill_holes(foreground(picture))
    wholes = label(mask.astype(np.int8))
    boxes, sizes = boxes_and_sizes(wholes)
    dark = np.bincount(wholes[mask & (pixels.max(axis=2) < DARK)], minlength=len(boxes) + 1)[1:]
    objects = np.flatnonzero((sizes >= MIN_WHOLE * mask.size) & (dark >= MIN_DARK * sizes))

    labels = label(np.where(mask, _nearest_colour(pixels), 0))
    fragments, fragment_sizes = boxes_and_sizes(labels)
    owner = np.zeros(len(fragments) + 1, dtype=np.int64)
    owner[labels.ravel()] = wholes.ravel()
    found = [boxes[number] for number in objects]
    for number in objects:
        members = np.flatnonzero((owner[1:] == number + 1) & (fragment_sizes >= MIN_FRAGMENT * mask.size))
        members = members[np.argsort(-fragment_sizes[members], kind="stable")][:MAX_FRAGMENTS]
        if len(members) > 1:
            found += _unions(fragments[members], fragment_sizes[members], sizes[number])
    return [tuple(map(float, box)) for box in found]


def foreground(picture: Image.Image) -> np.ndarray:
    """(height, width) bool: pixels that differ from the background of their rows."""
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float32)
    farness = [_difference(pixels, side) for side in (pixels[:, :BORDER], pixels[:, -BORDER:])]
    middle = np.median(pixels, axis=1, keepdims=True)
    # The middle of a row helps where a cloud or the texture reaches the border, unless a large object is there.
    known = np.minimum(*(_difference(middle, side) for side in (pixels[:, :BORDER], pixels[:, -BORDER:])))
    farness.append(np.where(known < DIFFERENCE, _difference(pixels, middle), np.inf))
    return np.minimum.reduce(farness) > DIFFERENCE


def _difference(pixels: np.ndarray, background: np.ndarray) -> np.ndarray:
    apart = np.abs(pixels - background.mean(axis=1, keepdims=True))
    return apart.sum(axis=2) + apart.max(axis=2)


_PALETTE = np.asarray([INK, *COLOURS.values(), SKIN, TROUSERS, GLASS, METAL, WOOD], dtype=np.float32)


def _nearest_colour(pixels: np.ndarray) -> np.ndarray:
    """(height, width) int64: the number of the nearest colour that objects are drawn in; 0 is the outline's ink."""
    flat = pixels.reshape(-1, 3).astype(np.float32)
    scores = flat @ (2 * _PALETTE.T) - (_PALETTE**2).sum(axis=1)
    return scores.argmax(axis=1).reshape(pixels.shape[:2])


def _unions(boxes: np.ndarray, sizes: np.ndarray, whole_size: int) -> list[np.ndarray]:
    """Join neighbouring fragments until none are left; returns the boxes of all fragments and unions."""
    boxes, sizes = boxes.astype(np.float64), sizes.astype(np.float64)
    found = list(boxes)
    while len(boxes) > 1:
        low = np.minimum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.maximum(boxes[:, None, 2:], boxes[None, :, 2:])
        gap = np.maximum(boxes[:, None, :2], boxes[None, :, :2]) - np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        areas = (high - low).prod(axis=2)
        together = sizes[:, None] + sizes[None, :]
        # A small union of well-filled boxes first: the parts of one object, before two objects.
        cost = (areas - together) / whole_size + 0.5 * together / whole_size
        cost[(gap.max(axis=2) > TOUCHING) | np.eye(len(boxes), dtype=bool)] = np.inf
        a, b = divmod(int(cost.argmin()), len(boxes))
        if not np.isfinite(cost[a, b]):
            break
        union, size = np.concatenate([low[a, b], high[a, b]]), sizes[a] + sizes[b]
        keep = [index for index in range(len(boxes)) if index not in (a, b)]
        boxes, sizes = np.vstack([boxes[keep], union]), np.append(sizes[keep], size)
        found.append(union)
    return found


# --- connected parts -----------------------------------------------------------------------------------
def label(values: np.ndarray) -> np.ndarray:
    """Number the connected parts of equal value; pixels are neighbours when they share a side.

    (h, w) integers, 0 is empty -> (h, w) int64, 0 or the number of the part, from 1 in the order of its first pixel.

    >>> label(np.array([[1, 0, 1], [1, 1, 1], [0, 0, 0], [2, 0, 2]]))
    array([[1, 0, 1],
           [1, 1, 1],
           [0, 0, 0],
           [2, 0, 3]])
    """
    height, width = values.shape
    flat = values.ravel()
    starts = np.ones((height, width), dtype=bool)
    starts[:, 1:] = values[:, 1:] != values[:, :-1]
    run = np.cumsum(starts) - 1  # each pixel's run: equal neighbours in its row
    touching = (flat[:-width] == flat[width:]) & (flat[width:] != 0)
    pairs = np.stack([run[:-width][touching], run[width:][touching]])
    first = np.arange(run[-1] + 1)  # each run points to an earlier run of its part, in the end to the first
    while pairs.size:
        np.minimum.at(first, pairs[1], pairs[0])
        while (first[first] != first).any():
            first = first[first]
        pairs = np.sort(first[pairs], axis=0)
        pairs = pairs[:, pairs[0] != pairs[1]]
    filled = flat[starts.ravel()] != 0  # of each run
    number = np.cumsum(filled & (first == np.arange(len(first))))
    return np.where(filled, number[first], 0)[run].reshape(height, width)


def boxes_and_sizes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) int64 x1, y1, x2, y2 (x2, y2 exclusive) and pixel counts (n,) of the parts 1..n."""
    rows, columns = np.nonzero(labels)
    number = labels[rows, columns] - 1
    sizes = np.bincount(number)
    low, high = np.full((2, len(sizes)), max(labels.shape)), np.zeros((2, len(sizes)), dtype=np.int64)
    for axis, place in enumerate((columns, rows)):
        np.minimum.at(low[axis], number, place)
        np.maximum.at(high[axis], number, place + 1)
    return np.concatenate([low, high]).T, sizes


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with filled holes, which are empty parts that do not reach the border."""
    outside = label((~np.pad(mask, 1)).astype(np.int8))
    return (outside != outside[0, 0])[1:-1, 1:-1]
