"""The object classes, and the rule by which a word of a caption names a class.

The published grounding evaluator has its own rule for generated words (``evaluation.lemmas.class_of_lemma``), which is
different on purpose: of two names with the same lemma ("paper" and "papers") the later one gets all words.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_lines

RESOURCES = Path(__file__).parent / "data" / "resources"
# Nouns that a rule-based lemmatiser gets wrong, with the lemma of the class names: "graffitus" is CoreNLP's lemma;
# "pants" and "shorts" have no singular; "short" and "good" are not objects; "bi" is not a bus.
IRREGULAR = {
    "pants": "pants",
    "shorts": "shorts",
    "goods": "goods",
    "graffiti": "graffitus",
    "leaves": "leaf",
    "hoodies": "hoodie",
    "bi": "bi",
}


def read_names(path: str | os.PathLike, what: str) -> list[str]:
    """The names in a list, one per line; ``what`` is its role in the messages of ``files.read_text``."""
    return [line.strip() for line in read_lines(path, what) if line.strip()]


def read_classes(path: str | os.PathLike | None = None) -> list[str]:
    """Class names, one per line; without a path the 480 of Flickr30k Entities (data/resources/SOURCES.md).

    Raises:
        UserError: the file cannot be read, is empty, or has a duplicated name.
    """
    source = RESOURCES / "flickr30k_class_name.txt" if path is None else Path(path)
    names = read_names(source, "The list of classes")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"The list of classes {source}: these names are duplicated: {', '.join(repeated)}.")
    if not names:
        raise UserError(f"The list of classes {source}: it is empty.")
    return names


@functools.lru_cache(maxsize=1 << 16)
def bare_word(word: str) -> str:
    """The lower-cased word without a possessive ending and without punctuation around it.

    >>> bare_word("Man's"), bare_word("boys'"), bare_word("T-shirt."), bare_word("'s")
    ('man', 'boys', 't-shirt', 's')
    """
    word = word.lower()
    inside = [at for at, character in enumerate(word) if character.isalnum()]
    word = word[inside[0] : inside[-1] + 1] if inside else ""
    return word[:-2] if word.endswith(("'s", "’s")) and len(word) > 2 else word


def class_of_word(word: str, classes: Collection[str], lemma: Callable[[str], str]) -> str | None:
    """The class that a word names, else None: the word itself, its lemma, or the lemma of a listed exception.

    The word itself is tried first, because "papers" and "outfits" are classes whose lemmas are also classes. ``lemma``
    is called with ``bare_word(word)``.

    >>> classes = {"paper", "papers", "pants", "graffitus"}
    >>> [class_of_word(word, classes, lambda word: word.rstrip("s")) for word in ("Papers", "pants", "graffiti", "a")]
    ['papers', 'pants', 'graffitus', None]
    """
    word = bare_word(word)
    for name in (word, IRREGULAR.get(word), lemma(word) if word else None):
        if name in classes:
            return name
    return None


def class_of_phrase(
    tokens: Sequence[str], start: int, end: int, classes: Collection[str], lemma: Callable[[str], str]
) -> tuple[str, int] | tuple[None, None]:
    """The last word of ``tokens[start:end]`` that names a class: (class, position), or (None, None)."""
    for position in range(end - 1, start - 1, -1):
        name = class_of_word(tokens[position], classes, lemma)
        if name is not None:
            return name, position
    return None, None
