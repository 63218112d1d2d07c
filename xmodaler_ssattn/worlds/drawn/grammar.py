"""The captions of a scene, from a small grammar.

A caption is about one or two objects, chosen by their salience: large and central objects and some kinds are preferred.
Spatial-Semantic Attention can learn this, as it depends only on p (size, place) and c (kind). A caption may name
colours and sizes, the pose, a relation that holds in the picture, and the place. An object has the same chain in all
sentences.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from xmodaler_ssattn.data.official_writer import marked
from xmodaler_ssattn.worlds.drawn.scenes import FIRST_IMAGE_ID, Scene, SceneObject

# Salience
SIZE_WEIGHT = 3.0  # on the logarithm of the box's share of the picture
CENTRE_WEIGHT = 9.0  # on the distance of the box's centre from the picture's, in picture diagonals
APPEAL_WEIGHT = 3.8  # on the kind's appeal
NEARNESS_WEIGHT = 5.0  # a second object is one near the first; distance in picture diagonals

CAPTIONS_PER_IMAGE = 5
NOT_VISUAL = 0  # the chain of phrases without an object
COLOUR_CHANCE = 0.8
SIZE_CHANCE = 0.35
TWO_OBJECTS_CHANCE = 0.6
PLACE_CHANCE = 0.5
PLURAL_CHANCE = 0.3  # the chance that a sentence about one of two equal objects is about both

LARGE_FROM, SMALL_TO = 1.1, 0.72  # scale against the usual height of the kind
CHAINS_PER_IMAGE = 100
_PAIR, _PLACE, _SKY, _WATER, _CLOTHES = 20, 40, 41, 42, 60  # where these chains start within an image's hundred


@dataclass(frozen=True)
class MarkedPhrase:
    """Words that name something, with its coreference chain and its entity type."""

    words: str
    chain: int
    entity_type: str


# A sentence: plain words and phrases in order, without the capital letter and the full stop.
Caption = tuple[str | MarkedPhrase, ...]


def markup(caption: Caption) -> str:
    """The sentence with marked phrases, as in Flickr30k Entities.

    >>> markup((MarkedPhrase("a ball", 7, "other"), "on", MarkedPhrase("the sand", 9, "scene")))
    '[/EN#7/other A ball] on [/EN#9/scene the sand] .'
    """
    written = []
    for number, part in enumerate(caption):
        words = part if isinstance(part, str) else part.words
        words = words if number else words[0].upper() + words[1:]
        written.append(words if isinstance(part, str) else marked(words, part.chain, part.entity_type))
    return " ".join([*written, "."])


@dataclass
class Description:
    """The captions of a scene and their objects."""

    captions: list[Caption]  # five sentences
    boxes: dict[int, tuple[int, ...]] = field(default_factory=dict)  # chain -> its objects' numbers in `scene.objects`
    without_box: list[int] = field(default_factory=list)  # chains of visible things without a box (clothes)
    scenes: list[int] = field(default_factory=list)  # chains of places


def describe(scene: Scene) -> Description:
    """Five captions of the scene; the same scene always has the same captions."""
    rng = random.Random(f"{scene.seed}/captions")
    writer = _Writer(scene, rng)
    captions = [writer.sentence() for _ in range(CAPTIONS_PER_IMAGE)]
    used = {part.chain for caption in captions for part in caption if isinstance(part, MarkedPhrase)}
    description = Description(captions)
    for chain in sorted(used - {NOT_VISUAL}):
        number = chain - writer.first_chain
        if number < _PAIR:
            description.boxes[chain] = (number,)
        elif number < _PLACE:
            description.boxes[chain] = writer.twins[number - _PAIR]
        elif number < _CLOTHES:
            description.scenes.append(chain)
        else:
            description.without_box.append(chain)
    return description


class _Writer:
    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self.scene, self.rng = scene, rng
        self.first_chain = (scene.image_id - FIRST_IMAGE_ID) * CHAINS_PER_IMAGE + 1
        self.twins: dict[int, tuple[int, ...]] = {}
        for number, item in enumerate(scene.objects):
            same = tuple(i for i, other in enumerate(scene.objects) if other.kind is item.kind)
            if len(same) == 2:
                self.twins[number] = same

    def sentence(self) -> Caption:
        rng = self.rng
        first = choose_first(self.scene, rng)
        if first in self.twins and rng.random() < PLURAL_CHANCE:
            return self._about_both(first)
        if rng.random() < TWO_OBJECTS_CHANCE:
            second = choose_second(self.scene, first, rng)
            if second is not None:
                return self._about_two(first, second)
        return self._about_one(first)

    # --- sentences ----------------------------------------------------------------------------------------
    def _about_one(self, number: int) -> Caption:
        item, rng = self.scene.objects[number], self.rng
        form = rng.random()
        if form < 0.15:
            there = MarkedPhrase("there", NOT_VISUAL, "notvisual")
            return (there, "is", *self._noun(number), *self._place(item))
        if form < 0.35:
            return (*self._noun(number), *self._place(item))
        verb = item.pose
        if form < 0.6:
            return (*self._noun(number), verb, *self._place(item))
        place = self._place(item) if rng.random() < PLACE_CHANCE else ()
        return (*self._noun(number), f"is {verb}", *place)

    def _about_both(self, number: int) -> Caption:
        twins = self.twins[number]
        items = [self.scene.objects[twin] for twin in twins]
        words = ["two"]
        if items[0].colour == items[1].colour and self.rng.random() < COLOUR_CHANCE:
            words.append(items[0].colour)
        words.append(items[0].kind.plural)
        noun = MarkedPhrase(" ".join(words), self.first_chain + _PAIR + twins[0], items[0].kind.entity_type)
        if items[0].pose == items[1].pose and self.rng.random() < 0.6:
            return (noun, f"are {items[0].pose}", *self._place(items[0]))
        return (noun, *self._place(items[0]))

    def _about_two(self, first: int, second: int) -> Caption:
        item, other, rng = self.scene.objects[first], self.scene.objects[second], self.rng
        form = rng.random()
        if form < 0.25:
            return (*self._noun(first), "and", *self._noun(second), *self._place(None))
        if form < 0.4 and item.kind.entity_type in ("people", "animals") and item.kind.zone == "ground":
            look = rng.choice(("looks at", "is looking at", "is watching"))
            return (*self._noun(first), look, *self._noun(second))
        ending = self._place(None) if rng.random() < 0.3 else ()
        verb = (f"is {item.pose}",) if form < 0.75 else ()
        return (*self._noun(first), *verb, self._relation(item, other), *self._noun(second), *ending)

    # --- their parts --------------------------------------------------------------------------------------
    def _noun(self, number: int) -> Caption:
        """'a small red ball', or for people 'a man' + 'in' + 'a red shirt', which is a phrase of its own."""
        item, rng = self.scene.objects[number], self.rng
        chain = self.first_chain + number
        coloured = rng.random() < COLOUR_CHANCE
        if item.kind.entity_type == "people":
            person = MarkedPhrase(f"a {item.kind.name}", chain, "people")
            if not coloured:
                return (person,)
            piece = "shirt" if item.kind.name == "man" else "dress"
            clothes = rng.choice((item.colour, f"a {item.colour} {piece}"))
            return person, "in", MarkedPhrase(clothes, self.first_chain + _CLOTHES + number, "clothing")
        words = [item.kind.name]
        if coloured:
            words.insert(0, item.colour)
        if rng.random() < SIZE_CHANCE:
            if item.scale >= LARGE_FROM:
                words.insert(0, rng.choice(("large", "big")))
            elif item.scale <= SMALL_TO:
                words.insert(0, "small")
        article = "an" if words[0][0] in "aeiou" else "a"
        return (MarkedPhrase(" ".join([article, *words]), chain, item.kind.entity_type),)

    def _place(self, item: SceneObject | None) -> Caption:
        """The place of the object, or with None, of the scene."""
        rng = self.rng
        if item is not None and item.kind.zone == "sky" and rng.random() < 0.6:
            return "in", MarkedPhrase("the sky", self.first_chain + _SKY, "scene")
        if item is not None and item.kind.zone == "water" and rng.random() < 0.6:
            return "on", MarkedPhrase("the water", self.first_chain + _WATER, "scene")
        before, words = rng.choice(self.scene.place.phrases)
        if item is not None and item.kind.zone == "sky":
            before = "above"
        return before, MarkedPhrase(words, self.first_chain + _PLACE, "scene")

    def _relation(self, item: SceneObject, other: SceneObject) -> str:
        """A relation that holds in the picture."""
        rng, width, height = self.rng, self.scene.width, self.scene.height
        if item.kind.zone == "sky" and other.kind.zone != "sky":
            return rng.choice(("above", "over"))
        if other.kind.zone == "sky" and item.kind.zone != "sky":
            return rng.choice(("below", "under"))
        a, b = item.box_px, other.box_px
        gap = max(a[0], b[0]) - min(a[2], b[2])  # negative when the two overlap from left to right
        depth = (a[3] - b[3]) / height
        if gap > 0.3 * width or (gap > 0 and rng.random() < 0.25):
            return "to the left of" if a[0] < b[0] else "to the right of"
        if gap < 0 and abs(depth) > 0.08:
            return "in front of" if depth > 0 else "behind"
        return rng.choice(("next to", "near", "beside"))


# --- salience ------------------------------------------------------------------------------------------
def salience(scene: Scene) -> list[float]:
    """One number for each object; mention chances are proportional to its exponential."""
    values = []
    for item in scene.objects:
        x1, y1, x2, y2 = item.box_px
        share = (x2 - x1) * (y2 - y1) / (scene.width * scene.height)
        away = math.dist(_centre(item), (scene.width / 2, scene.height / 2)) / _diagonal(scene)
        values.append(SIZE_WEIGHT * math.log(share) - CENTRE_WEIGHT * away + APPEAL_WEIGHT * item.kind.appeal)
    return values


def choose_first(scene: Scene, rng: random.Random) -> int:
    """The object that a caption is about."""
    return _sample(salience(scene), rng)


def choose_second(scene: Scene, first: int, rng: random.Random) -> int | None:
    """Another object, salient or near the first, of another kind; None when there is none."""
    values = salience(scene)
    here = scene.objects[first]
    for index, item in enumerate(scene.objects):
        if item.kind is here.kind:
            values[index] = -math.inf
        else:
            values[index] -= NEARNESS_WEIGHT * math.dist(_centre(item), _centre(here)) / _diagonal(scene)
    return _sample(values, rng) if max(values) > -math.inf else None


def _sample(values: Sequence[float], rng: random.Random) -> int:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return rng.choices(range(len(values)), weights)[0]


def _centre(item: SceneObject) -> tuple[float, float]:
    x1, y1, x2, y2 = item.box_px
    return (x1 + x2) / 2, (y1 + y2) / 2


def _diagonal(scene: Scene) -> float:
    return math.hypot(scene.width, scene.height)
