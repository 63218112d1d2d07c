"""The captions file, and the content of an image's captions: objects with the words that describe them, other words."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.ids import plain_id
from xmodaler_ssattn.worlds.simulated.class_priors import kin_of
from xmodaler_ssattn.worlds.simulated.phrases import ObjectPhrase, object_phrases, other_words, split_words

CAPTIONS = 5


@dataclasses.dataclass(frozen=True)
class CaptionedObject:
    """An object that captions mention."""

    name: str  # its class, the most frequent of the words used for it
    often: float  # share of the captions that mention it, above 0 to 1
    early: float  # mean over these captions of 1 / (1 + objects mentioned before it), above 0 to 1
    modifiers: tuple[str, ...]  # the words that describe it, one entry per use


@dataclasses.dataclass(frozen=True)
class CaptionedImage:
    """The content of the captions of one image."""

    tokens: tuple[tuple[str, ...], ...]  # the words of each caption, as written
    phrases: tuple[tuple[ObjectPhrase, ...], ...]  # of each caption, in order
    chains: tuple[tuple[int, ...], ...]  # of each caption, the number of each phrase's object: its index in `objects`
    objects: tuple[CaptionedObject, ...]  # the most often mentioned first
    others: Mapping[str, float]  # word that is part of no phrase -> share of the captions that have it

    @property
    def words(self) -> set[str]:
        """All words that need a vector."""
        return set(self.others).union(*(item.modifiers for item in self.objects))


def read_captions(path: str | os.PathLike) -> dict[int, dict]:
    """Read ``{"image id": {"split": ..., "captions": [five texts]}}``, JSON, plain or gzip.

    Raises:
        UserError: the file is missing or broken, or has bad entries (all listed at once).
    """
    content = read_json(path, "The captions file")
    if not isinstance(content, dict) or not content:
        raise UserError(f"The captions file {path}: expected a JSON object, image id -> split and captions.")
    problems: list[str] = []
    found: dict[int, dict] = {}
    for key, entry in content.items():
        if problem := _problem_of(key, entry):
            problems.append(problem)
        elif int(key) in found:
            problems.append(f"image {int(key)} is duplicated; its second key is {key!r}")
        else:
            found[int(key)] = entry
    raise_all(problems, f"The captions file {path} cannot be used")
    return found


def _problem_of(key: str, entry: object) -> str | None:
    if plain_id(key) is None:
        return f"the image id {key!r} is not a whole number"
    if not isinstance(entry, dict) or entry.get("split") not in SPLITS:
        return f"image {key} has no split among {', '.join(SPLITS)}"
    captions = entry.get("captions")
    if not isinstance(captions, list) or len(captions) != CAPTIONS or not all(isinstance(c, str) for c in captions):
        return f"image {key} does not have {CAPTIONS} captions"
    empty = [number for number, text in enumerate(captions, 1) if not any(map(str.isalnum, text))]
    return f"image {key}: caption {empty[0]} has no words" if empty else None


def understand_captions(
    captions: Iterable[str], classes: Collection[str], lemma: Callable[[str], str]
) -> CaptionedImage:
    """The content of an image's captions; arguments as for ``object_phrases``."""
    tokens = tuple(tuple(split_words(caption)) for caption in captions)
    phrases = tuple(tuple(object_phrases(each, classes, lemma)) for each in tokens)
    number_of = _objects_of([[phrase.name for phrase in each] for each in phrases])
    chains = tuple(tuple(number_of[phrase.name] for phrase in each) for each in phrases)
    places: dict[int, list[int]] = defaultdict(list)
    uses: dict[int, list[ObjectPhrase]] = defaultdict(list)
    for each, numbers in zip(phrases, chains):
        for place, number in enumerate(dict.fromkeys(numbers)):
            places[number].append(place)
        for phrase, number in zip(each, numbers):
            uses[number].append(phrase)
    objects = tuple(
        CaptionedObject(
            Counter(phrase.name for phrase in uses[number]).most_common(1)[0][0],
            len(places[number]) / len(tokens),
            sum(1 / (1 + place) for place in places[number]) / len(places[number]),
            tuple(word for phrase in uses[number] for word in phrase.modifiers),
        )
        for number in sorted(places)
    )
    others = Counter(word for each, said in zip(tokens, phrases) for word in set(other_words(each, said)))
    return CaptionedImage(
        tokens, phrases, chains, objects, {word: others[word] / len(tokens) for word in sorted(others)}
    )


def _objects_of(captions: Sequence[Sequence[str]]) -> dict[str, int]:
    """Class -> number of its object in this image: kin that never occur in one caption are one object."""
    holding: dict[str, set[int]] = defaultdict(set)
    for number, names in enumerate(captions):
        for name in names:
            holding[name].add(number)
    objects: list[tuple[set[str], set[int]]] = []
    for name in sorted(holding, key=lambda name: (-len(holding[name]), name)):
        groups = set(kin_of(name))
        for members, present in objects:
            if not present & holding[name] and all(groups & set(kin_of(other)) for other in members):
                members.add(name)
                present |= holding[name]
                break
        else:
            objects.append(({name}, set(holding[name])))
    return {name: number for number, (members, _) in enumerate(objects) for name in members}


@dataclasses.dataclass(frozen=True)
class Habits:
    """Frequencies in the training captions, from which unmentioned objects are sampled."""

    mentions: Mapping[str, int]  # class -> number of images that mention it
    modifiers: Mapping[str, int]  # describing word -> number of uses
    modifier_counts: Mapping[int, int]  # number of describing words of an object -> number of such objects


def learn_habits(images: Iterable[CaptionedImage]) -> Habits:
    images = list(images)
    described = [item.modifiers for image in images for item in image.objects]
    return Habits(
        _count(name for image in images for name in {item.name for item in image.objects}),
        _count(chain.from_iterable(described)),
        _count(map(len, described)),
    )


def _count(items: Iterable[Any]) -> dict[Any, int]:
    return dict(sorted(Counter(items).items()))
