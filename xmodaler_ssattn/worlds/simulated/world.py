"""The common data of a simulated world's pictures: the columns of its classes, and the vectors of classes and words.

Letters: C classes with the background, L latent numbers of V, M of the class probabilities, D feature size. Columns of
the class probabilities: 0 background, then the named classes in their file's order, then classes that no caption names.
Everything is sampled from the seed and the name, so that a further class or word changes no other.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import numpy as np

from xmodaler_ssattn.worlds.simulated.assumptions import Assumptions, Settings
from xmodaler_ssattn.worlds.simulated.class_priors import KIN, kin_of

A = TypeVar("A", bound=Assumptions)


@dataclasses.dataclass(frozen=True)
class World(Generic[A]):
    """One simulated world.

    Attributes:
        settings, assumptions: its sizes and numbers.
        columns: class name -> column.
        class_vectors: (C, L) float32, for V; row 0 is zero.
        detector_vectors: (C, M) float32, for the class probabilities; row 0 is zero.
        word_vectors: word -> (L,) float32 of length 1.
        projection: (L, D) float32.
    """

    settings: Settings
    assumptions: A
    columns: Mapping[str, int]
    class_vectors: np.ndarray
    detector_vectors: np.ndarray
    word_vectors: Mapping[str, np.ndarray]
    projection: np.ndarray

    def random(self, *names: object) -> np.random.Generator:
        """A random generator that depends only on the seed and these names."""
        return generator(self.settings.seed, *names)


def generator(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends only on the seed and these names."""
    text = "/".join(map(str, (seed, *names)))
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big"))


def make_world(settings: Settings, assumptions: A, classes: Sequence[str], words: Iterable[str]) -> World[A]:
    """Sample the world.

    Args:
        classes: the named classes in their order, fewer than ``settings.num_classes``.
        words: all describing and other words that the captions use.
    """
    seed, names, a = settings.seed, class_names(classes, settings), assumptions
    projection = generator(seed, "projection", settings.feature_dim)
    return World(
        settings,
        a,
        {name: number for number, name in enumerate(classes, 1)},
        class_vectors=_class_vectors(seed, "look", names, a.latent_dim, a.class_kinship),
        detector_vectors=_class_vectors(seed, "detector", names, a.detector_dim, a.class_kinship),
        word_vectors={word: _unit(generator(seed, "word", word).standard_normal(a.latent_dim)) for word in set(words)},
        projection=(
            projection.standard_normal((a.latent_dim, settings.feature_dim))
            / np.sqrt(a.latent_dim * a.feature_noise**2 + 1)
        ).astype(np.float32),
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
