"""The world of annotations: the content of an image, and its objects at their real places.

A box that was annotated for several chains is one object, of the most specific of them: the chain with the fewest boxes
("a boy" before "three children"), then the one with the most phrases. A chain with several boxes is a group.
Unmentioned objects come from other training images.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import union_box
from xmodaler_ssattn.worlds.simulated.assumptions import AnnotationsAssumptions
from xmodaler_ssattn.worlds.simulated.class_priors import CROWDS
from xmodaler_ssattn.worlds.simulated.phrases import MANY, ObjectPhrase, describing_words, other_words
from xmodaler_ssattn.worlds.simulated.world import Layout, World

_CROWDS = frozenset(CROWDS.split())
MEMBER = "person"  # the class of one box of a crowd
Box = tuple[float, ...]  # x1, y1, x2, y2 in pixels, whole numbers


@dataclasses.dataclass(frozen=True)
class AnnotatedObject:
    """An object with a real box."""

    box_px: Box
    name: str | None  # its class, None when no phrase of its chain names one
    head: str  # the word that its phrases end with most often, as a lemma; used instead of a missing class
    modifiers: tuple[str, ...]  # the words that describe it, one entry per use
    times: int  # number of captions that mention its chain


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """The content of the captions and boxes of one image."""

    image_id: int
    width: int  # pixels
    height: int
    objects: tuple[AnnotatedObject, ...]  # one for each distinct box, in the order of mention
    groups: tuple[AnnotatedObject, ...]  # a group's enclosing box, where that is none of `objects`' boxes
    others: Mapping[str, float]  # word outside the phrases that have a box -> share of the captions that have it
    chains: int  # number of chains that the captions mention
    chains_without_box: int

    @property
    def words(self) -> set[str]:
        """All words that need a vector."""
        return set(self.others).union(*(item.modifiers for item in (*self.objects, *self.groups)))


def understand_record(image: Mapping[str, Any], lemma: Callable[[str], str]) -> AnnotatedImage:
    """The content of one record of an annotation file (``data.annotations``); ``lemma`` maps a word to its lemma."""
    captions = image["captions"]
    chains: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    others: Counter[str] = Counter()
    for number, caption in enumerate(captions):
        boxed = []
        for place, phrase in enumerate(caption["phrases"]):
            # A phrase that has a box and no chain is an object of its own; without both it is nothing to see.
            name = phrase["chain"] if phrase["chain"] is not None else f"caption {number}, phrase {place}"
            if phrase["chain"] is not None or phrase["boxes"]:
                chains.setdefault(name, []).append((number, phrase))
            if phrase["boxes"]:
                boxed.append(ObjectPhrase(phrase["start"], phrase["end"], "", ()))
        others.update(set(other_words(caption["tokens"], boxed)))
    boxes = {
        name: list(dict.fromkeys(tuple(box) for _, phrase in uses for box in phrase["boxes"]))
        for name, uses in chains.items()
    }
    boxes = {name: each for name, each in boxes.items() if each}
    described = {name: _describe(captions, chains[name], lemma) for name in boxes}
    owner: dict[Box, str] = {}
    for name in sorted(boxes, key=lambda name: (len(boxes[name]), -len(chains[name]))):  # stable: then by mention
        for box in boxes[name]:
            owner.setdefault(box, name)
    objects = []
    for box in dict.fromkeys(box for each in boxes.values() for box in each):
        item = described[owner[box]]
        member = len(boxes[owner[box]]) > 1 and item.name in _CROWDS
        objects.append(dataclasses.replace(item, box_px=box, name=MEMBER if member else item.name))
    unions = {name: tuple(union_box(each)) for name, each in boxes.items() if len(each) > 1}
    groups = {box: dataclasses.replace(described[name], box_px=box) for name, box in unions.items() if box not in owner}
    return AnnotatedImage(
        image["image_id"],
        image["width"],
        image["height"],
        tuple(objects),
        tuple(groups.values()),
        {word: others[word] / len(captions) for word in sorted(others)},
        len(chains),
        len(chains) - len(boxes),
    )


def _describe(
    captions: Sequence[Mapping[str, Any]], uses: Sequence[tuple[int, Mapping[str, Any]]], lemma: Callable[[str], str]
) -> AnnotatedObject:
    """Class, head and words of a chain, without a box. Of equally frequent ones the first mentioned is taken."""
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
    return AnnotatedObject((0, 0, 0, 0), name, heads.most_common(1)[0][0], tuple(modifiers), times)


def problems_of(image: AnnotatedImage, classes: Collection[str], unnamed: int) -> list[str]:
    """The reasons why an image cannot be simulated, with vectors for these and for `unnamed` other classes."""
    items = (*image.objects, *image.groups)
    problems = []
    strange = sorted({item.name for item in items if item.name is not None and item.name not in classes})
    if strange:
        problems.append(f"image {image.image_id} has boxes of classes without a vector: {', '.join(strange)}")
    heads = sorted({item.head for item in items if item.name is None})
    if heads and not unnamed:
        problems.append(
            f"image {image.image_id} has boxes of no class ({', '.join(heads)}), and no unnamed class is left"
        )
    width, height = image.width, image.height
    for x1, y1, x2, y2 in (item.box_px for item in image.objects):
        if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height):
            place = f"image {image.image_id} of {width} x {height} pixels"
            return [*problems, f"{place} does not contain its box {[x1, y1, x2, y2]}"]
    return problems


# --- places --------------------------------------------------------------------------------------------
def column_of(world: World, name: str | None, head: str) -> int:
    """A class's column of the class probabilities; without a name one of the unnamed columns, by a hash of the head."""
    if name is not None:
        return world.columns[name]
    first = 1 + len(world.columns)
    digest = hashlib.blake2b(head.encode(), digest_size=8).digest()
    return first + int.from_bytes(digest, "big") % (world.settings.num_classes - first)


