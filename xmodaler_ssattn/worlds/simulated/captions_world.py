"""The world of captions: the captions file, the content of an image's captions, and the places of its objects.

The content: objects with the words that describe them, and other words. There are no real boxes; the mentioned objects
are first, then unmentioned ones. All random numbers depend only on the seed and the image id.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.ids import plain_id
from xmodaler_ssattn.worlds.simulated.assumptions import CaptionsAssumptions, Settings
from xmodaler_ssattn.worlds.simulated.class_priors import PLACES, kin_of, prior_of
from xmodaler_ssattn.worlds.simulated.phrases import ObjectPhrase, object_phrases, other_words, split_words
from xmodaler_ssattn.worlds.simulated.world import (
    MIN_AREA,
    MIN_SIDE_PX,
    Layout,
    World,
    class_names,
    generator,
    make_world,
)

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


# --- places --------------------------------------------------------------------------------------------
SIZES = ((500, 375), (500, 333), (375, 500), (333, 500))  # width, height; the usual ones of Flickr30k
SIZE_CHANCES = (0.4, 0.35, 0.15, 0.1)
MAX_AREA = 0.9
# A class without a prior: median area, spread of log area, height of the centre and its spread, spread of log aspect.
_OTHER_AREA, _OTHER_AREA_SPREAD, _OTHER_HEIGHT, _OTHER_HEIGHT_SPREAD, _OTHER_ASPECT_SPREAD = 0.03, 0.7, 0.56, 0.12, 0.3


@dataclasses.dataclass(frozen=True)
class CaptionsWorld(World):
    """The world of captions, with the usual sizes and places of objects and the usual mentions."""

    log_area: np.ndarray  # this and the next two: (C,) float64, usual values of each class; entry 0 is not used
    height: np.ndarray
    aspect: np.ndarray
    unmentioned_chance: np.ndarray  # (C,) float64, sums to 1: classes of objects that no caption mentions
    habits: Habits


def make_captions_world(
    settings: Settings,
    assumptions: CaptionsAssumptions,
    classes: Sequence[str],
    images: Mapping[int, CaptionedImage],
    training: Sequence[int],
) -> CaptionsWorld:
    """Sample the world; ``images`` are all that it will have, habits are learnt from those of ``training``."""
    habits = learn_habits(images[image_id] for image_id in training)
    words = set().union(*(image.words for image in images.values()))
    usual = [(0.0, 0.0, 0.0), *(_usual(settings.seed, name) for name in class_names(classes, settings))]
    log_area, height, aspect = np.array(usual).T
    chance = _unmentioned_chance(assumptions, classes, habits, settings.num_classes)
    world = make_world(settings, assumptions, classes, words)
    return CaptionsWorld(*vars(world).values(), log_area, height, aspect, chance, habits)


def _usual(seed: int, name: str) -> tuple[float, float, float]:
    """Log area, height of the centre, aspect."""
    prior, rng = prior_of(name), generator(seed, "usual", name)
    if prior is not None:  # classes of one prior differ a little
        return np.log(prior.area) + 0.15 * rng.standard_normal(), prior.height, prior.aspect
    area, height, aspect = rng.standard_normal(3)
    return (
        np.log(_OTHER_AREA) + _OTHER_AREA_SPREAD * area,
        float(np.clip(_OTHER_HEIGHT + _OTHER_HEIGHT_SPREAD * height, 0.1, 0.9)),
        float(np.exp(_OTHER_ASPECT_SPREAD * aspect)),
    )


def _unmentioned_chance(a: CaptionsAssumptions, classes: Sequence[str], habits: Habits, num_classes: int) -> np.ndarray:
    chance, named = np.zeros(num_classes), 1 + len(classes)
    mentions = np.array([habits.mentions.get(name, 1) for name in classes], dtype=float)
    weight = mentions**-a.unmentioned_rarity
    unnamed = num_classes - named
    share = a.unmentioned_unnamed if unnamed else 0.0
    chance[1:named] = (1 - share) * weight / weight.sum()
    chance[named:] = share / max(unnamed, 1)
    return chance / chance.sum()


def invent_layout(world: CaptionsWorld, image_id: int, content: CaptionedImage) -> Layout:
    """Place the objects of an image."""
    a, rng = world.assumptions, world.random("scene", image_id)
    width, height = SIZES[rng.choice(len(SIZES), p=SIZE_CHANCES)]
    mentioned, others = len(content.objects), _unmentioned(world, content, rng)
    columns = np.array([*(world.columns[item.name] for item in content.objects), *others], dtype=np.int64)
    said = [a.mention_weight * item.often + (1 - a.mention_weight) * item.early for item in content.objects]
    salience = np.array([*said, *(0.0 for _ in others)])
    hidden = np.arange(len(columns)) >= mentioned
    boxed = tuple(item.name not in PLACES or bool(rng.random() < a.places_boxed) for item in content.objects)
    modifiers = tuple(item.modifiers for item in content.objects) + tuple(_modifiers(world, rng) for _ in others)
    boxes = _boxes(world, columns, salience, hidden, (width, height), rng)
    return Layout(width, height, boxes, columns, modifiers, boxed)


def _unmentioned(world: CaptionsWorld, content: CaptionedImage, rng: np.random.Generator) -> list[int]:
    """Columns of the unmentioned objects, whose classes are not mentioned either."""
    count = int(rng.poisson(world.assumptions.unmentioned_mean))
    taken = {world.columns[phrase.name] for phrases in content.phrases for phrase in phrases}
    # More are sampled than needed: those of a mentioned class are dropped.
    sampled = rng.choice(len(world.unmentioned_chance), size=2 * count + 8, p=world.unmentioned_chance).tolist()
    return [column for column in sampled if column not in taken][:count]


def _modifiers(world: CaptionsWorld, rng: np.random.Generator) -> tuple[str, ...]:
    """Describing words for an unmentioned object, with the numbers and frequencies of mentioned objects."""
    if not world.habits.modifiers:
        return ()
    return tuple(_sample(world.habits.modifiers, rng, _sample(world.habits.modifier_counts, rng, 1)[0]))


def _sample(counts: Mapping[Any, int], rng: np.random.Generator, size: int) -> list[Any]:
    """Sample `size` keys with probabilities proportional to their counts."""
    total = np.cumsum(np.fromiter(counts.values(), dtype=float))
    names = list(counts)
    return [names[place] for place in np.searchsorted(total, rng.random(size) * total[-1], side="right")]


def _boxes(
    world: CaptionsWorld, columns: np.ndarray, salience: np.ndarray, hidden: np.ndarray, size: tuple[int, int], rng: Any
) -> np.ndarray:
    """(O, 4) int64 boxes."""
    a, count, (width, height) = world.assumptions, len(columns), size
    noise = rng.standard_normal((3, count))
    log_area = world.log_area[columns] + a.size_gain * (salience - 0.5) + a.size_noise * noise[0]
    area = np.clip(np.exp(log_area - a.unmentioned_shrink * hidden), MIN_AREA, MAX_AREA) * width * height
    aspect = world.aspect[columns] * np.exp(a.aspect_noise * noise[1])
    wide = np.clip(np.sqrt(area * aspect), MIN_SIDE_PX, 0.98 * width)
    tall = np.clip(area / wide, MIN_SIDE_PX, 0.98 * height)
    # Across: anywhere; salient objects nearer to the middle, unmentioned ones nearer to the rim.
    pull = 1 - a.centring * salience
    side = np.where(rng.random(count) < 0.5, -0.5, 0.5)
    away = np.where(hidden, rng.random(count) ** (1 / a.rim), rng.random(count) * pull)
    x = (0.5 + side * away) * width
    # Down: where the class usually is, pulled to the middle and to the rim in the same way.
    usual = world.height[columns]
    y = usual + a.centring * salience * 0.5 * (0.5 - usual) + a.height_noise * noise[2]
    rim = 0.5 + np.where(rng.random(count) < 0.5, -0.5, 0.5) * rng.random(count) ** (1 / a.rim)
    y = np.where(hidden, 0.5 * (y + rim), y) * height
    left = np.maximum(np.clip(x - wide / 2, 0, width - 1 - wide), 0)
    top = np.maximum(np.clip(y - tall / 2, 0, height - 1 - tall), 0)
    right, bottom = np.minimum(left + wide, width - 1), np.minimum(top + tall, height - 1)
    return np.rint(np.stack([left, top, right, bottom], 1)).astype(np.int64)
