"""What real annotations say of an image: objects at their real places with the words that describe them, other words.

A box that is drawn for several chains is one object, of the most specific of them: the chain with the fewest boxes
("a boy" before "three children"), then the one with the most phrases. A chain drawn with several boxes is a group.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xmodaler_ssattn.data.classes import union_box
from xmodaler_ssattn.worlds.simulated.kinds import GROUPS
from xmodaler_ssattn.worlds.simulated.parameters import RealBoxes
from xmodaler_ssattn.worlds.simulated.phrases import MANY, ObjectPhrase, describing_words, other_words
from xmodaler_ssattn.worlds.simulated.scene import Scene
from xmodaler_ssattn.worlds.simulated.world import World, generator

_GROUPS = frozenset(GROUPS.split())
MEMBER = "person"  # what one box of a crowd holds


@dataclasses.dataclass(frozen=True)
class Boxed:
    """An object with a real box.

    Attributes:
        box_px: xyxy, pixels.
        name: its class, None when no phrase of its chain names one.
        head: the word that its phrases end with most often, as a lemma; the unnamed class goes by it.
        modifiers: the words that describe it, one entry for each use.
        times: how many captions mention its chain.
    """

    box_px: tuple[int, int, int, int]
    name: str | None
    head: str
    modifiers: tuple[str, ...]
    times: int


@dataclasses.dataclass(frozen=True)
class Told:
    """What the captions and boxes of one image say.

    Attributes:
        image_id, width, height: the image, pixels.
        objects: one for each distinct box, in the order of mention.
        groups: a group's enclosing box, where that is none of `objects`' boxes.
        others: word outside the phrases that have a box -> share of the captions that have it.
        chains, chains_without_box: how many chains the captions mention.
    """

    image_id: int
    width: int
    height: int
    objects: tuple[Boxed, ...]
    groups: tuple[Boxed, ...]
    others: Mapping[str, float]
    chains: int
    chains_without_box: int

    @property
    def words(self) -> set[str]:
        """All words that need a vector."""
        return set(self.others).union(*(item.modifiers for item in (*self.objects, *self.groups)))


def listen(image: Mapping[str, Any], lemma: Callable[[str], str]) -> Told:
    """Read one record of an annotation file (``data.annotations``).

    Args:
        lemma: word -> lemma.
    """
    captions = image["captions"]
    chains: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    others: Counter[str] = Counter()
    for number, caption in enumerate(captions):
        tokens, boxed = caption["tokens"], []
        for place, phrase in enumerate(caption["phrases"]):
            # A phrase that has a box and no chain is an object of its own; without both it is nothing to see.
            name = phrase["chain"] if phrase["chain"] is not None else f"caption {number}, phrase {place}"
            if phrase["chain"] is not None or phrase["boxes"]:
                chains.setdefault(name, []).append((number, phrase))
            if phrase["boxes"]:
                boxed.append(ObjectPhrase(phrase["start"], phrase["end"], "", ()))
        others.update(set(other_words(tokens, boxed)))
    drawn = {name: uses for name, uses in chains.items() if any(phrase["boxes"] for _, phrase in uses)}
    described = {name: _describe(captions, uses, lemma) for name, uses in drawn.items()}
    boxes = {
        name: list(dict.fromkeys(tuple(box) for _, phrase in uses for box in phrase["boxes"]))
        for name, uses in drawn.items()
    }
    owner: dict[tuple[int, ...], str] = {}
    for name in sorted(drawn, key=lambda name: (len(boxes[name]), -len(drawn[name]))):  # stable: then by mention
        for box in boxes[name]:
            owner.setdefault(box, name)
    objects = []
    for box in dict.fromkeys(box for each in boxes.values() for box in each):
        item = described[owner[box]]
        member = len(boxes[owner[box]]) > 1 and item.name in _GROUPS
        objects.append(dataclasses.replace(item, box_px=box, name=MEMBER if member else item.name))
    unions = {name: tuple(union_box(each)) for name, each in boxes.items() if len(each) > 1}
    groups = {box: dataclasses.replace(described[name], box_px=box) for name, box in unions.items() if box not in owner}
    return Told(
        image["image_id"],
        image["width"],
        image["height"],
        tuple(objects),
        tuple(groups.values()),
        {word: others[word] / len(captions) for word in sorted(others)},
        len(chains),
        len(chains) - len(drawn),
    )


def _describe(
    captions: Sequence[Mapping[str, Any]], uses: Sequence[tuple[int, Mapping[str, Any]]], lemma: Callable[[str], str]
) -> Boxed:
    """Class, head and words of a chain; its box is still to come. Of equally frequent ones the first said counts."""
    names: Counter[str] = Counter()
    heads: Counter[str] = Counter()
    modifiers: list[str] = []
    for number, phrase in uses:
        tokens = captions[number]["tokens"]
        head = phrase["end"] - 1 if phrase["head"] is None else phrase["head"]
        heads[lemma(tokens[head])] += 1
        modifiers += describing_words(tokens[phrase["start"] : head])
        if phrase["class"] is not None:
            names[phrase["class"]] += 1
            modifiers += [MANY] * (tokens[head] != phrase["class"])
    name = names.most_common(1)[0][0] if names else None
    times = len({number for number, _ in uses})
    return Boxed((0, 0, 0, 0), name, heads.most_common(1)[0][0], tuple(modifiers), times)


def problems_of(told: Told, classes: Collection[str], unnamed: int) -> list[str]:
    """Why an image cannot be simulated.

    Args:
        classes: those that have a vector.
        unnamed: how many classes without a name have one.
    """
    items = (*told.objects, *told.groups)
    problems = []
    strange = sorted({item.name for item in items if item.name is not None and item.name not in classes})
    if strange:
        problems.append(f"image {told.image_id} has boxes of classes without a vector: {', '.join(strange)}")
    heads = sorted({item.head for item in items if item.name is None})
    if heads and not unnamed:
        problems.append(
            f"image {told.image_id} has boxes of no class ({', '.join(heads)}), and no unnamed class is left"
        )
    x, y = told.width, told.height
    outside = [item.box_px for item in told.objects if not _lies_inside(item.box_px, x, y)]
    if outside:
        problems.append(f"image {told.image_id} of {x} x {y} pixels does not hold its box {list(outside[0])}")
    return problems


def _lies_inside(box: Sequence[int], width: int, height: int) -> bool:
    return 0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height


def column_of(world: World, name: str | None, head: str) -> int:
    """A class's column of the class probabilities; without a name one of the unnamed columns, by a hash of the head."""
    if name is not None:
        return world.columns[name]
    first = 1 + len(world.columns)
    digest = hashlib.blake2b(head.encode(), digest_size=8).digest()
    return first + int.from_bytes(digest, "big") % (world.num_classes - first)


