"""Word -> lemma -> object class, without a server.

GVD's evaluator asks a CoreNLP server for the lemma of each word out of context, whatever its part of speech, and a word
names the class that has its lemma. Its dictionary file (``dic_flickr30k.json``) has the answers of that server for
every vocabulary word (``wtol``). Such a table is tried first; with it, a verb whose lemma is a class is an object word,
as in GVD ("parked" -> "park").

For a word that the table lacks, lemminflect's noun rules are used: it is small, needs only numpy, includes its tables,
and merges only two pairs of the 480 class names (paper / papers, outfit / outfits), as CoreNLP very probably does.
Without a table object words are nouns: "parked", "standing" and "swinging" are not changed and name no class, although
CoreNLP gives "park", "stand" and "swing". The share of words for which the fallback was used is counted and reported
with the score.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from xmodaler_ssattn.classes import IRREGULAR
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json


def noun_lemma(word: str) -> str:
    """The singular of a noun by lemminflect, in lower case and without a possessive ending; other words unchanged.

    Only the first candidate is used ("glasses" -> "glass", as in CoreNLP). ``classes.IRREGULAR`` is used first, for
    words where lemminflect is known to be wrong: it changes "pants" to "pant" and "shorts" to "short". For nouns that
    it does not know, its guesses of plurals are good ("tattoos", "t-shirts"); other forms are verbs ("parked", "a
    uniformed man") and are not changed.
    """
    from lemminflect import getLemma

    word = word.lower()
    if not word[:1].isalnum():
        return word  # a lone "'s", punctuation
    for ending in ("'s", "’s", "'", "’"):
        if len(word) > len(ending) and word.endswith(ending):
            word = word[: -len(ending)]
            break
    if word in IRREGULAR:
        return IRREGULAR[word]
    candidates = getLemma(word, upos="NOUN", lemmatize_oov=word.endswith("s"))
    return candidates[0] if candidates and candidates[0] else word


def own_lemma(word: str) -> str:
    """Every word is its own lemma: the fallback of ``xmodaler score grounding --lemmas``."""
    return word


class Lemmas:
    """word -> lemma: a table first, then a fallback; counts the uses of the fallback.

    Args:
        table: word -> lemma, e.g. the official ``wtol``; empty when there is none.
        fallback: word -> lemma, for words that the table lacks.
    """

    def __init__(self, table: Mapping[str, str] | None = None, fallback: Callable[[str], str] = noun_lemma) -> None:
        self.table = dict(table or {})
        self.fallback = fallback
        self.asked = 0
        self.fell_back = 0
        self._known: dict[str, str] = {}

    def __call__(self, word: str) -> str:
        self.asked += 1
        if (lemma := self.table.get(word)) is not None:
            return lemma
        self.fell_back += 1
        if word not in self._known:
            self._known[word] = self.fallback(word)
        return self._known[word]

    @classmethod
    def of_folder(cls, folder: str | os.PathLike) -> Lemmas:
        """With the table of a folder of annotations (``lemmas.json``), if there is one. Raises UserError."""
        path = Path(folder) / "lemmas.json"
        return cls(read_lemma_table(path) if path.is_file() else None)

    @property
    def fallback_share(self) -> float:
        """The share of the words looked up that the table lacks (0 when none was looked up)."""
        return self.fell_back / self.asked if self.asked else 0.0

    def reset_counts(self) -> None:
        """Set the counts to 0, e.g. before the next evaluation."""
        self.asked = self.fell_back = 0


def read_lemma_table(path: str | os.PathLike) -> dict[str, str]:
    """Read a JSON object word -> lemma, or the ``wtol`` of GVD's ``dic_flickr30k.json``. Raises UserError."""
    table = read_json(path, "Lemma table")
    if isinstance(table, dict) and isinstance(table.get("wtol"), dict):
        table = table["wtol"]
    if not isinstance(table, dict):
        raise UserError(f"Lemma table {path}: expected a JSON object word -> lemma, got {type(table).__name__}.")
    for word, lemma in table.items():
        if not isinstance(lemma, str):
            raise UserError(f"Lemma table {path}: the lemma of {word!r} must be a string, got {lemma!r}.")
    return table


def class_of_lemma(
    classes: Sequence[str], lemma: Callable[[str], str], vocabulary: Iterable[str] | None = None
) -> dict[str, str]:
    """lemma -> class name, as GVD builds ``lemma_det`` (main.py of its Flickr30k branch).

    Two quirks are kept because the published numbers have them: classes are added in the given (file) order, and a
    later one replaces one with the same lemma ("paper" / "papers"), and a class that is not itself a vocabulary word
    is unreachable ("sunglass", "graffitus"), while it still counts in the metric's divisor.

    Args:
        classes: names in the order of the official file.
        lemma: word -> lemma.
        vocabulary: the words that the model can produce; None: all words.
    """
    words = None if vocabulary is None else set(vocabulary)
    return {lemma(name): name for name in classes if words is None or name in words}
