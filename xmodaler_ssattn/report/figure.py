"""Figures for papers, laid out as the paper's Figure 3: a row an image, a column a model, words and boxes in colour.

The layout is made once, as a list of shapes in points; Pillow draws them for PNG and PDF, a few lines write them as
SVG, which stays sharp at any size and is small.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, write_text
from xmodaler_ssattn.report.overlay import COLOURS
from xmodaler_ssattn.report.source import Model, Source, versions, words_of
from xmodaler_ssattn.report.verdicts import RIGHT, WRONG, verdicts

COLUMN, GAP, TEXT, LINE = 240, 12, 10, 14
MOST_HEIGHT = 240
INK, FAINT, BLANK = "#222222", "#777777", "#EEF0F2"
PIXELS = 300 / 72
"""Pixels a point in PNG and PDF: 300 a inch."""
IMAGES = 3


@dataclass(frozen=True)
class Shape:
    """One thing to draw; lengths in points.

    Attributes:
        kind: "picture", "box" or "text".
        x, y: upper left corner; of a text the left end of its baseline.
        width, height: of a text its length and 0.
        colour: of the line or the letters.
        value: the text, or the picture's path ("" for a blank frame).
    """

    kind: str
    x: float
    y: float
    width: float
    height: float
    colour: str = INK
    value: str = ""


def choose_images(source: Source, wanted: Sequence[int] | None) -> list[int]:
    """The images of the figure; by default the first ones where the last model is right and the first one wrong.

    Raises:
        UserError: an image that is in no results file, or no image at all.
    """
    if wanted:
        unknown = [str(i) for i in wanted if i not in source.image_ids]
        if unknown:
            raise UserError(f"--figure-images: no results for image {', '.join(unknown)}.")
        return list(wanted)
    if not source.image_ids:
        raise UserError("--figure: the results hold no image.")

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
    shapes, size = layout(source, image_ids, pictures)
    canvas = draw(shapes, size)
    paths = [prefix.with_name(prefix.name + suffix) for suffix in (".png", ".pdf", ".svg")]
    for path in paths[:2]:
        with atomic_path(path) as temporary:
            canvas.save(temporary, resolution=72 * PIXELS, dpi=(72 * PIXELS, 72 * PIXELS))
    write_text(paths[2], to_svg(shapes, size))
    return paths


def layout(source: Source, image_ids: Sequence[int], pictures: Mapping[int, Path]):
    """(shapes, (width, height) in points) of the whole figure."""
    shapes: list[Shape] = []
    for column, model in enumerate(source.models):
        x = column * (COLUMN + GAP)
        shapes.append(Shape("text", x, TEXT, _length(model.name), 0, FAINT, model.name))
    y = float(LINE + 4)
    for image_id in image_ids:
        colours = _colours(source, image_id)
        cells = [
            _cell(model, image_id, source, pictures.get(image_id), colours, column * (COLUMN + GAP), y)
            for column, model in enumerate(source.models)
        ]
        shapes += [shape for cell, _ in cells for shape in cell]
        y = max(bottom for _, bottom in cells) + GAP
    return shapes, (len(source.models) * (COLUMN + GAP) - GAP, y - GAP)


def _colours(source: Source, image_id: int) -> dict[str, str]:
    """class -> colour, the same for all models."""
    names: dict[str, None] = {}
    for model in source.models:
        caption = _caption(model, image_id)
        for word in words_of(caption or ""):
            if word in model.results.object_words:
                names[model.results.object_words[word]] = None
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _cell(model: Model, image_id: int, source: Source, picture: Path | None, colours, x: float, y: float):
    """(shapes, bottom) of one picture with its caption."""
    caption = _caption(model, image_id)
    width, height = _size(source, image_id, picture)
    scale = min(COLUMN / width, MOST_HEIGHT / height)
    inset = x + (COLUMN - width * scale) / 2
    shapes = [Shape("picture", inset, y, width * scale, height * scale, BLANK, "" if picture is None else str(picture))]
    words = ["(no caption)"] if caption is None else words_of(caption)
    classes = [model.results.object_words.get(word) for word in words]
    if isinstance(caption, GroundedCaption):
        for word, name in zip(caption.words, classes):
            if name is not None:
                x1, y1, x2, y2 = (value * scale for value in word.box_px)
                shapes.append(Shape("box", inset + x1, y + y1, x2 - x1, y2 - y1, colours[name]))
    line = y + height * scale + LINE
    left = 0.0
    for word, name in zip(words, classes):
        length = _length(word)
        if left and left + length > COLUMN:
            left, line = 0.0, line + LINE
        shapes.append(Shape("text", x + left, line, length, 0, INK if name is None else colours[name], word))
        left += length + _length(" ")
    return shapes, line + 4


def _size(source: Source, image_id: int, picture: Path | None) -> tuple[float, float]:
    for model in source.models:
        size = getattr(_caption(model, image_id), "image_size", None)
        if size is not None:
            return size
    if picture is not None:
        with Image.open(picture) as opened:
            return opened.size
    truth = source.truths.get(image_id)
    return (4.0, 3.0) if truth is None else truth.size


def _length(text: str) -> float:
    """In points; measured large, because lengths at small sizes are rounded to pixels."""
    return _font(10.0).getlength(text) / 10.0


def _font(scale: float) -> ImageFont.ImageFont:
    return ImageFont.load_default(size=TEXT * scale)


def draw(shapes: Sequence[Shape], size: tuple[float, float], scale: float = PIXELS) -> Image.Image:
    """The shapes as an RGB picture, ``scale`` pixels a point."""
    canvas = Image.new("RGB", (round(size[0] * scale), round(size[1] * scale)), "#FFFFFF")
    pen, font = ImageDraw.Draw(canvas), _font(scale)
    for shape in shapes:
        x, y, width, height = (value * scale for value in (shape.x, shape.y, shape.width, shape.height))
        if shape.kind == "text":
            pen.text((x, y), shape.value, fill=shape.colour, font=font, anchor="ls")
        elif shape.kind == "box":
            pen.rectangle((x, y, x + max(0, width), y + max(0, height)), outline=shape.colour, width=round(2 * scale))
        elif shape.value:
            with Image.open(shape.value) as picture:
                fitted = picture.convert("RGB").resize((round(width), round(height)), Image.Resampling.LANCZOS)
            canvas.paste(fitted, (round(x), round(y)))
        else:
            pen.rectangle((x, y, x + width, y + height), fill=shape.colour)
    return canvas


def to_svg(shapes: Sequence[Shape], size: tuple[float, float]) -> str:
    """The shapes as SVG text; pictures are inside it, every text is escaped."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]:g}pt" height="{size[1]:g}pt" '
        f'viewBox="0 0 {size[0]:g} {size[1]:g}" font-family="Helvetica, Arial, sans-serif" font-size="{TEXT}">'
    )
    parts = [head]
    for shape in shapes:
        where = f'x="{shape.x:.2f}" y="{shape.y:.2f}"'
        extent = f'width="{max(0, shape.width):.2f}" height="{max(0, shape.height):.2f}"'
        if shape.kind == "text":
            # textLength holds the line breaks, whatever font the viewer has.
            length = f'textLength="{shape.width:.2f}" lengthAdjust="spacingAndGlyphs"'
            parts.append(f'<text {where} {length} fill="{shape.colour}">{escape(shape.value)}</text>')
        elif shape.kind == "box":
            parts.append(f'<rect {where} {extent} fill="none" stroke="{shape.colour}" stroke-width="2"/>')
        elif shape.value:
            parts.append(f'<image {where} {extent} preserveAspectRatio="none" href="{_inline(Path(shape.value))}"/>')
        else:
            parts.append(f'<rect {where} {extent} fill="{shape.colour}"/>')
    return "\n".join([*parts, "</svg>\n"])


def _inline(picture: Path) -> str:
    """A data address; JPEG and PNG as they are, everything else as PNG."""
    kinds = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
    kind = kinds.get(picture.suffix.lower())
    if kind is None:
        kind, buffer = "png", io.BytesIO()
        with Image.open(picture) as opened:
            opened.convert("RGB").save(buffer, "PNG")
        data = buffer.getvalue()
    else:
        data = picture.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
