"""Figures for papers, laid out as the paper's Figure 3: one row per image, one column per model, words and boxes in
colour. Lengths are in points; matplotlib draws and writes PNG, PDF and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, write_text
from xmodaler_ssattn.report.overlay import COLOURS
from xmodaler_ssattn.report.plot import drawing, to_svg
from xmodaler_ssattn.report.source import Model, Source, size_of, versions, words_of
from xmodaler_ssattn.report.verdicts import RIGHT, WRONG, verdicts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, GAP, TEXT, LINE = 240, 12, 9, 14
MOST_HEIGHT = 240
INK, FAINT, BLANK = "#222222", "#777777", "#EEF0F2"
DPI = 300
IMAGES = 3


def choose_images(source: Source, wanted: Sequence[int] | None) -> list[int]:
    """The images of the figure; by default the first ones where the last model is right and the first one wrong.

    Raises:
        UserError: an image is in no results file, or there is no image at all.
    """
    if wanted:
        unknown = [str(i) for i in wanted if i not in source.image_ids]
        if unknown:
            raise UserError(f"--figure-images: no results for image {', '.join(unknown)}.")
        return list(wanted)
    if not source.image_ids:
        raise UserError("--figure: the results have no image.")

    def judged(model: Model, image_id: int) -> str:
        image, truth = model.images.get(image_id), source.truths.get(image_id)
        caption = None if image is None else _caption(model, image_id)
        return "" if caption is None or truth is None else verdicts(caption, model.results.object_words, truth.boxes)

    first, last = source.models[0], source.models[-1]
    telling = [
        i
        for i in source.image_ids
        if WRONG in judged(first, i) and RIGHT in judged(last, i) and WRONG not in judged(last, i)
    ]
    return (telling + [i for i in source.image_ids if i not in telling])[:IMAGES]


def _caption(model: Model, image_id: int) -> str | None:
    image = model.images.get(image_id)
    return None if image is None else next(iter(versions(image).values()))


def save_figure(prefix: Path, source: Source, image_ids: Sequence[int], pictures: Mapping[int, Path]) -> list[Path]:
    """Write ``prefix`` with .png, .pdf and .svg; returns their paths."""
    paths = [prefix.with_name(prefix.name + suffix) for suffix in (".png", ".pdf", ".svg")]
    with drawing():
        figure = draw_figure(source, image_ids, pictures)
        for path, metadata in zip(paths[:2], ({}, {"CreationDate": None})):
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=DPI, metadata=metadata)
            for image in figure.axes[0].images:
                image.set_interpolation("none")  # PDF and SVG keep the picture's own pixels
        write_text(paths[2], to_svg(figure, "figure"))
    return paths


def draw_figure(source: Source, image_ids: Sequence[int], pictures: Mapping[int, Path]) -> Figure:
    """The whole figure in one axes whose unit is the point, from the upper left corner; inside ``drawing()``."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    for column, model in enumerate(source.models):
        axes.text(column * (COLUMN + GAP), TEXT, model.name, color=FAINT, size=TEXT)
    y = float(LINE + 4)
    for image_id in image_ids:
        colours = _colours(source, image_id)
        bottoms = [
            _draw_cell(axes, model, image_id, source, pictures.get(image_id), colours, column * (COLUMN + GAP), y)
            for column, model in enumerate(source.models)
        ]
        y = max(bottoms) + GAP
    width, height = len(source.models) * (COLUMN + GAP) - GAP, y - GAP
    figure.set_size_inches(width / 72, height / 72)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axes.set_axis_off()
    return figure


def _colours(source: Source, image_id: int) -> dict[str, str]:
    """class -> colour, the same for all models."""
    names: dict[str, None] = {}
    for model in source.models:
        caption = _caption(model, image_id)
        for word in words_of(caption or ""):
            if word in model.results.object_words:
                names[model.results.object_words[word]] = None
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _draw_cell(
    axes: Axes,
    model: Model,
    image_id: int,
    source: Source,
    picture: Path | None,
    colours: Mapping[str, str],
    x: float,
    y: float,
) -> float:
    """Draw one picture with its boxes and its caption; returns where it ends."""
    from matplotlib.patches import Rectangle

    caption = _caption(model, image_id)
    shown = None
    if picture is not None:
        with Image.open(picture) as opened:
            shown = opened.convert("RGB")
    width, height = size_of(source, image_id) or (shown.size if shown else (4, 3))
    scale = min(COLUMN / width, MOST_HEIGHT / height)
    inset = x + (COLUMN - width * scale) / 2
    if shown is None:
        axes.add_patch(Rectangle((inset, y), width * scale, height * scale, color=BLANK, linewidth=0))
    else:
        shown.thumbnail((COLUMN * DPI // 72, COLUMN * DPI // 72), Image.Resampling.LANCZOS)
        axes.imshow(shown, extent=(inset, inset + width * scale, y + height * scale, y))
    words = ["(no caption)"] if caption is None else words_of(caption)
    classes = [model.results.object_words.get(word) for word in words]
    if isinstance(caption, GroundedCaption):
        for word, name in zip(caption.words, classes):
            if name is not None:
                x1, y1, x2, y2 = (value * scale for value in word.box_px)
                box = Rectangle((inset + x1, y + y1), max(0, x2 - x1), max(0, y2 - y1), fill=False, linewidth=2)
                box.set_edgecolor(colours[name])
                axes.add_patch(box)
    line, left = y + height * scale + LINE, 0.0
    for word, name in zip(words, classes):
        text = axes.text(x + left, line, word, color=INK if name is None else colours[name], size=TEXT)
        length = text.get_window_extent(dpi=720).width / 10  # finer than whole points
        if left and left + length > COLUMN:
            left, line = 0.0, line + LINE
            text.set_position((x, line))
        left += length + TEXT / 3
    return line + 4
