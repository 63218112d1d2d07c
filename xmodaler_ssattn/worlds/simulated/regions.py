"""What a detector would make of a simulated picture: K boxes, what each shows (V), and what it takes it for (c).

A region shows the objects that it overlaps, mostly the one that it fits best, and everywhere the scene. V and c are
made from that by two independent noises, larger in small regions. A model that is given V, p and c is given nothing
else: rows are in the order of c's maxima alone, the number of regions is always K, and boxes are whole pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from xmodaler_ssattn.boxes import area as area_of
from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.worlds.simulated.captions import Talk
from xmodaler_ssattn.worlds.simulated.parameters import Common
from xmodaler_ssattn.worlds.simulated.scene import MIN_AREA, MIN_SIDE_PX, Scene
from xmodaler_ssattn.worlds.simulated.world import World, generator

_REFERENCE_AREA = 0.1
_CONFUSION_RANGE = (0.7, 2.5)
# Background boxes are as large as objects are: median area, spread of its logarithm and of the aspect's.
_BACKGROUND_AREA, _BACKGROUND_SPREAD, _BACKGROUND_ASPECT_SPREAD = 0.04, 1.0, 0.4


@dataclasses.dataclass(frozen=True)
class Regions:
    """K regions of one image, descending by their largest class probability beside the background's.

    Attributes:
        boxes_px: (K, 4) float32, whole pixels.
        features: (K, D) float32, not negative.
        class_probs: (K, C) float32, rows sum to 1.
    """

    boxes_px: np.ndarray
    features: np.ndarray
    class_probs: np.ndarray


def make_regions(world: World, image_id: int, talk: Talk, scene: Scene) -> Regions:
    """The regions of an image of the world of captions."""
    return regions_of(
        world, image_id, talk.others, scene, propose(world, scene, generator(world.seed, "boxes", image_id))
    )


def regions_of(world: World, image_id: int, others: Mapping[str, float], scene: Scene, boxes: np.ndarray) -> Regions:
    """What the proposed boxes (K, 4) show.

    Args:
        others: word of the captions that describes no object -> share of the captions that have it.
    """
    a = world.assumptions
    shows = shares(iou(boxes, scene.boxes_px), a.visibility_power, a.dominance_power)
    area = np.maximum(area_of(boxes) / (scene.width * scene.height), MIN_AREA)
    confusion = np.clip((area / _REFERENCE_AREA) ** -a.size_confusion, *_CONFUSION_RANGE).astype(np.float32)[:, None]
    probs = class_probs(
        world, shows @ world.detector_vectors[scene.columns], confusion, generator(world.seed, "classes", image_id)
    )
    features = look(world, others, scene, boxes, shows, confusion, generator(world.seed, "features", image_id))
    order = np.argsort(-probs[:, 1:].max(axis=1), kind="stable")
    return Regions(boxes[order].astype(np.float32), features[order], probs[order])


def shares(overlap: np.ndarray, visibility_power: float, dominance_power: float) -> np.ndarray:
    """(K, O) IoU of regions and objects -> (K, O) float32, how much of each object a region shows.

    share_o = (max IoU)^visibility_power * IoU_o^dominance_power / sum of IoU^dominance_power
    """
    powers = overlap**dominance_power
    total = powers.sum(axis=1, keepdims=True)
    visible = overlap.max(axis=1, keepdims=True, initial=0.0) ** visibility_power
    return (visible * np.divide(powers, total, out=np.zeros_like(powers), where=total > 0)).astype(np.float32)


def propose(world: World, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """(K, 4) float64 boxes in whole pixels, in random order.

    One good box of most objects, then loose ones, parts and background. Whether an object is mentioned plays no part.
    """
    a, count = world.assumptions, world.num_regions
    objects = scene.boxes_px.astype(float)
    seen = np.flatnonzero(rng.random(len(objects)) >= a.missed)
    best = rng.permutation(seen)[:count]
    if len(seen) > count:  # a crowded picture: the large ones are seen
        best = seen[np.argsort(-area_of(objects[seen]), kind="stable")[:count]]
    rest = count - len(best)
    if len(objects):
        chance = np.sqrt(area_of(objects))
        which = rng.choice(len(objects), size=rest, p=chance / chance.sum())
        what = rng.choice(3, size=rest, p=(a.loose_share, a.partial_share, 1 - a.loose_share - a.partial_share))
    else:
        which, what = np.zeros(rest, dtype=int), np.full(rest, 2)
    boxes = np.concatenate(
        [
            jittered(objects[best], a.jitter, rng),
            jittered(objects[which[what == 0]], a.loose_jitter, rng),
            parts(objects[which[what == 1]], rng),
            background(int((what == 2).sum()), scene, rng),
        ]
    )
    return rng.permutation(inside(boxes, scene.width, scene.height))


def jittered(boxes: np.ndarray, spread: float | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    centres = centres + spread * rng.standard_normal(centres.shape) * sides
    sides = sides * np.exp(spread * rng.standard_normal(sides.shape))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def parts(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece of each box: 0.35 to 0.7 of each side, anywhere in it."""
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = rng.uniform(0.35, 0.7, sides.shape)
    corner = boxes[:, :2] + rng.random(sides.shape) * (1 - kept) * sides
    return np.concatenate([corner, corner + kept * sides], axis=1)


