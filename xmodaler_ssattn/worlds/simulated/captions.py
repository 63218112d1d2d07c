"""The captions file, and what its captions say: objects with the words that describe them, and the other words."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.data.splits import image_rank
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.ids import plain_id
from xmodaler_ssattn.worlds.simulated.kinds import kin_of
from xmodaler_ssattn.worlds.simulated.phrases import ObjectPhrase, object_phrases, other_words, split_words

CAPTIONS = 5


@dataclasses.dataclass(frozen=True)
class Talk:
    """What the captions of one image say.

    Attributes:
        words: of each caption, as written.
        phrases: of each caption, in order.
        chains: of each caption, the number of each phrase's object (the place in `objects`).
        objects: what is talked about; the most often mentioned first.
        others: other word -> share of the captions that have it.
    """

    words: tuple[tuple[str, ...], ...]
    phrases: tuple[tuple[ObjectPhrase, ...], ...]
    chains: tuple[tuple[int, ...], ...]
    objects: tuple[TalkedOf, ...]
    others: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class TalkedOf:
    """An object that captions mention.

    Attributes:
        name: its class: of the words that it goes by, the most frequent one.
        often: share of the captions that mention it, above 0 to 1.
        early: mean over these captions of 1 / (1 + objects mentioned before it), above 0 to 1.
        modifiers: the words that describe it, one entry for each use.
    """

    name: str
    often: float
    early: float
    modifiers: tuple[str, ...]


def read_captions(path: str | os.PathLike) -> dict[int, dict]:
    """Read ``{"image id": {"split": ..., "captions": [five texts]}}``, JSON, plain or gzip.

    Raises:
        UserError: the file is missing or broken, or entries are not as said, all of them at once.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The captions file {path} does not exist.")
    try:
        content = read_json(path, "it")
    except UserError as error:
        raise UserError(f"The captions file {path} is no complete JSON, plain or gzip ({error}).") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"The captions file {path} must be an object: image id -> split and captions.")
    problems, found = [], {}
    for key, entry in content.items():
        problem = _problem_of(key, entry)
        if problem:
            problems.append(problem)
        elif plain_id(key) in found:
            problems.append(f"image {plain_id(key)} stands twice, the second time as {key!r}")
        else:
            found[plain_id(key)] = entry
    raise_all(problems, f"The captions file {path} cannot be used")
    return found


def _problem_of(key: str, entry: object) -> str | None:
    if plain_id(key) is None:
        return f"the image id {key!r} is no whole number"
    if not isinstance(entry, dict) or entry.get("split") not in SPLITS:
        return f"image {key} has no split among {', '.join(SPLITS)}"
    captions = entry.get("captions")
    if not isinstance(captions, list) or len(captions) != CAPTIONS or not all(isinstance(c, str) for c in captions):
        return f"image {key} does not have {CAPTIONS} captions"
    empty = [number for number, text in enumerate(captions, 1) if not any(map(str.isalnum, text))]
    return f"image {key}: caption {empty[0]} has no words" if empty else None


def choose_images(
    captions: Mapping[int, Mapping], splits: Mapping[str, Sequence[int]] | None, counts: Sequence[int] | None, seed: int
) -> dict[str, list[int]]:
    """Which images are taken of each split.

    Args:
        captions: of ``read_captions``.
        splits: split -> ids to use instead of the captions file's own.
        counts: images of train, val, test; None takes all.
        seed: a split's images have a fixed random order, of which the first are taken: fewer are a part of more.

    Returns:
        split -> ids, ascending.

    Raises:
        UserError: a split lacks images, or names images without captions.
    """
    if splits is None:
        splits = {
            split: [image_id for image_id, entry in captions.items() if entry["split"] == split] for split in SPLITS
        }
    chosen, problems = {}, []
    for split, count in zip(SPLITS, counts or (None,) * len(SPLITS)):
        ids = splits[split]
        absent = [image_id for image_id in ids if image_id not in captions]
        if absent:
            problems.append(f"{len(absent)} images of the split {split} have no captions, e.g. {absent[:5]}")
        wanted = len(ids) if count is None else count
        if not 1 <= wanted <= len(ids):
            problems.append(f"{wanted} images of the split {split} are wanted, it has {len(ids)}; at least 1 is needed")
        chosen[split] = sorted(sorted(ids, key=lambda image_id: image_rank(seed, image_id))[:wanted])
    raise_all(problems, "The images cannot be chosen")
    return chosen


def listen(captions: Iterable[str], classes: Collection[str], lemma: Callable[[str], str]) -> Talk:
    """What five captions say; arguments as of ``object_phrases``."""
    words = tuple(tuple(split_words(caption)) for caption in captions)
    phrases = tuple(tuple(object_phrases(each, classes, lemma)) for each in words)
    number_of = _objects_of([[phrase.name for phrase in each] for each in phrases])
    chains = tuple(tuple(number_of[phrase.name] for phrase in each) for each in phrases)
    places: dict[int, list[int]] = {}
    uses: dict[int, Counter[str]] = {}
    modifiers: dict[int, list[str]] = {}
    for names, numbers in zip(phrases, chains):
        order = list(dict.fromkeys(numbers))
        for place, number in enumerate(order):
            places.setdefault(number, []).append(place)
        for phrase, number in zip(names, numbers):
            uses.setdefault(number, Counter())[phrase.name] += 1
            modifiers.setdefault(number, []).extend(phrase.modifiers)
    objects = tuple(
        TalkedOf(
            uses[number].most_common(1)[0][0],
            len(places[number]) / len(words),
            sum(1 / (1 + place) for place in places[number]) / len(places[number]),
            tuple(modifiers[number]),
        )
        for number in sorted(places)
    )
    others = Counter(word for each, marked in zip(words, phrases) for word in set(other_words(each, marked)))
    return Talk(words, phrases, chains, objects, {word: others[word] / len(words) for word in sorted(others)})


def _objects_of(captions: Sequence[Sequence[str]]) -> dict[str, int]:
    """Class -> number of its object in this image: kin that never stand in one caption are one object."""
    holding: dict[str, set[int]] = {}
    for number, names in enumerate(captions):
        for name in names:
            holding.setdefault(name, set()).add(number)
    objects: list[tuple[set[str], set[int]]] = []
    for name in sorted(holding, key=lambda name: (-len(holding[name]), name)):
        groups = set(kin_of(name))
        for names, present in objects:
            if not present & holding[name] and all(groups & set(kin_of(other)) for other in names):
                names.add(name)
                present |= holding[name]
                break
        else:
            objects.append(({name}, set(holding[name])))
    return {name: number for number, (names, _) in enumerate(objects) for name in names}


@dataclasses.dataclass(frozen=True)
class Habits:
    """How the training captions talk: what simulated objects that nobody mentions are drawn from.

    Attributes:
        mentions: class -> how many images mention it.
        modifiers: describing word -> how often it is used.
        modifier_counts: how many describing words an object has -> how often that is so.
    """

    mentions: Mapping[str, int]
    modifiers: Mapping[str, int]
    modifier_counts: Mapping[int, int]


def learn_habits(talks: Iterable[Talk]) -> Habits:
    mentions: Counter[str] = Counter()
    modifiers: Counter[str] = Counter()
    counts: Counter[int] = Counter()
    for talk in talks:
        mentions.update({item.name for item in talk.objects})
        for item in talk.objects:
            modifiers.update(item.modifiers)
            counts[len(item.modifiers)] += 1
    return Habits(dict(sorted(mentions.items())), dict(sorted(modifiers.items())), dict(sorted(counts.items())))
