"""The vocabulary by the rule of Grounded Video Description (prepro/prepro_dic_flickr.py).

Lower-cased tokens are counted over all annotated images, not only the training images; words seen more than three times
are kept in the order of their first occurrence; ``UNK`` is last. Indices start at 1; 0 is begin, end and padding.
Unlike in GVD, removed punctuation does not become UNK.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_lines, write_text

UNK = "UNK"
END = 0
MIN_COUNT = 4


class Vocabulary:
    """Words with their indices 1 .. n; the last one is UNK.

    Raises:
        UserError: a word is duplicated, is empty or contains a blank, or the last one is not UNK.
    """

    def __init__(self, words: Sequence[str], where: str | os.PathLike = "vocabulary") -> None:
        self.words = list(words)
        if self.words[-1:] != [UNK]:
            last = repr(self.words[-1]) if self.words else "nothing at all"
            raise UserError(f"{where}: the last word must be {UNK}, found {last}.")
        self._index: dict[str, int] = {}
        for number, word in enumerate(self.words, 1):
            if not isinstance(word, str) or word.split() != [word]:
                raise UserError(f"{where}, line {number}: {word!r} is not one word.")
            if word in self._index:
                raise UserError(f"{where}, line {number}: {word!r} is duplicated; see line {self._index[word]}.")
            self._index[word] = number
        self.unk = len(self.words)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._index

    @property
    def model_size(self) -> int:
        """The value for MODEL.VOCAB_SIZE: the number of words + 1 for index 0."""
        return len(self.words) + 1

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Indices of the tokens; UNK's for a token that is not in the vocabulary."""
        return [self._index.get(token, self.unk) for token in tokens]


def build_vocabulary(counts: Counter[str]) -> Vocabulary:
    """Keep the words counted at least ``MIN_COUNT`` times, in the counter's order (first occurrence)."""
    return Vocabulary([word for word, count in counts.items() if count >= MIN_COUNT and word != UNK] + [UNK])


def write_vocabulary(path: str | os.PathLike, vocabulary: Vocabulary) -> None:
    """One word per line; the line number is the index. X-modaler reads the same file as INFERENCE.VOCAB."""
    write_text(path, "".join(f"{word}\n" for word in vocabulary.words))


def read_vocabulary(path: str | os.PathLike) -> Vocabulary:
    """Read ``vocabulary.txt``; a ``UserError`` names file and line."""
    if not Path(path).exists():
        raise UserError(f"The vocabulary {path} does not exist; `xmodaler prepare annotations` writes it.")
    return Vocabulary([line.strip() for line in read_lines(path, "The vocabulary")], path)
