"""Find the words of a caption that name an object, and the words before them that describe it.

A caption's words are those of the official sentences: split at blanks, with separate punctuation. It uses a few rules
instead of a parser; they need no data, and their errors are the same for every system.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Sequence

from xmodaler_ssattn.classes import class_of_word


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORD = re.compile(r"'s\b|\w+(?:[-'&.]\w+)*(?<!'s)|\w+|[^\w\s]")
_DETERMINERS = _words(
    "a an the this that these those his her its their my your our some several many few both each every another other "
    "no any all two three four five six seven eight nine ten 2 3 4 5 6 7 8 9 10 one multiple various 's"
)
_PREPOSITIONS = _words(
    "in on at of with by near from into onto over under through along across beside behind between among around "
    "against off during for inside outside towards toward without atop down up past next front while as"
)
# The finite verbs in it end a phrase; as actions they count in their far more frequent form with -ing.
_STOPS = _PREPOSITIONS | _words(
    "and or but to is are was were be been being has have had do does did not he she it they who which what where when "
    "there here him them himself herself themselves i we you very just also out away together so than then if can "
    "looks look stands sits walks runs plays holds wears rides watch watches play hold wear walk run sit"
)
# Nouns of the class list that captions also use as verbs: they are nouns only after a determiner or a preposition.
_ALSO_VERBS = _words(
    "stand ride slide swing rock dress face work step wave drink hand head back park mask drum line log set smile "
    "display guard snack surface train bat fan post race hose lap seat shop market harness plant fire hole phone "
    "play cook ski board surf paint tie ring lot top log duck fish snowboard skateboard snow light show tube meat tag "
    "class group crew base beam fence kayak canoe cross net pose run tattoo track trail bar bridge ramp number "
    "map hose stick shovel hammer camp parade picture color board uniform costume"
)
_COLLECTIVES = _words(
    "group groups crowd bunch couple pair team set line row class band crew lot lots number pile stack piece pieces "
    "slice cup glass bottle bowl plate bag basket bucket loaf family flock herd pack"
)
_NUMBERS = _words("two three four five six seven eight nine ten 2 3 4 5 6 7 8 9 10")
MOST_MODIFIERS = 4
MANY = "(many)"  # one of the modifiers of a noun in the plural


@dataclasses.dataclass(frozen=True)
class ObjectPhrase:
    """words[start:end] of a caption name an object: of class `name`, at words[end - 1]; `modifiers` describe it."""

    start: int
    end: int
    name: str
    modifiers: tuple[str, ...]


def split_words(caption: str) -> list[str]:
    """The caption's words and punctuation. Square brackets, which the markup needs, become round ones."""
    return WORD.findall(caption.replace("[", "(").replace("]", ")"))


def object_phrases(words: Sequence[str], classes: Collection[str], lemma: Callable[[str], str]) -> list[ObjectPhrase]:
    """The phrases of a caption (its ``split_words``) that name objects, in order, not overlapping.

    ``lemma``: word -> lemma, for the rule by which a word names a class (``classes.class_of_word``).
    """
    lowered = [word.lower() for word in words]
    names: list[str | None] = []
    for position, word in enumerate(lowered):
        name = class_of_word(word, classes, lemma) if word[:1].isalnum() else None
        names.append(name if name is not None and _is_noun(lowered, names, position, name) else None)
    found: list[ObjectPhrase] = []
    free = 0  # the first word that no phrase has taken
    for position, name in enumerate(names):
        if name is None or _describes_the_next(lowered, names, position):
            continue
        start, modifiers = _reach_back(lowered, position, free)
        if lowered[position] != name:
            modifiers += (MANY,)
        found.append(ObjectPhrase(start, position + 1, name, modifiers))
        free = position + 1
    return found


def other_words(words: Sequence[str], phrases: Sequence[ObjectPhrase]) -> list[str]:
    """The words, lower-cased, that are neither part of an object's phrase nor function words."""
    taken = {position for phrase in phrases for position in range(phrase.start, phrase.end)}
    return [
        word.lower()
        for position, word in enumerate(words)
        if position not in taken and word[:1].isalnum() and not is_grammar(word.lower())
    ]


def is_grammar(word: str) -> bool:
    return word in _STOPS or word in _DETERMINERS


def _is_noun(words: Sequence[str], names: Sequence[str | None], position: int, name: str) -> bool:
    if position == 0 or (name not in _ALSO_VERBS and words[position] not in _ALSO_VERBS):
        return True
    before = words[position - 1]
    if before in _DETERMINERS or before in _PREPOSITIONS:
        return True
    # "a wooden stand", but neither "a man stands" nor "they stand"
    return (
        names[position - 1] is None
        and before not in _STOPS
        and before[:1].isalnum()
        and position > 1
        and (words[position - 2] in _DETERMINERS or words[position - 2] in _PREPOSITIONS)
    )


def _describes_the_next(words: Sequence[str], names: Sequence[str | None], position: int) -> bool:
    """ "city" in "city street", "group" in "a group of young people"."""
    if position + 1 < len(names) and names[position + 1] is not None:
        return True
    if words[position] not in _COLLECTIVES or position + 2 >= len(words) or words[position + 1] != "of":
        return False
    for later in range(position + 2, min(position + 2 + MOST_MODIFIERS, len(words))):
        if names[later] is not None:
            return True
        if words[later] in _STOPS or not words[later][:1].isalnum():
            return False
    return False


def _reach_back(words: Sequence[str], head: int, free: int) -> tuple[int, tuple[str, ...]]:
    """The start of the phrase of the noun at `head`, and the words in it that describe the object."""
    start = head
    while start > free and head - start < MOST_MODIFIERS:
        word = words[start - 1]
        if word == "of" and start - 2 >= free and words[start - 2] in _COLLECTIVES:
            start -= 2
            continue
        if word in _STOPS or not (word[:1].isalnum() or word == "'s"):
            break
        start -= 1
        if word in _DETERMINERS and word != "'s":
            break
    if start > free and words[start] not in _DETERMINERS and words[start - 1] in _DETERMINERS:
        start -= 1
    if words[start] not in _DETERMINERS:  # no article: "wearing blue jeans" begins after its verb
        for position in range(head - 1, start - 1, -1):
            if words[position].endswith("ing") or (words[position].endswith("s") and words[position] != "'s"):
                start = position + 1
                break
    if words[start] == "'s":
        start += 1
    return start, describing_words(words[start:head])


def describing_words(words: Sequence[str]) -> tuple[str, ...]:
    """The words that describe the object, of the lower-cased words before its noun."""
    return tuple(
        word
        for word in words
        if word[:1].isalnum() and (word in _NUMBERS or (not is_grammar(word) and word not in _COLLECTIVES))
    )