@dataclasses.dataclass(frozen=True)
class Donors:
    """Training images whose boxes are used as unmentioned objects in other images."""

    ids: tuple[int, ...]  # ascending
    words: Mapping[int, frozenset[str]]  # image id -> its other words
    items: Mapping[int, list[tuple[AnnotatedObject, np.ndarray]]]  # its distractors, boxes (4,) as fractions


def collect_donors(images: Iterable[AnnotatedImage], a: AnnotationsAssumptions) -> Donors:
    """All images that have a distractor to give."""
    words, items = {}, {}
    for image in sorted(images, key=lambda image: image.image_id):
        boxes = np.array([item.box_px for item in image.objects], dtype=float).reshape(-1, 4)
        boxes /= (image.width, image.height) * 2
        if a.distractors == "mentioned":
            fits = [item.times == 1 for item in image.objects]
        else:
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            away = np.abs((boxes[:, :2] + boxes[:, 2:]) - 1).max(axis=1, initial=0)
            fits = (area <= a.rim_area) & (away >= a.rim_distance)
        kept = [(item, box) for item, box, fit in zip(image.objects, boxes, fits) if fit]
        if kept:
            words[image.image_id], items[image.image_id] = frozenset(image.others), kept
    return Donors(tuple(items), words, items)


def real_layout(world: World, image: AnnotatedImage, donors: Donors) -> Layout:
    """The real objects of an image, then groups as wholes, then unmentioned objects."""
    a, rng = world.assumptions, world.random("scene", image.image_id)
    groups = [item for item in image.groups if rng.random() < a.group_boxes]
    own = [(item, item.box_px, column_of(world, item.name, item.head)) for item in (*image.objects, *groups)]
    size = (image.width, image.height) * 2
    others = [(item, np.rint(box * size), column) for item, box, column in _distractors(world, image, donors, rng)]
    items, boxes, columns = zip(*own, *others) if own or others else ((), (), ())
    return Layout(
        image.width,
        image.height,
        np.array(boxes).astype(np.int64).reshape(-1, 4),
        np.array(columns, dtype=np.int64),
        tuple(item.modifiers for item in items),
        (True,) * len(image.objects),
    )


def _distractors(
    world: World, image: AnnotatedImage, donors: Donors, rng: np.random.Generator
) -> list[tuple[AnnotatedObject, np.ndarray, int]]:
    """Object, box as fractions and column: none of a class that this image has."""
    a = world.assumptions
    count = int(rng.poisson(a.unmentioned_mean))
    if not donors.ids:
        return []
    sampled = [donors.ids[place] for place in rng.integers(len(donors.ids), size=a.donors_drawn).tolist()]
    sampled = [image_id for image_id in dict.fromkeys(sampled) if image_id != image.image_id]
    sampled.sort(key=lambda image_id: -len(donors.words[image_id] & image.others.keys()))  # stable
    taken = {column_of(world, item.name, item.head) for item in (*image.objects, *image.groups)}
    found = [
        (item, box, column)
        for image_id in sampled[: a.donors_kept]
        for item, box in donors.items[image_id]
        if (column := column_of(world, item.name, item.head)) not in taken
    ]
    first, chosen = 1 + len(world.columns), []
    for place in rng.permutation(len(found))[:count]:
        item, box, column = found[place]
        if rng.random() < a.unmentioned_unnamed and first < world.settings.num_classes:
            column = int(rng.integers(first, world.settings.num_classes))
        chosen.append((item, box, column))
    return chosen
