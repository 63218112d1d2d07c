"""A picture with its caption: each object word in a colour of its own, its box in the same colour."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from PIL import Image, ImageDraw, ImageFont

from xmodaler_ssattn.caption import GroundedCaption

# Okabe and Ito's palette, also told apart with the common kinds of colour blindness, without black and yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_TEXT, _PAPER, _MARGIN, _LINE = "#222222", "#FFFFFF", 8, 20


def draw_captions(
    picture: Image.Image, captions: Mapping[str, GroundedCaption], object_words: Collection[str]
) -> Image.Image:
    """The picture once per model, side by side, each with the boxes of its object words and its caption below.

    Args:
        picture: any mode; drawn on a copy.
        captions: model name -> its caption.
        object_words: the words to colour and box.

    Returns:
        an RGB picture, one column per model.
    """
    columns = [_draw_column(picture, name, caption, object_words) for name, caption in captions.items()]
    sheet = Image.new("RGB", (sum(c.width for c in columns), max(c.height for c in columns)), _PAPER)
    x = 0
    for column in columns:
        sheet.paste(column, (x, 0))
        x += column.width
    return sheet


def _draw_column(
    picture: Image.Image, name: str, caption: GroundedCaption, object_words: Collection[str]
) -> Image.Image:
    picture = picture.convert("RGB")
    font = ImageFont.load_default(size=14)
    objects = [position for position, word in enumerate(caption.words) if word.text in object_words]
    colours = {position: COLOURS[i % len(COLOURS)] for i, position in enumerate(objects)}
    lines = _wrap([word.text for word in caption.words], font, picture.width - 2 * _MARGIN)
    height = picture.height + (len(lines) + 1) * _LINE + 2 * _MARGIN
    column = Image.new("RGB", (picture.width, height), _PAPER)
    column.paste(picture, (0, 0))
    draw = ImageDraw.Draw(column)
    for position, colour in colours.items():
        draw.rectangle(caption.words[position].box_px, outline=colour, width=3)
    y = picture.height + _MARGIN
    draw.text((_MARGIN, y), name, fill="#777777", font=font)
    for line in lines:
        x, y = _MARGIN, y + _LINE
        for position, text in line:
            draw.text((x, y), text, fill=colours.get(position, _TEXT), font=font)
            x += draw.textlength(text + " ", font=font)
    return column


def _wrap(words: list[str], font: ImageFont.ImageFont, width: float) -> list[list[tuple[int, str]]]:
    """Lines of (position, word) that are no wider than ``width`` pixels."""
    lines: list[list[tuple[int, str]]] = [[]]
    used = 0.0
    for position, word in enumerate(words):
        length = font.getlength(word + " ")
        if lines[-1] and used + length > width:
            lines.append([])
            used = 0.0
        lines[-1].append((position, word))
        used += length
    return lines
