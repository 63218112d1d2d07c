"""The fifteen kinds of object and the six colours of the sample scenes, and the drawings of the kinds.

Every kind's name is one of the 480 object classes of Flickr30k Entities, so that the same rules apply to both. No
colour is an object class (orange and pink are), so that a colour is never an object word. A drawing fills one tile with
an object of a colour; the pose changes the picture of people and animals, and the captions name it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xmodaler_ssattn.worlds.drawn.brush import INK, SKIN, Brush, Colour, shade

COLOURS: dict[str, Colour] = {
    "red": (208, 52, 48),
    "blue": (52, 104, 198),
    "green": (44, 132, 72),
    "yellow": (246, 204, 58),
    "white": (247, 247, 243),
    "brown": (140, 90, 54),
}
TROUSERS: Colour = (70, 78, 104)
HAIR: Colour = (92, 62, 44)
GLASS: Colour = (188, 222, 236)
METAL: Colour = (172, 174, 180)
WOOD: Colour = (128, 88, 56)


# --- people and animals ---------------------------------------------------------------------------------
def _legs(brush: Brush, pose: str, colour: Colour, top: float, width: float) -> None:
    spread = 0.26 if pose == "walking" else 0.13
    for side in (-1, 1):
        foot = 0.5 + side * spread
        brush.limb([(0.5 + side * 0.1, top), (foot, 0.94)], colour, width)
        brush.ellipse(foot - 0.1 + 0.06, 0.925, foot + 0.1 + 0.06, 0.995, INK, outline=False)


def _arms(brush: Brush, pose: str, sleeve: Colour, shoulder: float) -> None:
    raised = pose == "waving"
    hands = ((0.1, 0.1) if raised else (0.1, 0.52), (0.9, 0.5))
    for side, hand in zip((-1, 1), hands):
        start = (0.5 + side * 0.2, shoulder)
        elbow = (0.5 + side * 0.38, shoulder + (0.01 if raised and side < 0 else 0.14))
        brush.limb([start, elbow, hand], sleeve, 0.06)
        brush.circle(hand[0], hand[1], 0.034, SKIN)


def man(brush: Brush, colour: Colour, pose: str) -> None:
    _legs(brush, pose, TROUSERS, 0.6, 0.075)
    _arms(brush, pose, colour, 0.3)
    brush.polygon([(0.27, 0.25), (0.73, 0.25), (0.71, 0.62), (0.29, 0.62)], colour)
    brush.circle(0.5, 0.13, 0.105, SKIN)
    brush.arc_cap(0.25, 0.005, 0.75, 0.2, HAIR)


def woman(brush: Brush, colour: Colour, pose: str) -> None:
    hair: Colour = (214, 154, 62)
    _legs(brush, pose, SKIN, 0.68, 0.05)
    brush.polygon([(0.24, 0.08), (0.76, 0.08), (0.84, 0.36), (0.16, 0.36)], hair)
    _arms(brush, pose, SKIN, 0.31)
    brush.polygon([(0.36, 0.25), (0.64, 0.25), (0.62, 0.42), (0.9, 0.78), (0.1, 0.78), (0.38, 0.42)], colour)
    brush.circle(0.5, 0.135, 0.1, SKIN)
    brush.arc_cap(0.25, 0.005, 0.75, 0.23, hair)


def _four_legs(brush: Brush, pose: str, colour: Colour, xs: tuple[float, ...], top: float, width: float) -> None:
    for number, x in enumerate(xs):
        lean = 0.0
        if pose == "running":
            lean = -0.1 if number < len(xs) / 2 else 0.1
        tone = shade(colour, 0.8) if number % 2 else colour
        brush.limb([(x, top), (x + lean, 0.96)], tone, width)


def dog(brush: Brush, colour: Colour, pose: str) -> None:
    _four_legs(brush, pose, colour, (0.22, 0.32, 0.6, 0.7), 0.66, 0.09)
    brush.limb([(0.17, 0.5), (0.06, 0.26)], colour, 0.08)
    brush.ellipse(0.13, 0.4, 0.76, 0.8, colour)
    brush.polygon([(0.6, 0.62), (0.62, 0.24), (0.8, 0.24), (0.78, 0.6)], colour)
    brush.ellipse(0.6, 0.12, 0.9, 0.44, colour)
    brush.ellipse(0.78, 0.24, 0.995, 0.43, colour)
    brush.ellipse(0.94, 0.25, 0.995, 0.33, INK, outline=False)
    brush.ellipse(0.58, 0.1, 0.7, 0.42, shade(colour, 0.65))
    brush.circle(0.8, 0.23, 0.028, INK, outline=False)


def cat(brush: Brush, colour: Colour, pose: str) -> None:
    brush.limb([(0.3, 0.9), (0.08, 0.86), (0.08, 0.56)], colour, 0.08)
    brush.ellipse(0.22, 0.42, 0.86, 0.99, colour)
    brush.polygon([(0.3, 0.34), (0.3, 0.01), (0.52, 0.2)], colour)
    brush.polygon([(0.94, 0.34), (0.94, 0.01), (0.72, 0.2)], colour)
    brush.ellipse(0.27, 0.1, 0.97, 0.58, colour)
    for x in (0.48, 0.76):
        brush.ellipse(x - 0.05, 0.26, x + 0.05, 0.38, (120, 190, 90))
    brush.polygon([(0.58, 0.4), (0.66, 0.4), (0.62, 0.46)], (222, 130, 130), outline=False)
    for x in (0.44, 0.64):
        brush.ellipse(x - 0.09, 0.88, x + 0.1, 0.995, shade(colour, 1.2))


def horse(brush: Brush, colour: Colour, pose: str) -> None:
    mane = shade(colour, 0.55)
    _four_legs(brush, pose, colour, (0.2, 0.3, 0.58, 0.68), 0.6, 0.075)
    brush.limb([(0.13, 0.42), (0.04, 0.52), (0.05, 0.76)], mane, 0.07)
    brush.ellipse(0.1, 0.34, 0.76, 0.7, colour)
    brush.polygon([(0.52, 0.46), (0.72, 0.08), (0.86, 0.14), (0.77, 0.56)], colour)
    brush.polygon([(0.5, 0.42), (0.68, 0.04), (0.75, 0.08), (0.6, 0.44)], mane)
    brush.polygon([(0.7, 0.07), (0.82, 0.05), (0.99, 0.26), (0.93, 0.36), (0.74, 0.26)], colour)
    brush.polygon([(0.74, 0.09), (0.76, 0.005), (0.82, 0.08)], colour)
    brush.circle(0.82, 0.15, 0.02, INK, outline=False)


def bird(brush: Brush, colour: Colour, pose: str) -> None:
    brush.polygon([(0.2, 0.62), (0.01, 0.5), (0.03, 0.78)], shade(colour, 0.75))
    brush.ellipse(0.14, 0.42, 0.82, 0.86, colour)
    brush.ellipse(0.64, 0.34, 0.9, 0.68, colour)
    brush.polygon([(0.88, 0.46), (0.995, 0.53), (0.88, 0.59)], (240, 160, 40))
    brush.polygon([(0.34, 0.6), (0.22, 0.01), (0.44, 0.12), (0.62, 0.58)], shade(colour, 0.8))
    brush.ellipse(0.28, 0.66, 0.64, 0.84, shade(colour, 1.5), outline=False)
    brush.circle(0.79, 0.47, 0.035, INK, outline=False)


# --- vehicles and other things --------------------------------------------------------------------------
def _wheel(brush: Brush, x: float, y: float, radius: float) -> None:
    brush.circle(x, y, radius, INK)
    brush.circle(x, y, radius * 0.45, METAL, outline=False)


def car(brush: Brush, colour: Colour, pose: str) -> None:
    brush.polygon([(0.18, 0.48), (0.3, 0.06), (0.68, 0.06), (0.84, 0.48)], colour)
    brush.polygon([(0.26, 0.46), (0.34, 0.16), (0.48, 0.16), (0.48, 0.46)], GLASS)
    brush.polygon([(0.53, 0.46), (0.53, 0.16), (0.65, 0.16), (0.75, 0.46)], GLASS)
    brush.rectangle(0.0, 0.42, 1.0, 0.84, colour, radius=0.14)
    brush.ellipse(0.94, 0.5, 0.99, 0.64, (255, 236, 150))
    brush.line([(0.08, 0.68), (0.92, 0.68)], shade(colour, 0.7), 0.03)
    for x in (0.22, 0.78):
        _wheel(brush, x, 0.81, 0.18)


def bus(brush: Brush, colour: Colour, pose: str) -> None:
    brush.rectangle(0.0, 0.0, 1.0, 0.88, colour, radius=0.1)
    for left in (0.05, 0.23, 0.41, 0.59):
        brush.rectangle(left, 0.14, left + 0.145, 0.42, GLASS)
    brush.rectangle(0.79, 0.14, 0.97, 0.8, GLASS)
    brush.line([(0.88, 0.16), (0.88, 0.78)], INK, 0.02)
    brush.rectangle(0.02, 0.54, 0.76, 0.62, shade(colour, 1.6), outline=False)
    for x in (0.2, 0.68):
        _wheel(brush, x, 0.87, 0.125)


def bike(brush: Brush, colour: Colour, pose: str) -> None:
    for x in (0.24, 0.76):
        brush.ring(x, 0.68, 0.31, INK, 0.07)
        for dx, dy in ((0.0, 0.24), (0.15, 0.0)):
            brush.line([(x - dx, 0.68 - dy), (x + dx, 0.68 + dy)], METAL, 0.015)
    frame = [(0.24, 0.68), (0.4, 0.3), (0.66, 0.3), (0.48, 0.68), (0.24, 0.68)]
    for tone, width in ((INK, 0.11), (colour, 0.07)):
        brush.line(frame, tone, width)
        brush.line([(0.37, 0.2), (0.48, 0.68)], tone, width)
        brush.line([(0.76, 0.68), (0.64, 0.12)], tone, width)
    brush.line([(0.56, 0.1), (0.66, 0.1), (0.74, 0.04)], INK, 0.06)
    brush.line([(0.3, 0.18), (0.44, 0.18)], INK, 0.08)


def boat(brush: Brush, colour: Colour, pose: str) -> None:
    canvas: Colour = (252, 248, 236)
    brush.line([(0.5, 0.0), (0.5, 0.8)], WOOD, 0.035)
    brush.polygon([(0.54, 0.03), (0.94, 0.64), (0.54, 0.64)], canvas)
    brush.polygon([(0.46, 0.14), (0.46, 0.64), (0.14, 0.64)], shade(canvas, 0.9))
    brush.polygon([(0.0, 0.71), (1.0, 0.71), (0.84, 0.99), (0.17, 0.99)], colour)
    brush.line([(0.07, 0.8), (0.93, 0.8)], shade(colour, 0.7), 0.03)


def ball(brush: Brush, colour: Colour, pose: str) -> None:
    brush.ellipse(0.0, 0.0, 1.0, 1.0, colour)
    stripe = shade(colour, 0.6)
    brush.line([(0.12, 0.24), (0.5, 0.38), (0.88, 0.24)], stripe, 0.08)
    brush.line([(0.12, 0.76), (0.5, 0.62), (0.88, 0.76)], stripe, 0.08)
    brush.ellipse(0.24, 0.08, 0.46, 0.24, shade(colour, 1.6), outline=False)


def balloon(brush: Brush, colour: Colour, pose: str) -> None:
    for x in (0.34, 0.66):
        brush.line([(x, 0.62), (0.5 + (x - 0.5) * 0.8, 0.86)], INK, 0.015)
    brush.polygon([(0.1, 0.48), (0.9, 0.48), (0.64, 0.74), (0.36, 0.74)], colour)
    brush.ellipse(0.0, 0.0, 1.0, 0.68, colour)
    brush.ellipse(0.32, 0.01, 0.68, 0.67, shade(colour, 1.45), outline=False)
    brush.polygon([(0.35, 0.55), (0.65, 0.55), (0.58, 0.73), (0.42, 0.73)], shade(colour, 1.45), outline=False)
    brush.rectangle(0.34, 0.85, 0.66, 0.99, WOOD, radius=0.02)


def umbrella(brush: Brush, colour: Colour, pose: str) -> None:
    brush.line([(0.5, 0.02), (0.5, 0.9)], WOOD, 0.05)
    brush.line([(0.5, 0.88), (0.53, 0.96), (0.62, 0.97), (0.66, 0.88)], WOOD, 0.05)
    brush.arc_cap(0.0, 0.05, 1.0, 0.95, colour)
    brush.polygon([(0.34, 0.5), (0.4, 0.2), (0.5, 0.06), (0.6, 0.2), (0.66, 0.5)], shade(colour, 0.72))
    brush.line([(0.5, 0.0), (0.5, 0.08)], INK, 0.05)


def tree(brush: Brush, colour: Colour, pose: str) -> None:
    brush.polygon([(0.42, 0.55), (0.58, 0.55), (0.64, 0.995), (0.36, 0.995)], WOOD)
    for x, y, radius in ((0.25, 0.5, 0.19), (0.75, 0.5, 0.19), (0.3, 0.28, 0.19), (0.7, 0.28, 0.19), (0.5, 0.2, 0.195)):
        brush.circle(x, y, radius, colour)
    brush.ellipse(0.16, 0.16, 0.84, 0.62, colour, outline=False)
    for x, y in ((0.34, 0.3), (0.62, 0.22), (0.7, 0.46), (0.42, 0.5), (0.24, 0.48)):
        brush.circle(x, y, 0.04, shade(colour, 0.78), outline=False)


def house(brush: Brush, colour: Colour, pose: str) -> None:
    brush.rectangle(0.68, 0.06, 0.79, 0.36, (150, 98, 84))
    brush.rectangle(0.09, 0.4, 0.91, 0.99, colour)
    brush.polygon([(0.0, 0.43), (0.5, 0.01), (1.0, 0.43)], (112, 84, 88))
    brush.rectangle(0.42, 0.64, 0.6, 0.99, WOOD)
    for left in (0.16, 0.68):
        brush.rectangle(left, 0.54, left + 0.17, 0.74, GLASS)


# --- the table -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Kind:
    """One kind of object."""

    name: str  # this and the plural: the words of the captions
    plural: str
    entity_type: str  # in the Flickr30k Entities markup: people, animals, vehicles, other
    draw: Callable[[Brush, Colour, str], None]  # fills a tile with it
    height: float  # its usual height as a fraction of the picture's smaller side
    aspect: float  # width / height
    zone: str  # its possible place: ground, sky or water
    colours: tuple[str, ...]  # its possible colours, equally likely
    appeal: float  # how much more often people write about it, added to its salience (see `grammar.py`)
    poses: tuple[str, ...]  # its possible actions, the captions' verbs; they change the drawing of people and animals


_ANY = tuple(COLOURS)
_LEAVES, _WALLS = ("green", "yellow", "red"), ("red", "blue", "yellow", "white", "brown")
_PEOPLE = ("standing", "waving", "walking")
_COATS = ("brown", "white", "yellow")

KINDS: tuple[Kind, ...] = (
    Kind("man", "men", "people", man, 0.36, 0.44, "ground", _ANY, 1.1, _PEOPLE),
    Kind("woman", "women", "people", woman, 0.35, 0.46, "ground", _ANY, 1.1, _PEOPLE),
    Kind("dog", "dogs", "animals", dog, 0.20, 1.25, "ground", _COATS, 1.2, ("standing", "running")),
    Kind("cat", "cats", "animals", cat, 0.19, 0.90, "ground", _COATS, 1.2, ("sitting",)),
    Kind("horse", "horses", "animals", horse, 0.31, 1.15, "ground", _COATS, 0.3, ("standing", "running")),
    Kind("bird", "birds", "animals", bird, 0.14, 1.35, "sky", _ANY, 1.5, ("flying",)),
    Kind("car", "cars", "vehicles", car, 0.19, 2.0, "ground", _ANY, 0.5, ("parked",)),
    Kind("bus", "buses", "vehicles", bus, 0.26, 1.95, "ground", _ANY, -0.2, ("parked",)),
    Kind("bike", "bikes", "vehicles", bike, 0.22, 1.5, "ground", _ANY, 0.5, ("parked",)),
    Kind("boat", "boats", "vehicles", boat, 0.27, 1.0, "water", _ANY, 0.6, ("sailing",)),
    Kind("ball", "balls", "other", ball, 0.13, 1.0, "ground", _ANY, 1.8, ("lying",)),
    Kind("balloon", "balloons", "other", balloon, 0.27, 0.68, "sky", _ANY, 0.75, ("floating",)),
    Kind("umbrella", "umbrellas", "other", umbrella, 0.22, 1.0, "ground", _ANY, 0.9, ("standing",)),
    Kind("tree", "trees", "other", tree, 0.40, 0.78, "ground", _LEAVES, 0.0, ("standing",)),
    Kind("house", "houses", "other", house, 0.36, 1.08, "ground", _WALLS, -0.7, ("standing",)),
)

KIND_BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
CLASS_NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS)
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
