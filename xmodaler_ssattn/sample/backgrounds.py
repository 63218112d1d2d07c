"""The five places where scenes are set, drawn as soft textures that never look like an object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from xmodaler_ssattn.sample.brush import Colour


@dataclass(frozen=True)
class Place:
    """A place: the colours of its sky and ground from far to near, and the words that captions have for it.

    phrases: (preposition, noun phrase); the noun phrase becomes a `scene` entity without a box.
    """

    name: str
    sky: tuple[Colour, Colour]
    ground: tuple[Colour, Colour]
    phrases: tuple[tuple[str, str], ...]


PLACES: tuple[Place, ...] = (
    Place("park", ((150, 200, 232), (214, 234, 242)), ((178, 208, 140), (146, 188, 108)),
          (("in", "the park"), ("in", "a park"), ("on", "the grass"))),
    Place("beach", ((126, 190, 232), (222, 240, 246)), ((240, 226, 190), (230, 208, 158)),
          (("on", "the beach"), ("at", "the beach"), ("on", "the sand"))),
    Place("street", ((186, 204, 218), (226, 232, 236)), ((178, 178, 182), (152, 152, 158)),
          (("on", "the street"), ("in", "the street"), ("on", "a city street"))),
    Place("snow", ((170, 196, 222), (226, 234, 244)), ((232, 238, 246), (218, 228, 240)),
          (("in", "the snow"), ("in", "the white snow"))),
    Place("field", ((158, 198, 228), (240, 232, 206)), ((214, 196, 128), (196, 174, 96)),
          (("in", "a field"), ("in", "the field"), ("in", "an open field"))),
)

PLACE_BY_NAME: dict[str, Place] = {place.name: place for place in PLACES}

WATER: tuple[Colour, Colour] = ((118, 176, 208), (150, 204, 222))
WATER_SHARE = 0.42  # of the beach below the horizon, counted from the horizon


def _gradient(top: Colour, bottom: Colour, rows: int) -> np.ndarray:
    steps = np.linspace(0.0, 1.0, max(rows, 1), dtype=np.float32)[:, None]
    return np.asarray(top, np.float32) * (1 - steps) + np.asarray(bottom, np.float32) * steps


def _cloudy_noise(rng: np.random.Generator, width: int, height: int, cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise of about unit size: a small random grid made larger; cells is (across, down)."""
    grid = Image.fromarray(rng.standard_normal((cells[1], cells[0])).astype(np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))


def draw_background(place: Place, width: int, height: int, horizon: float, seed: int) -> Image.Image:
    """The empty place as an RGB picture; `horizon` is the fraction of the height where the sky ends."""
    rng = np.random.default_rng(seed)
    line = round(horizon * height)
    shore = line + round(WATER_SHARE * (height - line)) if place.name == "beach" else line
    rows = np.concatenate([
        _gradient(*place.sky, line), _gradient(*WATER, shore - line), _gradient(*place.ground, height - shore),
    ])[:height]
    canvas = np.repeat(rows[:, None, :], width, axis=1)

    soft = _cloudy_noise(rng, width, height, (7, 9))
    streaks = _cloudy_noise(rng, width, height, (12, 60))
    grain = rng.standard_normal((height, width), dtype=np.float32)
    below = (np.arange(height) >= line)[:, None]
    texture = np.where(below, 4.0 * soft + 3.5 * streaks + 2.0 * grain, 3.0 * soft + 0.8 * grain)
    canvas = np.clip(canvas + texture[:, :, None], 0, 255).astype(np.uint8)
    return _add_distance(Image.fromarray(canvas), place, line, rng)


def _add_distance(picture: Image.Image, place: Place, line: int, rng: np.random.Generator) -> Image.Image:
    """Pale clouds and the far skyline: hills, mountains or houses in the haze, blurred and of low contrast."""
    width, height = picture.size
    layer = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for _ in range(int(rng.integers(1, 4))):
        x, y, size = rng.uniform(0, width), rng.uniform(0.1, 0.7) * line, rng.uniform(0.05, 0.1) * width
        for dx in (-0.9, 0.0, 0.8):
            cx, r = x + dx * size, size * (0.55 if dx else 0.75)
            draw.ellipse([cx - 1.3 * r, y - 0.6 * r, cx + 1.3 * r, y + 0.6 * r], fill=(255, 255, 255, 105))
    haze = tuple(int(0.55 * s + 0.45 * g) for s, g in zip(place.sky[1], place.ground[0]))
    if place.name in ("park", "field", "snow"):
        peaks = 3 if place.name == "snow" else 5
        rise = 0.42 if place.name == "snow" else 0.2
        xs = np.linspace(-0.1 * width, 1.1 * width, 2 * peaks + 1)
        ys = [line - rise * line * (rng.uniform(0.5, 1.0) if i % 2 else rng.uniform(0.05, 0.25)) for i in range(len(xs))]
        draw.polygon([(-width, line + 1), *zip(xs.tolist(), ys), (2 * width, line + 1)], fill=(*haze, 150))
    elif place.name == "street":
        x = -5.0
        while x < width:
            wide, tall = rng.uniform(0.07, 0.14) * width, rng.uniform(0.12, 0.4) * line
            draw.rectangle([x, line - tall, x + wide, line + 1], fill=(*haze, 120))
            x += wide + rng.uniform(0, 0.03) * width
    radius = 4.0 if place.name in ("park", "field") else 1.6
    layer = layer.filter(ImageFilter.GaussianBlur(radius))
    picture.paste(layer, (0, 0), layer)
    return picture
