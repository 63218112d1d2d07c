"""The images and object words of results as other tools need them: file names, sizes, boxes inside the picture.

Boxes stay xyxy pixels of the upright picture, with width x2 - x1; a format that stores them otherwise converts them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.detectors.pictures import FORMATS
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.results import ImageResult, Results
from xmodaler_ssattn.report.pictures import find_pictures
from xmodaler_ssattn.report.source import Box, Truth, versions

SMALLEST = 1.0  # pixels; what is left of a smaller box has no meaning, and readers drop or refuse it
_EXIF_ORIENTATION, _QUARTER_TURNS = 0x0112, (5, 6, 7, 8)


class ExportedImage(NamedTuple):
    """One image; width and height are pixels of the upright picture."""

    result: ImageResult
    file_name: str  # without a folder
    path: Path | None  # its picture, when a folder of pictures was given
    width: int
    height: int
    turned: bool = False  # its file holds the picture on its side, with a note in the EXIF data to turn it


class ObjectWord(NamedTuple):
    """An object word, caption[start:end]."""

    text: str
    label: str  # its object class
    start: int
    end: int
    box_px: Box  # x1, y1, x2, y2 in pixels, inside the picture and at least one pixel wide and high
    weight: float  # the attention on the box


def captions_of(results: Results, greedy: bool, *, boxes: bool = False) -> dict[int, str]:
    """Image id -> the main or the greedy caption; with ``boxes`` they are ``GroundedCaption`` objects.

    Raises:
        UserError: captions are missing or, with ``boxes``, have no boxes; all images are listed.
    """
    captions: dict[int, str] = {}
    problems = [] if results.images else ["they contain no image."]
    for image in results.images:
        caption = versions(image).get("greedy" if greedy else "main")
        if caption is None:
            problems.append(f"image {image.image_id}: it has no greedy caption.")
        elif boxes and not isinstance(caption, GroundedCaption):
            problems.append(f"image {image.image_id}: its caption has no boxes.")
        else:
            captions[image.image_id] = caption
    raise_all(problems, "The results cannot be exported")
    return captions


def object_words(caption: str, classes: Mapping[str, str], width: int, height: int) -> tuple[list[ObjectWord], int]:
    """The object words of a caption, and the number of those left out because their box is outside the picture.

    Args:
        caption: one without boxes has no object word.
        classes: word -> object class.
        width, height: pixels of the picture.
    """
    found, outside, start = [], 0, 0
    for word in caption.words if isinstance(caption, GroundedCaption) else ():
        end = start + len(word.text)
        if (label := classes.get(word.text)) is not None:
            box = clipped(word.box_px, width, height)
            outside += box is None
            if box is not None:
                found.append(ObjectWord(word.text, label, start, end, box, word.weight))
        start = end + 1  # one space between words, see GroundedCaption
    return found, outside


def clipped(box_px: Sequence[float], width: float, height: float) -> Box | None:
    """A box, xyxy pixels, cut at the edges of the picture; None if less than a pixel is left of its width or height.

    >>> clipped([-3, 2, 5, 9], 4, 10)
    (0.0, 2.0, 4.0, 9.0)
    """
    x1, x2 = (round(min(max(float(x), 0.0), float(width)), 2) for x in box_px[::2])
    y1, y2 = (round(min(max(float(y), 0.0), float(height)), 2) for y in box_px[1::2])
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= SMALLEST else None


def outside_doubt(number: int) -> tuple[str, ...]:
    """A warning about words without a box inside their picture, or none."""
    return (f"{number} object words were left out: their boxes are not inside the picture",) if number else ()


def exported_images(
    results: Results, images: str | os.PathLike | None = None, truths: Mapping[int, Truth] | None = None
) -> list[ExportedImage]:
    """The images of results with file names and sizes.

    Sizes come from the results, else from the annotations, else from the picture. Results of `xmodaler caption` hold
    the names of the photographs; other images are ``ID.jpg``, or the file with that id in the folder ``images``.

    Raises:
        UserError: a size or a picture is missing, or a picture has another size than the results; all are listed.
    """
    names = photographs(results)
    paths = _find(results, names, Path(images)) if images is not None else {}
    found, problems = [], []
    for result in results.images:
        image_id, path = result.image_id, paths.get(result.image_id)
        if images is not None and path is None:
            wanted = f" named {names[image_id]!r}" if image_id in names else ""
            problems.append(f"image {image_id}: no picture{wanted} in {images}.")
            continue
        size = next((s for c in versions(result).values() if (s := getattr(c, "image_size", None)) is not None), None)
        if size is None and truths and image_id in truths:
            size = truths[image_id].size
        turned = False
        if path is not None:
            try:
                seen, turned = _size_of_file(path)
            except UserError as error:
                problems.append(f"image {image_id}: {error}")
                continue
            size = seen if size is None else size
            if seen != (round(size[0]), round(size[1])):
                problems.append(
                    f"image {image_id}: {path} has {seen[0]} x {seen[1]} pixels, its boxes are for "
                    f"{size[0]:g} x {size[1]:g}; is it another picture, or a resized one?"
                )
        if size is None:
            problems.append(f"image {image_id}: its size is unknown; give --annotations or --images.")
            continue
        width, height = round(size[0]), round(size[1])
        if min(width, height) < 1:
            problems.append(f"image {image_id}: expected a size in pixels, got {width} x {height}.")
            continue
        name = path.name if path is not None else names.get(image_id, f"{image_id}.jpg")
        found.append(ExportedImage(result, name, path, width, height, turned))
    raise_all(problems, "The results cannot be exported")
    return found


def photographs(results: Results) -> dict[int, str]:
    """Image id -> the file name of a photograph, of results of `xmodaler caption`; empty for a data set."""
    pictures = results.header.get("pictures")
    if not isinstance(pictures, Mapping):
        return {}
    # Only the last part of a name is used: a path from a file could lead anywhere.
    return {
        image.image_id: Path(name).name
        for image in results.images
        if isinstance(name := pictures.get(str(image.image_id)), str) and Path(name).suffix
    }


def _find(results: Results, names: Mapping[int, str], folder: Path) -> dict[int, Path]:
    """Image id -> picture in the folder; a ``UserError`` if it is no folder, or two photographs have the same name."""
    ids = [image.image_id for image in results.images if image.image_id not in names]
    paths = find_pictures(folder, ids)  # also checks the folder
    if repeated := [repr(name) for name, count in Counter(names.values()).items() if count > 1]:
        raise UserError(
            f"--images: the results are of several photographs named {', '.join(repeated[:10])} from different "
            "folders; caption each folder into its own results file."
        )
    return paths | {i: path for i, name in names.items() if (path := folder / name).is_file()}


def _size_of_file(path: Path) -> tuple[tuple[int, int], bool]:
    """(width, height) of the upright picture, and whether its file holds it on its side."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            turned = picture.getexif().get(_EXIF_ORIENTATION) in _QUARTER_TURNS
            return (picture.size[::-1] if turned else picture.size), turned
    except Exception as error:  # Pillow's decoders raise different exceptions for damaged files
        raise UserError(f"{path} cannot be opened as a picture ({type(error).__name__}).") from error
