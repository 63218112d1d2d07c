"""The words of a caption that name an object: one rule for the scores and for the display of captions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.evaluation.gvd_format import read_classes_of
from xmodaler_ssattn.evaluation.lemmas import Lemmas, class_of_lemma
from xmodaler_ssattn.files import read_lines


class ObjectWords:
    """word -> the object class that it names, or None; the rule of Grounded Video Description, see ``lemmas``.

    Args:
        classes: names in the order of the official file, kept as ``classes``.
        lemmas: word -> lemma.
        vocabulary: the words that the model can produce; None: all words.
    """

    def __init__(self, classes: Sequence[str], lemmas: Lemmas, vocabulary: Iterable[str] | None = None) -> None:
        self.classes, self.lemmas = list(classes), lemmas
        self._class_of_lemma = class_of_lemma(classes, lemmas, vocabulary)

    @classmethod
    def of_model(cls, vocabulary_file: str | os.PathLike) -> ObjectWords:
        """The rule by which the captions of a model are scored: with the classes and lemma table beside its vocabulary.

        Without a ``grounding_{split}.json`` in that folder, the classes are the 480 of Flickr30k Entities.

        Raises UserError: a file cannot be read.
        """
        folder = Path(vocabulary_file).parent
        references = sorted(folder.glob("grounding_*.json"))
        classes = read_classes_of(references[0]) if references else read_classes()
        return cls(classes, Lemmas.of_folder(folder), read_lines(vocabulary_file, "Vocabulary"))

    def __call__(self, word: str) -> str | None:
        return self._class_of_lemma.get(self.lemmas(word))

    def among(self, words: Iterable[str]) -> dict[str, str]:
        """word -> class for those of ``words`` that name an object."""
        classes = {word: self(word) for word in dict.fromkeys(words)}
        return {word: name for word, name in classes.items() if name is not None}
