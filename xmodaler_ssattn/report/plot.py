"""Line plots with matplotlib, for the page of a run and the figure of a study.

matplotlib is imported late, and only here and in ``figure.py``. Every drawing is made inside ``drawing()``, which needs
no display, ignores the user's own matplotlib settings, and gives the same file for the same input.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Models are blue or orange, words green, purple or brown, so that a colour never means both. All are from the palettes
# of Okabe and Ito and of Paul Tol, for common kinds of colour blindness.
MODEL_COLOURS = ("#0072B2", "#D55E00", "#56B4E9", "#E69F00", "#332288", "#661100")
WORD_COLOURS = ("#117733", "#AA4499", "#999933", "#882255", "#44AA99")
INK = "#444444"
# Colours of lines: the models', then more for studies with many rows.
PALETTE = (*MODEL_COLOURS, "#009E73", "#CC79A7", "#999933", "#882255", "#117733", "#AA4499")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))
MOST_MARKS = 40
"""A line of at most this number of points gets a mark at each of them, with its value as a tooltip."""
WIDTH, HEIGHT = 4.2, 2.5
"""Size of one panel, inches."""
_SETTINGS: Any = {
    "svg.fonttype": "none", "pdf.fonttype": 42, "text.parse_math": False,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"], "font.size": 9, "axes.titlesize": 10,
    "lines.linewidth": 1.4, "lines.markersize": 3.5, "axes.formatter.limits": (-2, 5),
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.5, "grid.color": INK,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}  # fmt: skip
_SVG = "{http://www.w3.org/2000/svg}"

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line of a panel."""

    name: str  # the label
    points: Sequence[Point]  # (x, y), in order of x
    place: int = 0  # the number of its model or run, which determines colour and dashes, equal in every panel


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with our settings and without its warnings (about the font cache and missing letters)."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def look(place: int) -> dict[str, Any]:
    """Colour and dashes of the line of the model at ``place``; all differ for 48 places, neighbours in both."""
    return {"color": PALETTE[place % len(PALETTE)], "linestyle": DASHES[(place + place // 12) % len(DASHES)]}


def legend_key(place: int, name: str) -> Line2D:
    """The sample of a line for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([0, 1], [0, 0], label=name, **look(place))


def draw_panel(axes: Axes, lines: Sequence[Line], title: str, x_title: str, y_title: str) -> None:
    """Draw the lines with titled axes; if no line has two points, write the values instead."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left")
    if all(len(line.points) < 2 for line in lines):
        values = [f"{line.name}: {y:.4g} ({x_title} {x:g})" for line in lines for x, y in line.points]
        axes.text(0, 0.9, "\n".join(values) or "no values", transform=axes.transAxes, va="top")
        axes.set_axis_off()
        return
    axes.set(xlabel=x_title, ylabel=y_title)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for line in lines:
        marker = "o" if len(line.points) <= MOST_MARKS else ""
        axes.plot(*zip(*line.points), label=line.name, marker=marker, **look(line.place))


def to_svg(figure: Figure, name: str) -> str:
    """The figure as one ``<svg>`` element with text as text, and a tooltip on each mark of its lines.

    ``name`` must be unique within the HTML page, because the ids inside are derived from it.
    """
    import matplotlib

    lines = {f"line-{i}": line for i, line in enumerate(line for axes in figure.axes for line in axes.lines)}
    for label, line in lines.items():
        line.set_gid(label)
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=not figure.get_frameon(), metadata=nothing)
    ElementTree.register_namespace("", _SVG[1:-1])
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(buffer.getvalue())
    for style in root.findall(f"{_SVG}defs")[:1]:  # it would apply to all elements of the surrounding page
        root.remove(style)
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    for group in root.iter(f"{_SVG}g"):
        drawn = lines.get(group.attrib.pop("id", ""))
        if drawn is not None:
            for mark, (x, y) in zip(group.iter(f"{_SVG}use"), np.asarray(drawn.get_xydata())):
                ElementTree.SubElement(mark, f"{_SVG}title").text = f"{drawn.get_label()}, {x:g}: {y:.4g}"
    return ElementTree.tostring(root, encoding="unicode") + "\n"
