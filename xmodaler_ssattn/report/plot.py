"""Lines in a box with axes, as SVG: what the page of a run and the figure of a study have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from xmodaler_ssattn.report.overlay import COLOURS

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
MARKED = 40
"""Up to so many points, each gets a dot that tells its value."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        name: what it shows.
        points: (x, y), in order of x.
        place: of the line among all that a legend names; decides colour and dashes.
    """

    name: str
    points: Sequence[Point]
    place: int = 0


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def axes_and_lines(lines: Sequence[Line], x_name: str) -> str:
    """What belongs into a box of WIDTH x HEIGHT: grid, numbers, lines and dots; "" without a point.

    The letters' and the grid's looks are the surrounding's (classes ``grid`` and ``axis``, element ``text``).
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not xs:
        return ""
    x_low, x_high, y_low, y_high = min(xs), max(xs), min(ys), max(ys)
    if y_low == y_high:
        y_low, y_high = y_low - (abs(y_low) or 1) * 0.1, y_high + (abs(y_high) or 1) * 0.1
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1

    def place(x: float, y: float) -> Point:
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for y in ticks(y_low, y_high):
        height = place(x_low, y)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in ticks(x_low, x_high):
        parts.append(f'<text x="{place(x, y_low)[0]:.1f}" y="{HEIGHT - 16}" text-anchor="middle">{x:.5g}</text>')
    parts.append(f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(x_name)}</text>')
    for line in lines:
        placed = [place(x, y) for x, y in line.points]
        parts.append(polyline(placed, line.place))
        if len(placed) <= MARKED:
            for (x, y), (px, py) in zip(line.points, placed):
                title = f"<title>{escape(line.name)}, {x:g}: {y:.4g}</title>"
                parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour(line.place)}">{title}</circle>')
    return "".join(parts)


def colour(place: int) -> str:
    """The colour of the line at ``place``."""
    return COLOURS[place % len(COLOURS)]


def polyline(points: Sequence[Point], place: int) -> str:
    """A line with a colour of its own, from the second on also dashes, so that colour is not needed."""
    dash = ("", "6 3", "2 3", "8 3 2 3")[place % 4]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{text}" fill="none" stroke="{colour(place)}" stroke-width="1.8"{dashes}/>'
