"""Read the official Flickr30k Entities files: ``Sentences/ID.txt`` and ``Annotations/ID.xml``.

A sentence marks its phrases: ``[/EN#113/people Two men] watch [/EN#0/notvisual it] .`` The number is
the coreference chain that the image's XML gives boxes to; chain 0 belongs to no object. The XML counts
pixels from 1; 1 is subtracted, as the authors' own parser does (flickr30k_entities_utils.py).

An image's id is the number in the name of its files: ``0012.txt`` is image 12.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import xml.parsers.expat
from collections.abc import Sequence
from pathlib import Path

from xmodaler_ssattn.data.annotations import Caption, Phrase
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_text
from xmodaler_ssattn.ids import plain_id

# One phrase: chain, one type or more, and its words.
PHRASE = re.compile(r"\[/EN#(\d+)(?:/[^\s/\[\]]+)+ ([^\[\]]*)\]")
NO_CHAIN = "0"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}")
# Boxes may extend beyond the border by this number of pixels and are then clipped.
BORDER_TOLERANCE_PX = 1


class MarkupError(UserError):
    """An error in the format of a data set file, with the file and the line."""

    def __init__(self, path: str | os.PathLike, line: int | None, message: str) -> None:
        super().__init__(f"{path}{'' if line is None else f', line {line}'}: {message}")

    def __reduce__(self) -> tuple:  # a process sends it to another one
        return UserError, self.args


@dataclasses.dataclass
class ParsedXml:
    """One image's XML; width and height in pixels."""

    width: int
    height: int
    boxes_px: dict[str, list[list[int]]]  # chain -> its boxes, each [x1, y1, x2, y2] in pixels counted from 0
    without_box: set[str]  # chains that the XML names without a usable box: "nobndbox" and "scene"
    problems: list[MarkupError]  # boxes that cannot be used
    boxes: int = 0  # ``bndbox`` elements that can be used; one may belong to several chains
    clipped: int = 0  # boxes that exceeded the border by a pixel


@functools.lru_cache(maxsize=1 << 16)
def token_of(word: str) -> str:
    """The token of a written word: lower case; "" for a word without any letter or digit."""
    return word.lower() if any(character.isalnum() for character in word) else ""


def parse_caption(text: str, path: str | os.PathLike = "sentence", line: int = 1) -> Caption:
    """Parse one marked sentence; its phrases have no classes and boxes yet.

    Words without a letter or digit are not tokens, and phrases of such words are dropped.

    Raises:
        MarkupError: a bracket that does not belong to a complete phrase, an empty phrase, no word at all.
    """
    words: list[str] = []
    tokens: list[str] = []
    phrases: list[Phrase] = []

    def add(part: str) -> None:
        if "[" in part or "]" in part:
            bad, what = "]", "closes a phrase that was not opened"
            if "[" in part:
                bad, what = "[", "opens a phrase that is not closed, or is not written [/EN#id/type words]"
            raise MarkupError(path, line, f"the bracket at {part[part.index(bad) :][:40]!r} {what}.")
        words.extend(part.split())
        tokens.extend(filter(None, map(token_of, part.split())))

    position = 0
    for match in PHRASE.finditer(text):
        add(text[position : match.start()])
        start = len(tokens)
        chain, inside = match.groups()
        if not inside.strip():
            raise MarkupError(path, line, f"the phrase of chain {chain} has no words.")
        add(inside)
        if len(tokens) > start:
            known, end = None if chain == NO_CHAIN else chain, len(tokens)
            phrases.append({"start": start, "end": end, "head": None, "class": None, "chain": known, "boxes": []})
        position = match.end()
    add(text[position:])
    if not tokens:
        raise MarkupError(path, line, "the sentence has no words.")
    return {"raw": " ".join(words), "tokens": tokens, "phrases": phrases}


def read_sentences(path: str | os.PathLike, captions_per_image: int = 5) -> dict[int, Caption]:
    """Read one ``Sentences/ID.txt``, which must have ``captions_per_image`` sentences; blank lines are skipped.

    Returns:
        line of the file, from 1 -> its caption.

    Raises:
        UserError: the file is missing or cannot be read; a MarkupError names the file and line of a format error.
    """
    text = read_text(path, "The sentences")
    lines = enumerate(text.split("\n"), 1)
    captions = {number: parse_caption(line, path, number) for number, line in lines if line.strip()}
    if len(captions) != captions_per_image:
        raise MarkupError(path, None, f"it has {len(captions)} sentences, expected {captions_per_image}.")
    return captions


def list_files(folder: str | os.PathLike, suffix: str) -> dict[int, list[Path]]:
    """image id -> the files of a folder with this id, e.g. ``12.txt`` and ``0012.txt`` for 12; only one is right."""
    found: dict[int, list[Path]] = {}
    for name in sorted(os.listdir(folder)):
        image_id = plain_id(name.removesuffix(suffix)) if name.endswith(suffix) else None
        if image_id is not None:
            found.setdefault(image_id, []).append(Path(folder) / name)
    return found


