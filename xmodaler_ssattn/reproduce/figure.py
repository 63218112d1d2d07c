"""The curves of a study as one SVG: a row of panels for each of the plan's tables, a line for each of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from xmodaler_ssattn.report.plot import HEIGHT, WIDTH, Line, Point, axes_and_lines, polyline
from xmodaler_ssattn.reproduce.plan import Plan

CROSS_ENTROPY, TOTAL = "CrossEntropy Loss(G)", "total_loss"
PANELS = {
    CROSS_ENTROPY: "cross-entropy, training",
    "val/CIDEr": "CIDEr, val",
    "val/F1_all": "F1_all, val",
    "val/F1_loc": "F1_loc, val",
}
"""Column of a run's curves -> title. Scores are shown in percent, as in the tables."""

GAP, TITLE, CAPTION, KEY = 14, 26, 18, 18
STYLE = (
    "text{font:11px sans-serif;fill:#555}.title{font:bold 14px sans-serif;fill:#222}.name{font-size:12px;fill:#222}"
    ".grid{stroke:#ddd}"
)


def mean_curve(runs: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """(epoch, mean over the runs that have a value there) of a column; scores times 100."""
    values: dict[int, list[float]] = {}
    scale = 100.0 if name.startswith("val/") else 1.0
    for run in runs:
        curves = run["curves"]
        # A trainer with a single loss records the sum alone.
        column = TOTAL if name == CROSS_ENTROPY and name not in curves else name
        for epoch, value in zip(curves.get("epoch", ()), curves.get(column, ())):
            if value is not None:
                values.setdefault(epoch, []).append(scale * value)
    return [(float(epoch), sum(found) / len(found)) for epoch, found in sorted(values.items())]


def curves_svg(plan: Plan, summary: Mapping[str, Any]) -> str:
    """The figure, a whole SVG document; "" when no run has a curve.

    A line is the mean over the seeds that reached an epoch. Colours and dashes follow a row's place in its table.
    """
    blocks, top = [], 0.0
    for table in plan.tables:
        rows = [name for name in table.rows if name in summary["rows"]]
        block, height = _block(table.title, {name: summary["rows"][name] for name in rows})
        if block:
            blocks.append(f'<g transform="translate(0 {top:g})">{block}</g>')
            top += height + GAP
    if not blocks:
        return ""
    width = len(PANELS) * (WIDTH + GAP) - GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top:g}" width="{width}" height="{top:g}" '
        f'role="img" aria-label="{escape(plan.title)}: curves"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(blocks) + "\n</svg>\n"
    )


def _block(title: str, rows: Mapping[str, Mapping[str, Any]]) -> tuple[str, float]:
    """A table's panels beside each other with the key above them, and how high that is; ("", 0) without a curve."""
    panels = {}
    for column in PANELS:
        lines = [
            Line(row["label"], mean_curve(list(row["seeds"].values()), column), place)
            for place, row in enumerate(rows.values())
        ]
        panels[column] = [line for line in lines if line.points]
    shown = {line.place: line.name for lines in panels.values() for line in lines}
    if not shown:
        return "", 0.0
    parts = [f'<text class="title" x="0" y="18">{escape(title)}</text>']
    columns = len(PANELS)
    for number, (place, name) in enumerate(sorted(shown.items())):
        x, y = (number % columns) * (WIDTH + GAP), TITLE + (number // columns) * KEY + KEY / 2
        parts.append(polyline([(x, y), (x + 30, y)], place))
        parts.append(f'<text class="name" x="{x + 36}" y="{y + 4:g}">{escape(name)}</text>')
    top = TITLE + -(-len(shown) // columns) * KEY + CAPTION
    for number, (column, lines) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({number * (WIDTH + GAP)} {top})">')
        parts.append(f'<text class="name" x="0" y="0">{escape(PANELS[column])}</text>')
        parts.append(f'<g transform="translate(0 2)">{axes_and_lines(lines, "epoch")}</g></g>')
    return "".join(parts), float(top + HEIGHT + 2)
