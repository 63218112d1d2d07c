"""The objects of a scene and their places, sampled from a seed before any pixel or word."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from xmodaler_ssattn.worlds.drawn.backgrounds import PLACES, SIZES, Place, draw_background, ground_starts
from xmodaler_ssattn.worlds.drawn.brush import Brush, Colour
from xmodaler_ssattn.worlds.drawn.kinds import COLOURS, KIND_BY_NAME, KINDS, Kind

Box = tuple[int, int, int, int]  # x1, y1, x2, y2, the last two exclusive
MIN_OBJECTS, MAX_OBJECTS = 5, 8
DUPLICATE_CHANCE = 0.6  # the chance that one kind occurs twice in the picture
SAME_COLOUR_CHANCE = 0.3  # the chance that the second object then has the colour of the first
MAX_HIDDEN = 0.22  # of the smaller of two objects may be behind or in front of the other
MAX_IN_SKY, MAX_ON_WATER = 2, 2
FIRST_IMAGE_ID = 100001
MAX_GRAIN = 9  # sum over the channels, between neighbours in the background
MIN_FLAT, MAX_FLAT = 0.8, 0.97  # share of a scene's neighbouring pixels that differ by at most that


@dataclass(frozen=True)
class SceneObject:
    """One object."""

    kind: Kind
    colour: str
    tint: Colour  # the exact RGB of its colour's shade
    pose: str
    mirrored: bool
    scale: float  # its height against the usual height of its kind
    tile_px: Box
    box_px: Box  # around its opaque pixels

    def draw_tile(self) -> Image.Image:
        """Only the object, RGBA, at the size of `tile_px`."""
        x1, y1, x2, y2 = self.tile_px
        brush = Brush(x2 - x1, y2 - y1)
        self.kind.draw(brush, self.tint, self.pose)
        return brush.finish(self.mirrored)


@dataclass(frozen=True)
class Scene:
    """A scene: objects run from the farthest to the nearest, the order in which they are drawn."""

    image_id: int
    seed: str
    width: int
    height: int
    place: Place
    horizon: float
    objects: tuple[SceneObject, ...]

    def draw(self) -> Image.Image:
        """The picture, RGB."""
        noise_seed = random.Random(f"{self.seed}/background").getrandbits(32)
        picture = draw_background(self.place, self.width, self.height, self.horizon, noise_seed)
        for item in self.objects:
            tile = item.draw_tile()
            picture.paste(tile, item.tile_px[:2], tile)
        return picture


def looks_drawn(picture: Image.Image) -> bool:
    """Whether a picture may be one of these scenes, by its size and the share of flat areas.

    In 60 scenes, saved as JPEG, 84 to 92 % of neighbours in a row hardly differ; in 12 photographs 15 to 78 %.
    """
    if picture.size not in SIZES:
        return False
    rgb = np.asarray(picture.convert("RGB")).astype(np.int16)
    flat = (np.abs(np.diff(rgb, axis=1)).sum(axis=2) <= MAX_GRAIN).mean()
    return MIN_FLAT <= flat <= MAX_FLAT


def make_scene(seed: int, index: int) -> Scene:
    """Scene number `index` of the world of `seed`; the same two numbers always give the same scene."""
    key = f"{seed}/{index}"
    rng = random.Random(f"{key}/layout")
    while True:  # a crowded picture may have no room for five
        scene = _try_scene(rng, FIRST_IMAGE_ID + index, key)
        if len(scene.objects) >= MIN_OBJECTS:
            return scene


def _try_scene(rng: random.Random, image_id: int, key: str) -> Scene:
    scene = Scene(image_id, key, *rng.choice(SIZES), rng.choice(PLACES), rng.uniform(0.34, 0.44), ())
    for kind, colour in _choose_objects(rng, scene.place):
        item = _place(rng, kind, colour, scene)
        if item is not None:
            scene = replace(scene, objects=(*scene.objects, item))
    return replace(scene, objects=tuple(sorted(scene.objects, key=lambda item: (item.box_px[3], item.box_px[0]))))


def _choose_objects(rng: random.Random, place: Place) -> list[tuple[Kind, str]]:
    """Kinds and colours, 5 to 8 of them, at most one kind twice; the large kinds come first so that they find room."""
    count = rng.randint(MIN_OBJECTS, MAX_OBJECTS)
    duplicated = rng.random() < DUPLICATE_CHANCE
    same_colour = rng.random() < SAME_COLOUR_CHANCE
    zones = {"ground": count, "sky": MAX_IN_SKY, "water": MAX_ON_WATER if place.name == "beach" else 0}
    pool = list(KINDS)
    rng.shuffle(pool)
    if place.name == "beach" and rng.random() < 0.7:
        pool.insert(0, pool.pop(pool.index(KIND_BY_NAME["boat"])))
    chosen: list[tuple[Kind, str]] = []
    for kind in pool:
        if len(chosen) == count - duplicated:
            break
        if zones[kind.zone] > 0:
            zones[kind.zone] -= 1
            chosen.append((kind, rng.choice(kind.colours)))
    if duplicated:
        kind, colour = rng.choice([pair for pair in chosen if zones[pair[0].zone] > 0])
        others = [name for name in kind.colours if name != colour]
        chosen.append((kind, colour if same_colour else rng.choice(others)))
    return sorted(chosen, key=lambda pair: -pair[0].height * pair[0].aspect)


def _place(rng: random.Random, kind: Kind, colour: str, scene: Scene) -> SceneObject | None:
    """Find a place where the object hides little; None after forty tries, each with a slightly smaller object."""
    width, height = scene.width, scene.height
    shade = rng.uniform(0.9, 1.06)
    tint: Colour = tuple(max(0, min(255, int(c * shade))) for c in COLOURS[colour])  # type: ignore[assignment]
    pose, mirrored = rng.choice(kind.poses), rng.random() < 0.5
    for attempt in range(40):
        near = rng.random()  # 0 far, 1 near: nearer objects are lower in the picture and larger
        scale = (0.6 + 0.6 * near) * rng.uniform(0.85, 1.2) * 0.985**attempt
        if kind.zone == "sky":
            scale = rng.uniform(0.65, 1.3) * 0.985**attempt
        tall = max(14, round(scale * kind.height * min(width, height)))
        wide = max(10, round(tall * kind.aspect))
        bottom = _base_line(kind.zone, near, scene, tall, rng)
        left, top = rng.randint(2, max(2, width - wide - 2)), round(bottom) - tall
        if top < 2 or left + wide > width - 1 or bottom > height - 1:
            continue
        tile_px = (left, top, left + wide, top + tall)
        if all(_hidden(tile_px, other.tile_px) <= MAX_HIDDEN for other in scene.objects):
            item = SceneObject(kind, colour, tint, pose, mirrored, scale, tile_px, tile_px)
            opaque = item.draw_tile().getchannel("A").point(lambda value: 255 * (value >= 128))
            x1, y1, x2, y2 = opaque.getbbox() or (0, 0, wide, tall)
            return replace(item, box_px=(left + x1, top + y1, left + x2, top + y2))
    return None


def _base_line(zone: str, near: float, scene: Scene, tall: int, rng: random.Random) -> float:
    """The y of the object's lowest row: its feet on the ground, its keel in the water, or a height in the sky."""
    height, line = scene.height, round(scene.horizon * scene.height)
    shore = ground_starts(scene.place, height, scene.horizon)
    if zone == "sky":
        return rng.uniform(tall + 2, max(tall + 3, line + 0.3 * tall))
    if zone == "water":
        return line + (0.3 + 0.65 * near) * (shore - line)
    first = max(shore, line + 0.2 * (height - line))
    return first + 0.98 * near * (height - first)


def _hidden(a: Box, b: Box) -> float:
    """The two boxes' common area as a share of the smaller one's."""
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    return wide * tall / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
