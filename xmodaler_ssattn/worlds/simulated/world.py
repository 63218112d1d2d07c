"""A simulated world: the columns of its classes, the vectors of classes and words; and the objects of one picture.

Letters: C classes with the background, L latent numbers of V, M of the class probabilities, D feature size. Columns of
the class probabilities: 0 background, then the named classes in their file's order, then classes that no caption names.
Everything is sampled from the seed and the name, so that a further class or word changes no other.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import area
from xmodaler_ssattn.worlds.simulated.assumptions import Assumptions, Settings
from xmodaler_ssattn.worlds.simulated.class_priors import KIN, kin_of

MIN_AREA = 0.0015  # lower limit for shares of the picture
MIN_SIDE_PX = 8
REFERENCE_AREA = 0.1  # at which the assumptions state noise and norms


@dataclasses.dataclass(frozen=True)
class Layout:
    """The O objects of a picture, the input of the detector; those that the captions mention come first."""

    width: int  # pixels
    height: int
    boxes_px: np.ndarray  # (O, 4) int64, xyxy, counted from 0, inside the picture
    columns: np.ndarray  # (O,) int64, their columns of the class probabilities
    modifiers: tuple[tuple[str, ...], ...]  # the words that describe each
    boxed: tuple[bool, ...]  # for each mentioned object whether it has a box in the annotations; the others are scenes

    @property
    def mentioned(self) -> int:
        """The number of mentioned objects."""
        return len(self.boxed)

    def area(self, boxes_px: np.ndarray) -> np.ndarray:
        """(n, 4) boxes in pixels -> (n,) float64 shares of the picture."""
        return area(boxes_px) / (self.width * self.height)


@dataclasses.dataclass(frozen=True)
class World:
    """One simulated world."""

    settings: Settings
    assumptions: Any  # CaptionsAssumptions or AnnotationsAssumptions
    columns: Mapping[str, int]  # class name -> column
    class_vectors: np.ndarray  # (C, L) float32, for V; row 0 is zero
    detector_vectors: np.ndarray  # (C, M) float32, for the class probabilities; row 0 is zero
    word_vectors: Mapping[str, np.ndarray]  # word -> (L,) float32 of length 1
    projection: np.ndarray  # (L, D) float32

    def random(self, *names: object) -> np.random.Generator:
        """A random generator that depends only on the seed and these names."""
        return generator(self.settings.seed, *names)


def generator(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends only on the seed and these names."""
    text = "/".join(map(str, (seed, *names)))
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big"))


def make_world(settings: Settings, a: Assumptions, classes: Sequence[str], words: Iterable[str]) -> World:
    """Sample the world.

    Args:
        classes: the named classes in their order, fewer than ``settings.num_classes``.
        words: all describing and other words that the captions use.
    """
    seed, size, names = settings.seed, a.latent_dim, class_names(classes, settings)
    projection = generator(seed, "projection", settings.feature_dim).standard_normal((size, settings.feature_dim))
    return World(
        settings,
        a,
        {name: number for number, name in enumerate(classes, 1)},
        class_vectors=_class_vectors(seed, "look", names, size, a.class_kinship),
        detector_vectors=_class_vectors(seed, "detector", names, a.detector_dim, a.class_kinship),
        word_vectors={word: _unit(generator(seed, "word", word).standard_normal(size)) for word in set(words)},
        projection=(projection / np.sqrt(size * a.feature_noise**2 + 1)).astype(np.float32),
    )


def class_names(classes: Sequence[str], settings: Settings) -> list[str]:
    """A name for each column of the class probabilities after the background."""
    return [*classes, *(f"unnamed class {number}" for number in range(len(classes) + 1, settings.num_classes))]


def _class_vectors(seed: int, purpose: str, names: Sequence[str], size: int, kinship: float) -> np.ndarray:
    """(1 + classes, size): unit vectors; related classes share a part, so that they are confused more easily."""
    common = [_unit(generator(seed, purpose, "kin", number).standard_normal(size)) for number in range(len(KIN))]
    rows = [np.zeros(size, dtype=np.float32)]
    for name in names:
        own, groups = _unit(generator(seed, purpose, name).standard_normal(size)), kin_of(name)
        if groups:
            shared = _unit(np.sum([common[number] for number in groups], axis=0))
            own = _unit(np.sqrt(1 - kinship) * own + np.sqrt(kinship) * shared)
        rows.append(own)
    return np.stack(rows)


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)
