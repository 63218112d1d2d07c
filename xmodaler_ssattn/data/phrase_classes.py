"""The fallback rule for the class of a phrase, without the official file; ``classes`` has the rule for one word."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from xmodaler_ssattn.classes import class_of_word

# Written into every file made with the fallback rule.
FALLBACK_RULE = (
    "not GVD-identical: made from Sentences/ and Annotations/; class = last word of the phrase that is a class, or "
    "whose lemma is one, box = union of the chain's boxes; scene, nobox and chain 0 are left out"
)


def class_of_phrase(
    tokens: Sequence[str], start: int, end: int, classes: Collection[str], lemma: Callable[[str], str]
) -> tuple[str, int] | tuple[None, None]:
    """Class and head word of ``tokens[start:end]``: the last token that names a class (``classes.class_of_word``).

    Returns:
        (class, position of the token), or (None, None) when no token names a class.
    """
    for position in range(end - 1, start - 1, -1):
        name = class_of_word(tokens[position], classes, lemma)
        if name is not None:
            return name, position
    return None, None
