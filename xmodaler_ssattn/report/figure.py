"""Captions drawn with their pictures as in the paper's Figure 3: one row per image, one column per model, each object
word and its box in the colour of its class. Lengths are in points; matplotlib draws and writes PNG, PDF and SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, write_text
from xmodaler_ssattn.report.plot import WORD_COLOURS, drawing, to_svg
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
        UserError: an image is not in any results file, or there is no image.
    """
    if wanted:
        unknown = [str(i) for i in wanted if i not in source.image_ids]
        if unknown:
            raise UserError(f"--figure-images: no results for image {', '.join(unknown)}.")
        return list(wanted)
    if not source.image_ids:
        raise UserError("--figure: the results have no images.")

    def judged(model: Model, image_id: int) -> str:
        caption, truth = _caption(model, image_id), source.truths.get(image_id)
        return verdicts(caption or "", model.results.object_words, truth.boxes if truth else None)

    first, last = source.models[0], source.models[-1]

    def is_telling(image_id: int) -> bool:
        now = judged(last, image_id)
        return RIGHT in now and WRONG not in now and WRONG in judged(first, image_id)

    return sorted(source.image_ids, key=is_telling, reverse=True)[:IMAGES]


def _caption(model: Model, image_id: int) -> str | None:
    return next(iter(versions(model.images.get(image_id)).values()), None)


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


def draw_captions(
    picture: Image.Image, captions: Mapping[str, GroundedCaption], object_words: Mapping[str, str]
) -> Image.Image:
    """One row of the figure, RGB, one column per model (name -> its caption); object_words: word -> class."""
    buffer = io.BytesIO()
    with drawing():
        row = FigureRow(picture, picture.size, [(caption, object_words) for caption in captions.values()])
        _lay_out(list(captions), [row]).savefig(buffer, dpi=DPI / 2)
    return Image.open(buffer).convert("RGB")


def draw_figure(source: Source, image_ids: Sequence[int], pictures: Mapping[int, Path]) -> Figure:
    """The whole figure; call it inside ``drawing()``."""
    rows = []
    for image_id in image_ids:
        picture = Image.open(pictures[image_id]) if image_id in pictures else None
        size = size_of(source, image_id) or (picture.size if picture else (4, 3))
        captions = [(_caption(model, image_id), model.results.object_words) for model in source.models]
        rows.append(FigureRow(picture, size, captions))
    return _lay_out([model.name for model in source.models], rows)


class FigureRow(NamedTuple):
    """One image."""

    picture: Image.Image | None  # None draws the boxes on a blank frame
    size: tuple[float, float]  # (width, height) that the boxes are for, pixels
    captions: Sequence[tuple[str | None, Mapping[str, str]]]  # of each model, and word -> class for its object words


def _lay_out(names: Sequence[str], rows: Sequence[FigureRow]) -> Figure:
    """A figure with one axes whose unit is the point, counted from the upper left corner."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((1, 1), dpi=10 * 72)  # a pixel is a tenth of a point, in which the lengths of words are measured
    FigureCanvasAgg(figure)  # a canvas that measures without drawing
    axes = figure.add_axes((0, 0, 1, 1))
    lefts = [column * (COLUMN + GAP) for column in range(len(names))]
    for left, name in zip(lefts, names):
        axes.text(left, TEXT, name, color=FAINT, size=TEXT)
    y = float(LINE + 4)
    for row in rows:
        words = [(word, classes) for caption, classes in row.captions for word in words_of(caption or "")]
        found = dict.fromkeys(classes[word] for word, classes in words if word in classes)
        colours = {name: WORD_COLOURS[i % len(WORD_COLOURS)] for i, name in enumerate(found)}  # equal for all models
        y = GAP + max(_draw_cell(axes, row, column, colours, left, y) for column, left in enumerate(lefts))
    width, height = lefts[-1] + COLUMN, y - GAP
    figure.set_size_inches(width / 72, height / 72)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    axes.set_axis_off()
    return figure


def _draw_cell(axes: Axes, row: FigureRow, column: int, colours: Mapping[str, str], x: float, y: float) -> float:
    """Draw one picture with its boxes and its caption; returns where it ends."""
    from matplotlib.patches import Rectangle

    caption, object_words = row.captions[column]
    scale = min(COLUMN / row.size[0], MOST_HEIGHT / row.size[1])
    width, height = (value * scale for value in row.size)
    inset = x + (COLUMN - width) / 2
    if row.picture is None:
        axes.add_patch(Rectangle((inset, y), width, height, color=BLANK, linewidth=0))
    else:
        shown = row.picture.convert("RGB")
        shown.thumbnail((COLUMN * DPI // 72, COLUMN * DPI // 72), Image.Resampling.LANCZOS)
        axes.imshow(shown, extent=(inset, inset + width, y + height, y))
    words = ["(no caption)"] if caption is None else words_of(caption)
    found = [colours.get(object_words.get(word, "")) for word in words]
    if isinstance(caption, GroundedCaption):
        for grounded, colour in zip(caption.words, found):
            if colour is not None:
                x1, y1, x2, y2 = (value * scale for value in grounded.box_px)
                size = max(0, x2 - x1), max(0, y2 - y1)
                axes.add_patch(Rectangle((inset + x1, y + y1), *size, fill=False, linewidth=2, edgecolor=colour))
    line, left = y + height + LINE, 0.0
    for word, colour in zip(words, found):
        text = axes.text(x + left, line, word, color=colour or INK, size=TEXT)
        length = text.get_window_extent().width / 10
        if left and left + length > COLUMN:
            left, line = 0.0, line + LINE
            text.set_position((x, line))
        left += length + TEXT / 3
    return line + 4
