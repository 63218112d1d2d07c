"""The page as one HTML file, for a few pictures, which can be sent by mail and opened anywhere."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from xmodaler_ssattn.files import write_text
from xmodaler_ssattn.report.page import STYLE, write_page
from xmodaler_ssattn.report.source import Source

LONGEST_SIDE = 1200  # pixels, of a picture in the page; boxes stay in pixels of the original
QUALITY = 88


def write_single_file(path: Path, source: Source, pictures: Iterable[tuple[int, Image.Image]], *, title: str) -> Path:
    """Write the page of ``write_page`` with its style, scripts, data and pictures inside one file.

    ``pictures``: (image id, upright picture); an image without a picture is shown as a blank frame.
    """
    with tempfile.TemporaryDirectory() as temporary:
        images, page = Path(temporary) / "images", Path(temporary) / "page"
        images.mkdir()
        for image_id, picture in pictures:
            (images / f"{image_id}.jpg").write_bytes(_as_jpeg(picture))
        given = images if any(images.iterdir()) else None
        text = write_page(page, source, images=given, title=title).read_text(encoding="utf-8")
        parts = "".join(f'<script src="data/{part.name}"></script>\n' for part in sorted(page.glob("data/part_*.js")))
        index = '<script src="data/index.js"></script>'
        text = text.replace(index, parts + index)  # all parts must be loaded before the index uses them
        text = text.replace(
            f'<link rel="stylesheet" href="{STYLE}">', f"<style>\n{(page / STYLE).read_text(encoding='utf-8')}</style>"
        )
        text = re.sub(r'<script src="([^"]+)"></script>', lambda found: _inline(page / found[1], images), text)
    write_text(path, text)
    return path


def _as_jpeg(picture: Image.Image) -> bytes:
    picture = picture.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _inline(script: Path, images: Path) -> str:
    text = script.read_text(encoding="utf-8")
    if script.parent.name == "data":
        text = re.sub(r'"p":"pictures/([^"]+)"', lambda found: f'"p":"{_data_address(images / found[1])}"', text)
        # In JSON "<" occurs only inside strings; escaped, it can neither end the script nor begin a comment.
        text = text.replace("<", "\\u003c")
    return f"<script>\n{text}</script>"


def _data_address(picture: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
