"""The world of annotations: real objects at their real places, and unmentioned objects from other training images."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from xmodaler_ssattn.worlds.simulated.annotations_content import AnnotatedImage, AnnotatedObject
from xmodaler_ssattn.worlds.simulated.assumptions import AnnotationsAssumptions
from xmodaler_ssattn.worlds.simulated.world import Layout, World


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
