"""The object classes, and the rule that gives a phrase its class when the official file is not there."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from xmodaler_ssattn.errors import UserError

# Said in every file that the fallback rule made.
FALLBACK_RULE = (
    "not GVD-identical: made from Sentences/ and Annotations/; class = last word of the phrase whose lemma is a class, "
    "box = union of the chain's boxes; scene, nobox and chain 0 are left out"
)


def read_classes(path: str | os.PathLike | None = None) -> list[str]:
    """Class names, one a line; without a path the 480 of Flickr30k Entities (resources/SOURCES.md).

    Raises:
        UserError: the file is missing, empty, or names a class twice.
    """
    if path is None:
        source = importlib.resources.files("xmodaler_ssattn.data") / "resources" / "flickr30k_class_name.txt"
    else:
        source = Path(path)
        if not source.is_file():
            raise UserError(f"The list of classes {path} does not exist.")
    names = [line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise UserError(
            f"The list of classes {source}: "
            + (f"these names stand twice: {', '.join(repeated)}." if repeated else "it is empty.")
        )
    return names


def class_of_phrase(
    tokens: Sequence[str], start: int, end: int, classes: Collection[str], lemma: Callable[[str], str]
) -> tuple[str, int] | tuple[None, None]:
    """Class and head word of ``tokens[start:end]``: the last token whose lemma is a class.

    Returns:
        (class, position of the token), or (None, None) when no token's lemma is a class.
    """
    for position in range(end - 1, start - 1, -1):
        name = lemma(tokens[position])
        if name in classes:
            return name, position
    return None, None


def union_box(boxes_px: Sequence[Sequence[float]]) -> list[float]:
    """The smallest box around all of ``boxes_px`` (xyxy pixels, at least one)."""
    x1, y1, x2, y2 = zip(*boxes_px)
    return [min(x1), min(y1), max(x2), max(y2)]
