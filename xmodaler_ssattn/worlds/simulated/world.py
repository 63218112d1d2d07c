"""What holds for every picture of a simulated world: its classes, how each usually looks, and the vectors of all words.

Letters: C classes with the background, L latent numbers of V, M of the class probabilities, D feature size. Columns of
the class probabilities: 0 background, then the named classes in their file's order, then classes that no caption names.
Everything is drawn from the seed and the name in question, so that one more class or word changes no other.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from xmodaler_ssattn.worlds.simulated.captions import Habits
from xmodaler_ssattn.worlds.simulated.kinds import KIN, kin_of, kind_of
from xmodaler_ssattn.worlds.simulated.parameters import Common

# A class of which `kinds` says nothing: median area, spread of log area, height of the centre and its spread.
_OTHER_AREA, _OTHER_AREA_SPREAD, _OTHER_HEIGHT, _OTHER_HEIGHT_SPREAD, _OTHER_ASPECT_SPREAD = 0.03, 0.7, 0.56, 0.12, 0.3


@dataclasses.dataclass(frozen=True)
class World:
    """One simulated world.

    Attributes:
        assumptions: its numbers.
        seed: of everything.
        num_regions, feature_dim, num_classes: K, D, C.
        columns: class name -> column.
        log_area, height, aspect: (C,) float64, what is usual for a class; entry 0 is not used.
        class_vectors: (C, L) float32, for V; row 0 is zero.
        detector_vectors: (C, M) float32, for the class probabilities; row 0 is zero.
        word_vectors: word -> (L,) float32 of length 1.
        projection: (L, D) float32.
        unmentioned_chance: (C,) float64, sums to 1: classes of objects that no caption mentions; None without habits.
        habits: of the captions; None in the world of real boxes, which takes such objects from other pictures.
    """

    assumptions: Common
    seed: int
    num_regions: int
    feature_dim: int
    num_classes: int
    columns: Mapping[str, int]
    log_area: np.ndarray
    height: np.ndarray
    aspect: np.ndarray
    class_vectors: np.ndarray
    detector_vectors: np.ndarray
    word_vectors: Mapping[str, np.ndarray]
    projection: np.ndarray
    unmentioned_chance: np.ndarray | None
    habits: Habits | None


def generator(seed: int, *names: object) -> np.random.Generator:
    """The random numbers that belong to these names alone."""
    text = "/".join(map(str, (seed, *names)))
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big"))


def make_world(
    assumptions: Common,
    seed: int,
    classes: Sequence[str],
    words: Iterable[str],
    habits: Habits | None,
    *,
    num_regions: int,
    feature_dim: int,
    num_classes: int,
) -> World:
    """Draw the world.

    Args:
        classes: the named classes, in their order.
        words: all describing and other words that captions use.
        num_classes: at least the background and `classes`.
    """
    names = [*classes, *(f"unnamed class {number}" for number in range(len(classes) + 1, num_classes))]
    usual = np.array([_usual(seed, name) for name in names]).reshape(-1, 3)
    a = assumptions
    chance = None if habits is None else _unmentioned_chance(a, classes, habits, num_classes)
    return World(
        a,
        seed,
        num_regions,
        feature_dim,
        num_classes,
        {name: number for number, name in enumerate(classes, 1)},
        *(np.concatenate([[0.0], column]) for column in usual.T),
        class_vectors=_class_vectors(seed, "look", names, a.latent_dim, a.class_kinship),
        detector_vectors=_class_vectors(seed, "detector", names, a.detector_dim, a.class_kinship),
        word_vectors={word: _unit(generator(seed, "word", word).standard_normal(a.latent_dim)) for word in set(words)},
        projection=(
            generator(seed, "projection", feature_dim).standard_normal((a.latent_dim, feature_dim))
            / np.sqrt(a.latent_dim * a.feature_noise**2 + 1)
        ).astype(np.float32),
        unmentioned_chance=chance,
        habits=habits,
    )


def _usual(seed: int, name: str) -> tuple[float, float, float]:
    """Log area, height of the centre, aspect."""
    kind, rng = kind_of(name), generator(seed, "usual", name)
    if kind is not None:  # classes of one kind differ a little
        return np.log(kind.area) + 0.15 * rng.standard_normal(), kind.height, kind.aspect
    area, height, aspect = rng.standard_normal(3)
    return (
        np.log(_OTHER_AREA) + _OTHER_AREA_SPREAD * area,
        float(np.clip(_OTHER_HEIGHT + _OTHER_HEIGHT_SPREAD * height, 0.1, 0.9)),
        float(np.exp(_OTHER_ASPECT_SPREAD * aspect)),
    )


def _class_vectors(seed: int, purpose: str, names: Sequence[str], size: int, kinship: float) -> np.ndarray:
    """(1 + classes, size): unit vectors; kin have a part in common, so that they are confused more easily."""
    common = [_unit(generator(seed, purpose, "kin", number).standard_normal(size)) for number in range(len(KIN))]
    rows = [np.zeros(size, dtype=np.float32)]
    for name in names:
        own, groups = _unit(generator(seed, purpose, name).standard_normal(size)), kin_of(name)
        if groups:
            shared = _unit(sum(common[number] for number in groups))
            own = _unit(np.sqrt(1 - kinship) * own + np.sqrt(kinship) * shared)
        rows.append(own)
    return np.stack(rows)


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _unmentioned_chance(a: Common, classes: Sequence[str], habits: Habits, num_classes: int) -> np.ndarray:
    chance = np.zeros(num_classes)
    mentions = np.array([habits.mentions.get(name, 0) for name in classes], dtype=float)
    named = np.maximum(mentions, 1.0) ** -a.unmentioned_rarity
    unnamed = num_classes - 1 - len(classes)
    share = a.unmentioned_unnamed if unnamed else 0.0
    chance[1 : 1 + len(classes)] = (1 - share) * named / named.sum()
    chance[1 + len(classes) :] = share / max(unnamed, 1)
    return chance / chance.sum()
