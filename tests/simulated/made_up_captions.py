"""Invented captions about a few things, and the world simulated from them: small enough to follow."""

from __future__ import annotations

import functools
import gzip
import json
import random
from pathlib import Path

from xmodaler_ssattn.evaluation.lemmas import noun_lemma
from xmodaler_ssattn.packs.store import Regions
from xmodaler_ssattn.worlds.simulated import CaptionsAssumptions, Settings
from xmodaler_ssattn.worlds.simulated.captions_world import (
    CaptionedImage,
    CaptionsWorld,
    make_captions_world,
    understand_captions,
)
from xmodaler_ssattn.worlds.simulated.detector import detect_invented, regions_of
from xmodaler_ssattn.worlds.simulated.world import Layout

NAMES = "man guy woman dog ball shirt hat street tree car bench bird guitar ladder bucket"
CLASSES = NAMES.split()
WHO = ["man", "guy", "woman"]
WHAT = ["dog", "ball", "car", "bench", "bird", "guitar", "tree"]
WORN = ["shirt", "hat"]
COLOURS = ["red", "blue", "green", "white"]
DOES = ["holding", "near", "watching", "behind"]


@functools.cache
def lemma(word: str) -> str:
    return noun_lemma(word)


def invent(image_id: int) -> list[str]:
    """Five captions of one invented picture; they depend on the id alone."""
    rng = random.Random(f"invented {image_id}")
    who, what, worn, colour = rng.choice(WHO), rng.sample(WHAT, 2), rng.choice(WORN), rng.choice(COLOURS)
    captions = []
    for _ in range(5):
        thing = rng.choices(what, (4, 1))[0]
        dress = f" in a {colour} {worn}" if rng.random() < 0.6 else ""
        place = " on the street" if rng.random() < 0.4 else ""
        captions.append(f"A {who}{dress} {rng.choice(DOES)} a {thing}{place}.")
    return captions


def invented_captions(train: int, val: int, test: int, first: int = 1000) -> dict[str, dict]:
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    return {
        str(first + 7 * number): {"split": split, "captions": invent(first + 7 * number)}
        for number, split in enumerate(splits)
    }


def write_captions(path: Path, captions: dict[str, dict]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(captions, file)
    return path


def hear(captions: list[str]) -> CaptionedImage:
    return understand_captions(captions, frozenset(CLASSES), lemma)


def small_world(
    seed: int = 0, num_regions: int = 36, feature_dim: int = 32, num_classes: int = 40, **assumptions: float
) -> CaptionsWorld:
    """A world whose habits come from the first 60 invented pictures."""
    images = {number: hear(invent(number)) for number in range(60)}
    # what the tests say beside the invented captions
    others = {-1: hear(["An old man running.", "It rains."])}
    settings = Settings(seed, None, num_regions, feature_dim, num_classes)
    return make_captions_world(settings, CaptionsAssumptions(**assumptions), CLASSES, images | others, list(images))


def regions_in(world: CaptionsWorld, image_id: int, content: CaptionedImage, layout: Layout) -> Regions:
    """The regions of an image whose layout is given."""
    boxes = detect_invented(world.assumptions, world.settings.num_regions, layout, world.random("boxes", image_id))
    return regions_of(world, image_id, content.others, layout, boxes)
