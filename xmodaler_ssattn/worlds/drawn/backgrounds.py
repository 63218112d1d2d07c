"""The five places where scenes are set, drawn as soft textures that never look like an object."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter

from xmodaler_ssattn.worlds.drawn.brush import Colour


@dataclass(frozen=True)
class Place:
    """A place: the colours of its sky and ground from far to near, and its words in captions.

    phrases: (preposition, noun phrase); the noun phrase becomes a `scene` entity without a box.
    """

    name: str
    sky: tuple[Colour, Colour]
    ground: tuple[Colour, Colour]
    phrases: tuple[tuple[str, str], ...]


def _place(name: str, sky: str, ground: str, phrases: str) -> Place:
    """Colours as two hexadecimal RGB values; phrases separated by commas, the preposition is the first word."""
    sky_colours, ground_colours = (tuple(map(ImageColor.getrgb, colours.split())) for colours in (sky, ground))
    said = tuple(tuple(phrase.split(" ", 1)) for phrase in phrases.split(", "))
    return Place(name, sky_colours, ground_colours, said)  # type: ignore[arg-type]


PLACES: tuple[Place, ...] = (
    _place("park", "#96c8e8 #d6eaf2", "#b2d08c #92bc6c", "in the park, in a park, on the grass"),
    _place("beach", "#7ebee8 #def0f6", "#f0e2be #e6d09e", "on the beach, at the beach, on the sand"),
    _place("street", "#baccda #e2e8ec", "#b2b2b6 #98989e", "on the street, in the street, on a city street"),
    _place("snow", "#aac4de #e2eaf4", "#e8eef6 #dae4f0", "in the snow, in the fresh snow"),
    _place("field", "#a0cce8 #ececdc", "#e2d496 #d4c276", "in a field, in the field, in an open field"),
)

WATER: tuple[Colour, Colour] = ((118, 176, 208), (150, 204, 222))
SIZES = ((400, 300), (400, 300), (400, 268), (300, 400))  # width, height of the pictures
_GRAIN_SIDE = 400
WATER_SHARE = 0.42  # of the beach below the horizon, counted from the horizon


def ground_starts(place: Place, height: int, horizon: float) -> int:
    """The first row of solid ground: the horizon, or on the beach the end of the water."""
    line = round(horizon * height)
    return line + round(WATER_SHARE * (height - line)) if place.name == "beach" else line


def _gradient(top: Colour, bottom: Colour, rows: int) -> np.ndarray:
    steps = np.linspace(0.0, 1.0, max(rows, 1), dtype=np.float32)[:, None]
    return (np.asarray(top, np.float32) * (1 - steps) + np.asarray(bottom, np.float32) * steps)[:rows]


def _soft_noise(rng: np.random.Generator, width: int, height: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise of about unit size: a small random grid made larger; cells is (across, down)."""
    grid = Image.fromarray(rng.standard_normal((cells[1], cells[0])).astype(np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))


@functools.cache
def _grain() -> np.ndarray:
    """Fine noise, made once; every picture uses another part of it."""
    side = _GRAIN_SIDE + max(max(size) for size in SIZES)
    return 1.5 * np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)


def draw_background(place: Place, width: int, height: int, horizon: float, seed: int) -> Image.Image:
    """The empty place as an RGB picture; `horizon` is the fraction of the height where the sky ends."""
    rng = np.random.default_rng(seed)
    line, shore = round(horizon * height), ground_starts(place, height, horizon)
    rows = np.concatenate(
        [_gradient(*place.sky, line), _gradient(*WATER, shore - line), _gradient(*place.ground, height - shore)]
    )
    shift = rng.integers(0, _GRAIN_SIDE, 2)
    texture = _grain()[shift[0] : shift[0] + height, shift[1] : shift[1] + width].copy()
    texture[:line] += 1.5 * _soft_noise(rng, width, line, (5, 4))
    texture[line:] += 3.0 * _soft_noise(rng, width, height - line, (7, 6))
    texture[line:] += 3.0 * _soft_noise(rng, width, height - line, (14, 45))
    # One plane after the other: numpy is several times as fast along a row as across three channels.
    planes = [np.clip(rows[:, None, channel] + texture, 0, 255).astype(np.uint8) for channel in range(3)]
    picture = Image.merge("RGB", [Image.fromarray(plane) for plane in planes])
    _add_distance(picture, place, line, rng)
    return picture


def _add_distance(picture: Image.Image, place: Place, line: int, rng: np.random.Generator) -> None:
    """Pale clouds and the far skyline: hills, mountains or houses in the haze, soft and of low contrast."""
    width = picture.width
    # Drawn as two masks at half size, because enlarging them gives soft edges.
    half_width, half_line = width // 2, line // 2
    clouds, skyline = (Image.new("L", (half_width, half_line), 0) for _ in range(2))
    draw = ImageDraw.Draw(clouds)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0, half_width), rng.uniform(0.15, 0.6) * half_line
        size = rng.uniform(0.04, 0.08) * half_width
        for dx in (-1.1, 0.0, 1.0):
            cx, r = x + dx * size, size * (0.6 if dx else 0.85)
            draw.ellipse([cx - 1.3 * r, y - 0.6 * r, cx + 1.3 * r, y + 0.6 * r], fill=110)
    draw = ImageDraw.Draw(skyline)
    if place.name in ("park", "field", "snow"):
        peaks, rise = (3, 0.42) if place.name == "snow" else (6, 0.17)
        xs = np.linspace(-0.1 * half_width, 1.1 * half_width, 2 * peaks + 1)
        share = np.where(np.arange(len(xs)) % 2, rng.uniform(0.5, 1.0, len(xs)), rng.uniform(0.05, 0.25, len(xs)))
        ridge = list(zip(xs.tolist(), (half_line * (1 - rise * share)).tolist()))
        draw.polygon([(-half_width, half_line), *ridge, (2 * half_width, half_line)], fill=170)
    elif place.name == "street":
        x = -5.0
        while x < half_width:
            wide, tall = rng.uniform(0.07, 0.14) * half_width, rng.uniform(0.12, 0.4) * half_line
            draw.rectangle([x, half_line - tall, x + wide, half_line], fill=130)
            x += wide + rng.uniform(0, 0.03) * half_width
    haze = tuple(int(0.6 * s + 0.4 * g) for s, g in zip(place.sky[1], place.ground[0]))
    for mask, colour, blur in ((skyline, haze, 0.6), (clouds, (255, 255, 255), 2.5)):
        soft = mask.filter(ImageFilter.GaussianBlur(blur)).resize((width, line), Image.Resampling.BILINEAR)
        picture.paste(colour, (0, 0), soft)
