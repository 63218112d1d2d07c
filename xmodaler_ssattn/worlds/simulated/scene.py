"""One simulated picture: which objects it holds, and where.

The objects that its captions mention come first, then others that nobody mentions. All random numbers are drawn from
the seed and the image's id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from xmodaler_ssattn.worlds.simulated.captions import Talk
from xmodaler_ssattn.worlds.simulated.kinds import PLACES
from xmodaler_ssattn.worlds.simulated.world import World, generator

SIZES = ((500, 375), (500, 333), (375, 500), (333, 500))  # width, height; the data set's usual ones
SIZE_CHANCES = (0.4, 0.35, 0.15, 0.1)
MIN_AREA, MAX_AREA = 0.0015, 0.9
MIN_SIDE_PX = 8
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Scene:
    """Objects of one image; O objects, of which the first `mentioned` are those of ``Talk.objects``.

    Attributes:
        width, height: pixels.
        boxes_px: (O, 4) int64, xyxy, counted from 0, inside the picture.
        columns: (O,) int64, their classes.
        modifiers: the words that describe each.
        boxed: of the mentioned ones, which have a box in the annotations; the others are scenes.
        mentioned: how many.
    """

    width: int
    height: int
    boxes_px: np.ndarray
    columns: np.ndarray
    modifiers: tuple[tuple[str, ...], ...]
    boxed: tuple[bool, ...]
    mentioned: int


def make_scene(world: World, image_id: int, talk: Talk) -> Scene:
    """Place the objects of an image."""
    a, rng = world.assumptions, generator(world.seed, "scene", image_id)
    width, height = SIZES[rng.choice(len(SIZES), p=SIZE_CHANCES)]
    told, others = len(talk.objects), _unmentioned(world, talk, rng)
    columns = np.array([*(world.columns[item.name] for item in talk.objects), *others], dtype=np.int64)
    salience = np.zeros(len(columns))
    salience[:told] = [a.mention_weight * item.often + (1 - a.mention_weight) * item.early for item in talk.objects]
    hidden = np.arange(len(columns)) >= told
    boxed = tuple(item.name not in PLACES or bool(rng.random() < a.places_boxed) for item in talk.objects)
    described = tuple(item.modifiers for item in talk.objects) + tuple(_modifiers(world, rng) for _ in others)
    boxes = _boxes(world, columns, salience, hidden, width, height, rng)
    return Scene(width, height, boxes, columns, described, boxed, told)


def _unmentioned(world: World, talk: Talk, rng: np.random.Generator) -> list[int]:
    """Columns of the objects that nobody mentions: none of a class that somebody does."""
    count = int(rng.poisson(world.assumptions.unmentioned_mean))
    used = {phrase.name for phrases in talk.phrases for phrase in phrases}
    taken = {world.columns[name] for name in used}
    # More are drawn than needed: those of a mentioned class fall out.
    drawn = rng.choice(world.num_classes, size=2 * count + 8, p=world.unmentioned_chance).tolist()
    return [column for column in drawn if column not in taken][:count]


def _modifiers(world: World, rng: np.random.Generator) -> tuple[str, ...]:
    """Describing words for an object that nobody mentions, as many and as frequent as mentioned ones have."""
    habits = world.habits
    if not habits.modifiers:
        return ()
    count = _draw(habits.modifier_counts, rng, 1)[0]
    return tuple(_draw(habits.modifiers, rng, count))


def _draw(counts: Mapping[T, int], rng: np.random.Generator, size: int) -> list[T]:
    """`size` of the keys, each as likely as its count says."""
    total = np.cumsum(np.fromiter(counts.values(), dtype=float))
    names = list(counts)
    return [names[place] for place in np.searchsorted(total, rng.random(size) * total[-1], side="right")]


def _boxes(
    world: World,
    columns: np.ndarray,
    salience: np.ndarray,
    hidden: np.ndarray,
    width: int,
    height: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(O, 4) int64 boxes."""
    a, count = world.assumptions, len(columns)
    noise = rng.standard_normal((3, count))
    log_area = world.log_area[columns] + a.size_gain * (salience - 0.5) + a.size_noise * noise[0]
    area = np.clip(np.exp(log_area - a.unmentioned_shrink * hidden), MIN_AREA, MAX_AREA) * width * height
    aspect = world.aspect[columns] * np.exp(a.aspect_noise * noise[1])
    wide = np.clip(np.sqrt(area * aspect), MIN_SIDE_PX, 0.98 * width)
    tall = np.clip(area / wide, MIN_SIDE_PX, 0.98 * height)
    # Across: anywhere; near the middle by salience; near the rim where nobody looks.
    pull = 1 - a.centring * salience
    side = np.where(rng.random(count) < 0.5, -0.5, 0.5)
    away = np.where(hidden, rng.random(count) ** (1 / a.rim), rng.random(count) * pull)
    x = (0.5 + side * away) * width
    # Down: where the class usually is, drawn to the middle and to the rim in the same way.
    usual = world.height[columns]
    y = usual + a.centring * salience * 0.5 * (0.5 - usual) + a.height_noise * noise[2]
    rim = 0.5 + np.where(rng.random(count) < 0.5, -0.5, 0.5) * rng.random(count) ** (1 / a.rim)
    y = np.where(hidden, 0.5 * (y + rim), y) * height
    left = np.clip(x - wide / 2, 0, width - 1 - wide)
    top = np.clip(y - tall / 2, 0, height - 1 - tall)
    left, top = np.maximum(left, 0), np.maximum(top, 0)
    return np.rint(
        np.stack([left, top, np.minimum(left + wide, width - 1), np.minimum(top + tall, height - 1)], 1)
    ).astype(np.int64)
