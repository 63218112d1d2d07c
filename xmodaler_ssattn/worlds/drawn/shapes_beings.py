"""How people and animals are drawn. Each function fills one tile; the object's colour is the coat or the clothes.

`pose` changes the picture, and the captions name it: see `kinds.py`.
"""

from __future__ import annotations

from xmodaler_ssattn.worlds.drawn.brush import INK, SKIN, Brush, Colour, shade

TROUSERS: Colour = (70, 78, 104)
HAIR: Colour = (92, 62, 44)


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