def read_objects(path: str | os.PathLike) -> ParsedXml:
    """Read one ``Annotations/ID.xml``.

    A chain may have several ``object`` elements, and one ``object`` several chains. Boxes that leave the image or are
    inverted are returned as problems, with their line.

    Raises:
        UserError: the file is missing or cannot be read; or a MarkupError with file and line: not XML, no image size,
            an object without name, or the name of another image.
    """
    reader = _XmlReader(path)
    try:
        # With decoded text, expat ignores the encoding that the file declares.
        reader.parser.Parse(read_text(path, "The boxes"), True)
    except xml.parsers.expat.ExpatError as error:
        reason = xml.parsers.expat.errors.messages[error.code]
        raise MarkupError(path, error.lineno, f"not well-formed XML ({reason}).") from error
    return reader.result()


class _XmlReader:
    """Expat handlers: only expat knows line numbers, and it is the fastest reader of the standard library."""

    NUMBERS = ("xmin", "ymin", "xmax", "ymax")

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        self._text: list[str] = []
        self.parser = xml.parsers.expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.size: dict[str, int] = {}
        self.objects: list[tuple[int, list[str], dict[str, int] | None]] = []
        self._names: list[str] = []
        self._box: dict[str, int] | None = None
        self._line = 0

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._text.clear()
        if tag == "object":
            self._names, self._box, self._line = [], None, self.parser.CurrentLineNumber
        elif tag == "bndbox":
            self._box = {}

    def _doctype(self, *_: object) -> None:
        raise self._error("a DOCTYPE is not allowed here.")

    def _error(self, message: str) -> MarkupError:
        return MarkupError(self.path, self.parser.CurrentLineNumber, message)

    def _end(self, tag: str) -> None:
        if tag == "name":
            self._names.append("".join(self._text).strip())
        elif tag in ("width", "height"):
            self.size[tag] = self._number(tag)
        elif tag == "filename":
            self._check_name("".join(self._text).strip())
        elif tag in self.NUMBERS and self._box is not None:
            self._box[tag] = self._number(tag)
        elif tag == "object":
            if not self._names:
                raise MarkupError(self.path, self._line, "an object without a name (chain id).")
            self.objects.append((self._line, self._names, self._box))

    def _number(self, tag: str) -> int:
        value = "".join(self._text).strip()
        if not WHOLE_NUMBER.fullmatch(value):
            raise self._error(f"<{tag}> is {value!r}, expected a whole number.")
        return int(value)

    def _check_name(self, name: str) -> None:
        own, named = plain_id(Path(self.path).stem), plain_id(os.path.splitext(name)[0])
        if own is not None and named is not None and own != named:
            raise self._error(
                f"<filename> is {name!r}, but the file is named for image {own}. The file's name decides: if the boxes "
                "are those of another image, rename the file, else correct the entry."
            )

    def result(self) -> ParsedXml:
        if self.size.get("width", 0) < 1 or self.size.get("height", 0) < 1:
            raise MarkupError(self.path, None, f"<size> must have a positive width and height, found {self.size}.")
        found = ParsedXml(self.size["width"], self.size["height"], {}, set(), [])
        for line, names, box in self.objects:
            if box is None:  # <nobndbox> or <scene>
                found.without_box.update(names)
                continue
            try:
                box_px = self._checked(line, names, box, found)
            except MarkupError as error:
                found.problems.append(error)
                found.without_box.update(names)
                continue
            found.boxes += 1
            for name in names:
                found.boxes_px.setdefault(name, []).append(box_px)
        found.without_box.difference_update(found.boxes_px)
        return found

    def _checked(self, line: int, names: Sequence[str], box: dict[str, int], found: ParsedXml) -> list[int]:
        missing = [tag for tag in self.NUMBERS if tag not in box]
        if missing:
            raise MarkupError(self.path, line, f"the box of chain {', '.join(names)} lacks {', '.join(missing)}.")
        x1, y1, x2, y2 = (box[tag] - 1 for tag in self.NUMBERS)
        where = f"the box of chain {', '.join(names)}, {[box[tag] for tag in self.NUMBERS]} (xmin, ymin, xmax, ymax),"
        if x2 < x1 or y2 < y1:
            raise MarkupError(self.path, line, f"{where} has xmax < xmin or ymax < ymin.")
        over = BORDER_TOLERANCE_PX
        if x1 < -over or y1 < -over or x2 > found.width - 1 + over or y2 > found.height - 1 + over:
            raise MarkupError(self.path, line, f"{where} leaves the image of {found.width} x {found.height}.")
        inside = [max(x1, 0), max(y1, 0), min(x2, found.width - 1), min(y2, found.height - 1)]
        found.clipped += inside != [x1, y1, x2, y2]
        return inside
