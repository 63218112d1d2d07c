"""The curves of a study as one SVG: one row of panels per table of the plan, one line per row of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from xmodaler_ssattn.report.curves import CROSS_ENTROPY, cross_entropy_name, title_unit_scale
from xmodaler_ssattn.report.plot import HEIGHT, WIDTH, Line, Point, draw_panel, drawing, legend_key, to_svg
from xmodaler_ssattn.reproduce.plan import Plan

PANELS = (CROSS_ENTROPY, "val/CIDEr", "val/F1_all", "val/F1_loc")
LEGEND_LINE = 0.2  # inches


def mean_curve(runs: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    """(epoch, mean over the runs that have a value at this epoch) of a column; scores in percent."""
    values: dict[int, list[float]] = {}
    scale = title_unit_scale(name)[2]
    for run in runs:
        curves = run["curves"]
        column = cross_entropy_name(curves) if name == CROSS_ENTROPY else name
        for epoch, value in zip(curves.get("epoch", ()), curves.get(column, ())):
            if value is not None:
                values.setdefault(epoch, []).append(scale * value)
    return [(float(epoch), sum(found) / len(found)) for epoch, found in sorted(values.items())]


def curves_svg(plan: Plan, summary: Mapping[str, Any]) -> str:
    """The figure, a whole SVG document; "" when no run has a curve.

    A line is the mean over the seeds that reached the epoch. A row has the same colour and dashes in every table.
    """
    places = {name: place for place, name in enumerate(summary["rows"])}
    blocks: dict[str, dict[str, list[Line]]] = {}
    for table in plan.tables:
        panels: dict[str, list[Line]] = {column: [] for column in PANELS}
        for name, column in product(table.rows, PANELS):
            row = summary["rows"].get(name, {"seeds": {}})
            if points := mean_curve(list(row["seeds"].values()), column):
                panels[column].append(Line(row["label"], points, places[name]))
        if any(panels.values()):
            blocks[table.title] = panels
    if not blocks:
        return ""
    with drawing():
        from matplotlib.figure import Figure

        keys = [{line.name: line.place for lines in panels.values() for line in lines} for panels in blocks.values()]
        heights = [HEIGHT + 0.5 + LEGEND_LINE * -(-len(found) // len(PANELS)) for found in keys]
        figure = Figure((WIDTH * len(PANELS), sum(heights)), layout="constrained")
        parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (heading, panels), found in zip(parts, blocks.items(), keys):
            part.suptitle(heading, x=0.005, ha="left", weight="bold")
            for axes, (column, lines) in zip(part.subplots(1, len(PANELS)), panels.items()):
                title, unit, _ = title_unit_scale(column)
                draw_panel(axes, lines, title, "epoch", unit)
            handles = [legend_key(place, name) for name, place in found.items()]
            part.legend(handles=handles, loc="outside lower left", ncols=len(PANELS), frameon=False)
        return to_svg(figure, plan.title)