@dataclasses.dataclass(frozen=True)
class Donors:
    """Training images whose boxes stand for what other images do not mention.

    Attributes:
        ids: ascending.
        words: image id -> its other words.
        items: image id -> (its distractors, their boxes as fractions of the image (n, 4)).
    """

    ids: tuple[int, ...]
    words: Mapping[int, frozenset[str]]
    items: Mapping[int, tuple[tuple[Boxed, ...], np.ndarray]]


def collect_donors(told: Iterable[Told], a: RealBoxes) -> Donors:
    """All images that have a distractor to give."""
    words, items = {}, {}
    for image in sorted(told, key=lambda image: image.image_id):
        boxes = np.array([item.box_px for item in image.objects], dtype=float).reshape(-1, 4)
        boxes /= (image.width, image.height) * 2
        if a.distractors == "mentioned":
            fits = np.array([item.times == 1 for item in image.objects], dtype=bool)
        else:
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            away = np.abs((boxes[:, :2] + boxes[:, 2:]) - 1).max(axis=1, initial=0)
            fits = (area <= a.rim_area) & (away >= a.rim_distance)
        if fits.any():
            kept = tuple(item for item, fit in zip(image.objects, fits) if fit)
            words[image.image_id], items[image.image_id] = frozenset(image.others), (kept, boxes[fits])
    return Donors(tuple(items), words, items)


def make_scene(world: World, told: Told, donors: Donors) -> Scene:
    """The real objects of an image, then groups as wholes, then things that nobody mentions."""
    a, rng = world.assumptions, generator(world.seed, "scene", told.image_id)
    groups = [item for item in told.groups if rng.random() < a.group_boxes]
    boxes = [item.box_px for item in (*told.objects, *groups)]
    columns = [column_of(world, item.name, item.head) for item in (*told.objects, *groups)]
    modifiers = [item.modifiers for item in (*told.objects, *groups)]
    for item, box, column in _distractors(world, told, donors, rng):
        boxes.append(tuple(np.rint(box * ((told.width, told.height) * 2)).astype(int).tolist()))
        columns.append(column)
        modifiers.append(item.modifiers)
    mentioned = len(told.objects)
    return Scene(
        told.width,
        told.height,
        np.array(boxes, dtype=np.int64).reshape(-1, 4),
        np.array(columns, dtype=np.int64),
        tuple(modifiers),
        (True,) * mentioned,
        mentioned,
    )


def _distractors(
    world: World, told: Told, donors: Donors, rng: np.random.Generator
) -> list[tuple[Boxed, np.ndarray, int]]:
    """Object, box as fractions and column: none of a class that this image has."""
    a = world.assumptions
    count = int(rng.poisson(a.unmentioned_mean))
    if not donors.ids:
        return []
    drawn = [donors.ids[place] for place in rng.integers(len(donors.ids), size=a.donors_drawn)]
    drawn = [image_id for image_id in dict.fromkeys(drawn) if image_id != told.image_id]
    drawn.sort(key=lambda image_id: -len(donors.words[image_id] & told.others.keys()))  # stable
    taken = {column_of(world, item.name, item.head) for item in (*told.objects, *told.groups)}
    found = []
    for image_id in drawn[: a.donors_kept]:
        for item, box in zip(*donors.items[image_id]):
            column = column_of(world, item.name, item.head)
            if column not in taken:
                found.append((item, box, column))
    first, chosen = 1 + len(world.columns), []
    for place in rng.permutation(len(found))[:count]:
        item, box, column = found[place]
        if rng.random() < a.unmentioned_unnamed and first < world.num_classes:
            column = int(rng.integers(first, world.num_classes))
        chosen.append((item, box, column))
    return chosen
