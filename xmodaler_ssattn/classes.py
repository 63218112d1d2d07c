"""The object classes, and the rule by which a word of a caption names a class.

Annotations, drawn scenes and simulated captions use this rule. The published grounding evaluator has its own rule for
generated words (``evaluation.lemmas.class_of_lemma``), which is different on purpose: it compares only lemmas, so that
of two names with the same lemma ("paper" and "papers", "outfit" and "outfits") the later one gets all words.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection
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
_POSSESSIVE = ("'s", "’s")


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
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not names or repeated:
        raise UserError(
            f"The list of classes {source}: "
            + (f"these names are duplicated: {', '.join(repeated)}." if repeated else "it is empty.")
        )
    return names


@functools.lru_cache(maxsize=1 << 16)
def bare_word(word: str) -> str:
    """The lower-cased word without a possessive ending and without punctuation around it.

    >>> bare_word("Man's"), bare_word("boys'"), bare_word("T-shirt."), bare_word("'s")
    ('man', 'boys', 't-shirt', 's')
    """
    word = word.lower()
    first = next((at for at, character in enumerate(word) if character.isalnum()), len(word))
    last = next((at for at in range(len(word), 0, -1) if word[at - 1].isalnum()), 0)
    word = word[first:last]
    ending = word[-2:]
    return word[:-2] if ending in _POSSESSIVE and len(word) > 2 else word


def class_of_word(word: str, classes: Collection[str], lemma: Callable[[str], str]) -> str | None:
    """The class that a word names, else None: the word itself, its lemma, or the lemma of a listed exception.

    The word itself is tried first, because "papers" and "outfits" are classes whose lemmas are also classes.

    Args:
        classes: the class names.
        lemma: word -> lemma; called with ``bare_word(word)``.

    >>> classes = {"paper", "papers", "pants", "graffitus"}
    >>> [class_of_word(word, classes, lambda word: word.rstrip("s")) for word in ("Papers", "pants", "graffiti", "a")]
    ['papers', 'pants', 'graffitus', None]
    """
    word = bare_word(word)
    for name in (word, IRREGULAR.get(word), lemma(word) if word else None):
        if name in classes:
            return name
    return None
