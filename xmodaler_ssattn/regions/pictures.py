"""A picture file of any kind -> upright BGR pixels; what cannot be used is a clear error with the file's name.

As cv2.imread reads it, which the published extractors used: EXIF rotation applied, grey and palette widened to three
channels, transparency dropped (nothing is blended with a background), 16 bits cut to their upper 8, embedded colour
profiles ignored, the first frame of an animation. CMYK goes through Pillow's conversion.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
from PIL import Image

from xmodaler_ssattn.errors import UserError

# Pixel formats alone: some of Pillow's other formats start programs (EPS) or are drawings.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
# A region is at least 16 pixels of the picture wide and high, so a smaller picture has none.
MIN_SIDE = 16
# 20,000 x 4,000 still passes; as float32 that is 1 GB. Pillow warns of larger ones itself.
MAX_PIXELS = 89_000_000

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """The pixels of a picture file, (H, W, 3) uint8 in the order blue, green, red.

    Raises:
        UserError: see ``open_upright``.
    """
    return np.ascontiguousarray(np.asarray(open_upright(path))[:, :, ::-1])


def open_upright(path: str | os.PathLike) -> Image.Image:
    """A picture file as an RGB image, rotated as its EXIF data say.

    Raises:
        UserError: no such file, no picture, damaged or cut short, smaller than MIN_SIDE on a side, more than
            MAX_PIXELS, or pixels of a kind that has no colours (floating point, 32 bits).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file." if not path.exists() else f"{path}: this is no file.")
    try:
        with Image.open(path, formats=FORMATS) as picture:
            _check_size(path, *picture.size)
            picture.load()
            # Pillow turns TIFF files while it loads them, and not every version of it then forgets the entry.
            turn = None if picture.format == "TIFF" else _UPRIGHT.get(_orientation(path, picture))
            rgb = _to_rgb(path, picture)
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: it has more than {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller.") from error
    except Image.UnidentifiedImageError:
        raise UserError(_no_picture(path)) from None
    except MemoryError:
        raise UserError(f"{path}: there is not enough memory for it; make it smaller.") from None
    except Exception as error:  # Pillow's decoders raise at damaged files, each in its own way
        raise UserError(f"{path}: the picture is damaged or cut short ({type(error).__name__}: {error}).") from error
    return rgb if turn is None else rgb.transpose(turn)


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{path}: {width} x {height} pixels; regions need at least {MIN_SIDE} on each side.")
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path}: {width} x {height} are {width * height / 1e6:.0f} million pixels, more than the "
            f"{MAX_PIXELS / 1e6:.0f} million that are read; make it smaller."
        )


def _no_picture(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(12)
    if not start:
        return f"{path}: the file is empty."
    if start[4:8] == b"ftyp":
        return f"{path}: HEIC and AVIF pictures cannot be read; save it as JPEG."
    return f"{path}: this is no picture of a known format ({', '.join(FORMATS)}); it begins with {start!r}."


def _orientation(path: Path, picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION) or 1)
    except Exception as error:
        logging.getLogger(__name__).warning("%s: its EXIF data cannot be read (%s); taken as it lies.", path, error)
        return 1


def _to_rgb(path: Path, picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise UserError(f"{path}: its pixels are floating-point numbers; save it with 8 bits a channel.")
    if not picture.mode.startswith("I"):
        return picture.convert("RGB")
    values = np.asarray(picture)  # Pillow's own conversion of these clips at 255
    if values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(
            f"{path}: its pixels are 32-bit numbers ({values.min()} to {values.max()}); save it with 8 or "
            "16 bits a channel."
        )
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
