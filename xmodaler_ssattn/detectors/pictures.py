"""A picture file of any kind -> upright BGR pixels, or an error that names the file.

Pictures are read as with cv2.imread, which the published extractors used: EXIF rotation is applied, grey and palette
become three channels, transparency is dropped without a background, 9 to 16 bits are cut to the upper 8, embedded
colour profiles are ignored, and of an animation or TIFF file the first frame or page is used (with a warning). Pillow
converts CMYK. Numbers without a defined maximum (32-bit, signed, floating-point) are refused.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xmodaler_ssattn.errors import UserError

# Only pixel formats: some of Pillow's other formats start programs (EPS) or are vector graphics.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
# A region is at least 16 pixels wide and high, so a smaller picture has none.
MIN_SIDE = 16
# 20,000 x 4,000 still passes; as float32 that is 1 GB. Pillow warns of larger ones itself.
MAX_PIXELS = 89_000_000
# Of a picture in an archive or a table; MAX_PIXELS as BMP are 267 MB.
MAX_PICTURE_BYTES = 300_000_000
READERS = 4  # threads; Pillow lets the others run while it decodes
# Of 255: a picture without a brighter pixel than this holds 12-bit numbers (15 is the brightest then) or is black.
DARK = 32

_EXIF_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # of TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PackedPicture:
    """A picture from an archive or a table.

    Attributes:
        where: the archive and the place in it, for messages.
        data: the bytes of a picture file, or the reason why they could not be read.
    """

    where: str
    data: bytes | UserError = dataclasses.field(repr=False)

    def __str__(self) -> str:
        return self.where

    def file(self) -> io.BytesIO:
        """The bytes as a file; raises the ``UserError`` if there is one."""
        if isinstance(self.data, UserError):
            raise self.data
        return io.BytesIO(self.data)


def read_picture(picture: str | os.PathLike | PackedPicture) -> np.ndarray:
    """(H, W, 3) uint8, blue first; see ``open_upright``."""
    return np.ascontiguousarray(np.asarray(open_upright(picture))[:, :, ::-1])


def picture_sides(picture: str | os.PathLike | PackedPicture) -> tuple[int, int] | None:
    """The shorter and the longer side in pixels, without decoding the picture; None when it cannot be opened."""
    try:
        file = picture.file() if isinstance(picture, PackedPicture) else picture
        with Image.open(file, formats=FORMATS) as opened:
            return min(opened.size), max(opened.size)
    except Exception:  # errors are reported when it is read
        return None


def open_upright(picture_file: str | os.PathLike | PackedPicture) -> Image.Image:
    """A picture file as an RGB image, rotated by its EXIF data.

    Raises:
        UserError: the file is missing, damaged or not a picture, has a side below MIN_SIDE or more than MAX_PIXELS, or
            its pixels are floating-point, signed or of more than 16 bits.
    """
    if isinstance(picture_file, PackedPicture):
        path: Path | PackedPicture = picture_file
        file: Any = picture_file.file()
    else:
        path = file = Path(picture_file)
        if not path.is_file():
            raise UserError(
                f"{path}: the file does not exist." if not path.exists() else f"{path}: this is not a file."
            )
    try:
        with Image.open(file, formats=FORMATS) as picture:
            _check_size(path, *picture.size)
            picture.load()
            # Pillow turns TIFF files while it loads them, and not every version of it then forgets the entry.
            turn = None if picture.format == "TIFF" else _UPRIGHT.get(_orientation(path, picture))
            rgb = _to_rgb(path, picture)
            if picture.format != "MPO" and _has_more_frames(picture):  # MPO: a photograph with a preview
                logging.getLogger(__name__).warning("%s: it has several frames or pages; the first one is used.", path)
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: it has more than {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller.") from error
    except Image.UnidentifiedImageError:
        raise UserError(_no_picture(path, file)) from None
    except MemoryError:
        raise UserError(f"{path}: there is not enough memory for it; make it smaller.") from None
    except Exception as error:  # Pillow's decoders raise different exceptions for damaged files
        raise UserError(f"{path}: the picture is damaged or incomplete ({type(error).__name__}: {error}).") from error
    return rgb if turn is None else rgb.transpose(turn)


def _check_size(path: Path | PackedPicture, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{path}: {width} x {height} pixels; regions need at least {MIN_SIDE} on each side.")
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path}: {width} x {height} are {width * height / 1e6:.0f} million pixels, more than the "
            f"{MAX_PIXELS / 1e6:.0f} million that are read; make it smaller."
        )


def _no_picture(path: Path | PackedPicture, file: Path | io.BytesIO) -> str:
    with open(file, "rb") if isinstance(file, Path) else file as opened:
        opened.seek(0)
        start = opened.read(12)
    if not start:
        return f"{path}: the file is empty."
    if start[4:8] == b"ftyp":
        return f"{path}: HEIC and AVIF pictures cannot be read; save it as JPEG."
    return f"{path}: this is not a picture of a known format ({', '.join(FORMATS)}); it begins with {start!r}."


def _orientation(path: Path | PackedPicture, picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_EXIF_ORIENTATION) or 1)
    except Exception as error:
        logging.getLogger(__name__).warning("%s: its EXIF data cannot be read (%s); it is not rotated.", path, error)
        return 1


def _has_more_frames(picture: Image.Image) -> bool:
    try:
        return getattr(picture, "n_frames", 1) > 1
    except Exception:  # only the first one is needed
        return False


def _to_rgb(path: Path | PackedPicture, picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise UserError(f"{path}: its pixels are floating-point numbers; save it with 8 bits per channel.")
    bits = 16  # Pillow brings other formats than TIFF to 16 bits, when they have more than 8
    signed = inverted = False
    if picture.format == "TIFF":
        bits = max(picture.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
        signed = any(kind != 1 for kind in picture.tag_v2.get(_SAMPLE_FORMAT, (1,)))
        inverted = picture.tag_v2.get(_PHOTOMETRIC) == 0  # 0 is white, which Pillow turns round for 8 bits only
    if not picture.mode.startswith("I") and not signed:
        return picture.convert("RGB")
    values = np.asarray(picture).astype(np.int64)  # Pillow's own conversion of these clips at 255
    if signed or bits > 16 or values.max() >= 1 << bits:
        kind = f"signed {bits}-bit" if signed and bits <= 16 else f"{max(bits, 32)}-bit"
        raise UserError(
            f"{path}: its pixels are {kind} numbers ({values.min()} to {values.max()}), which have no agreed "
            "brightest value; save it with 8 or 16 bits per channel."
        )
    upper = (values >> (bits - 8)).astype(np.uint8)
    if bits > 8 and values.max() and upper.max() < DARK:
        logging.getLogger(__name__).warning(
            "%s: read as %d-bit numbers it is nearly black: the brightest one is %d of %d. If it contains 8-bit or "
            "12-bit numbers, save it with 8 bits per channel.",
            path,
            bits,
            values.max(),
            (1 << bits) - 1,
        )
    return Image.fromarray(255 - upper if inverted else upper).convert("RGB")


class UnexpectedError(UserError):
    """An unforeseen exception at one picture, which does not stop the others; ``error`` is the exception."""

    def __init__(self, path: Path | PackedPicture, error: Exception) -> None:
        super().__init__(f"{path}: {type(error).__name__}: {error}")
        self.error = error


def decode_ahead(
    pictures: Iterable[tuple[int, Path | PackedPicture]], ahead: int = READERS
) -> Iterator[tuple[int, Path | PackedPicture, np.ndarray | UserError]]:
    """Each picture's (id, picture, pixels), in the order given; for one that cannot be used a ``UserError`` as pixels.

    While the caller works on one picture, threads read the next ones, at most ``ahead``.
    """
    remaining = iter(pictures)
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="pictures")
    try:
        waiting: deque = deque()
        while True:
            for image_id, path in islice(remaining, max(ahead, 1) - len(waiting)):
                waiting.append((image_id, path, pool.submit(read_picture, path)))
            if not waiting:
                return
            image_id, path, future = waiting.popleft()
            try:
                pixels = future.result()
            except UserError as error:
                pixels = error
            except Exception as error:
                pixels = UnexpectedError(path, error)
            yield image_id, path, pixels
    finally:
        pool.shutdown(cancel_futures=True)