def background(count: int, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    area = np.exp(np.log(_BACKGROUND_AREA) + _BACKGROUND_SPREAD * rng.standard_normal(count))
    area = np.clip(area, MIN_AREA, 0.6) * scene.width * scene.height
    wide = np.sqrt(area * np.exp(_BACKGROUND_ASPECT_SPREAD * rng.standard_normal(count)))
    sides = np.stack([np.minimum(wide, 0.95 * scene.width), np.minimum(area / wide, 0.95 * scene.height)], axis=1)
    corner = rng.random((count, 2)) * ((scene.width, scene.height) - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def inside(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Whole pixels, inside the picture, with sides of MIN_SIDE_PX at least."""
    size = np.array([width, height], dtype=float)
    low = np.clip(np.rint(boxes[:, :2]), 0, size - MIN_SIDE_PX)
    high = np.clip(np.rint(boxes[:, 2:]), low + MIN_SIDE_PX, size)
    return np.concatenate([low, high], axis=1)


def class_probs(world: World, match: np.ndarray, confusion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """c, (K, C) float32: softmax of how well each class fits.

    Args:
        match: (K, M), the detector vectors of the objects in each region.
        confusion: (K, 1), factor of the noise.
    """
    a = world.assumptions
    noise = rng.standard_normal(match.shape, dtype=np.float32)
    logits = (a.sharpness * (match + a.class_noise * confusion * noise)) @ world.detector_vectors.T
    logits[:, 0] = a.background_logit
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def look(
    world: World,
    others: Mapping[str, float],
    scene: Scene,
    boxes: np.ndarray,
    shows: np.ndarray,
    confusion: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """V, (K, D) float32: relu(projection of the latent numbers + bias)^power, of a given norm; a latent vector is

    class vectors + adjectives of the objects that the region shows + scene vector + noise.
    """
    a = world.assumptions
    objects = world.class_vectors[scene.columns].copy()
    for row, words in enumerate(scene.modifiers):
        objects[row] += a.adjective_weight * _mean_direction(world, {word: words.count(word) for word in words})
    around = a.scene_weight * _mean_direction(world, others)
    noise = rng.standard_normal((len(shows), a.latent_dim), dtype=np.float32)
    if a.feature_overlap:
        common = common_noise(boxes / ((scene.width, scene.height) * 2), a, rng)
        noise = np.sqrt(np.float32(1 - a.feature_overlap)) * noise + np.sqrt(np.float32(a.feature_overlap)) * common
    latent = shows @ objects + around + np.float32(a.feature_noise) * confusion * noise
    if a.feature_evenness:
        usual = np.sqrt(a.latent_dim * a.feature_noise**2 + 1)
        latent *= (usual / np.linalg.norm(latent, axis=1, keepdims=True)) ** np.float32(a.feature_evenness)
    seen = latent @ world.projection
    log_area = np.log(np.maximum(area_of(boxes) / (scene.width * scene.height), MIN_AREA) / _REFERENCE_AREA)
    of_region = rng.standard_normal((2, len(shows)))
    bias = a.feature_bias + a.feature_bias_area * log_area + a.feature_bias_noise * of_region[0]
    seen = np.maximum(seen + bias.astype(np.float32)[:, None], 0) ** np.float32(a.feature_power)
    if a.feature_norm:
        norm = a.feature_norm * np.sqrt(world.feature_dim)
        norm = norm * np.exp(a.feature_norm_noise * of_region[1] + a.feature_norm_area * log_area)
        length = np.maximum(np.linalg.norm(seen, axis=1), np.finfo(np.float32).tiny)
        seen = seen * (norm / length).astype(np.float32)[:, None]
    return seen


def common_noise(boxes_01: np.ndarray, a: Common, rng: np.random.Generator) -> np.ndarray:
    """(K, 4) boxes in fractions -> (K, L) float32 normal numbers that regions have in common as far as they overlap.

    The correlation of two regions is the overlap of their bells: per axis, with centres m and deviations s,
    sqrt(2 s1 s2 / (s1^2 + s2^2)) exp(-(m1 - m2)^2 / (4 (s1^2 + s2^2))); equal boxes have 1.
    """
    correlation = np.ones((len(boxes_01), len(boxes_01)))
    for axis in (0, 1):
        low, high = boxes_01[:, axis], boxes_01[:, axis + 2]
        centre, spread = (low + high) / 2, a.feature_window * (high - low)
        total = spread[:, None] ** 2 + spread[None, :] ** 2
        distance = (centre[:, None] - centre[None, :]) ** 2
        correlation *= np.sqrt(2 * spread[:, None] * spread[None, :] / total) * np.exp(-distance / (4 * total))
    correlation[np.diag_indices_from(correlation)] += 1e-6  # boxes may be equal
    root = np.linalg.cholesky(correlation)
    return (root @ rng.standard_normal((len(boxes_01), a.latent_dim))).astype(np.float32)


def _mean_direction(world: World, weights: Mapping[str, float]) -> np.ndarray:
    """The weighted sum of the words' vectors at length 1; zero without words."""
    total = np.zeros(world.assumptions.latent_dim, dtype=np.float32)
    for word, weight in weights.items():
        total += np.float32(weight) * world.word_vectors[word]
    length = float(np.linalg.norm(total))
    return total / np.float32(length) if length else total
