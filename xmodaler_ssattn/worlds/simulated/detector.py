"""A simulated detector with errors: the K boxes that it reports, and their features (V) and class probabilities (c).

``detect_invented`` is the detector of the world of captions, ``detect_real`` the one of the world of annotations, whose
errors depend on the size of the objects. Both return (K, 4) float64 xyxy boxes in whole pixels, in random order; they
do not know which objects are mentioned.

A region shows the objects that it overlaps, mostly the one that it fits best, and always the scene. V and c are made
from this with two independent noises, larger in small regions. There is no information except V, p and c: rows are in
the order of c's maxima, the number of regions is always K, and boxes are whole pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xmodaler_ssattn.boxes import area as area_of
from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.packs.store import Regions
from xmodaler_ssattn.worlds.simulated.assumptions import AnnotationsAssumptions, Assumptions, CaptionsAssumptions
from xmodaler_ssattn.worlds.simulated.world import MIN_AREA, MIN_SIDE_PX, REFERENCE_AREA, Layout, World

# Background boxes are as large as objects are: median area, spread of its logarithm and of the aspect's.
_BACKGROUND_AREA, _BACKGROUND_SPREAD, _BACKGROUND_ASPECT_SPREAD = 0.04, 1.0, 0.4
_ROUNDS = 20  # of filling up; a picture too small for K different boxes then gets similar ones
_CONFUSION_RANGE = (0.7, 2.5)  # of the factor by which small regions are noisier


def detect_invented(a: CaptionsAssumptions, num_regions: int, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """One good box of most objects (the largest in a crowded picture), then loose ones, parts and background."""
    objects = layout.boxes_px.astype(float)
    area = area_of(objects)
    seen = np.flatnonzero(rng.random(len(objects)) >= a.missed)
    best = rng.permutation(seen)[:num_regions]
    if len(seen) > num_regions:
        best = _largest(seen, area, num_regions)
    rest = num_regions - len(best)
    which, what = np.zeros(rest, dtype=int), np.full(rest, 2)
    if len(objects):
        which = _by_size(area, rest, rng)
        what = rng.choice(3, size=rest, p=(a.loose_share, a.partial_share, 1 - a.loose_share - a.partial_share))
    boxes = [
        _jittered(objects[best], a.jitter, rng),
        _jittered(objects[which[what == 0]], a.loose_jitter, rng),
        _parts(objects[which[what == 1]], rng),
        _background(int((what == 2).sum()), layout, rng),
    ]
    return rng.permutation(_inside(np.concatenate(boxes), layout))


def detect_real(a: AnnotationsAssumptions, num_regions: int, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    """One region per object that is not missed (the largest of too many), then duplicates, then parts of objects and
    background, without pairs whose IoU is above ``suppress_iou``.
    """
    objects = layout.boxes_px.astype(float)
    area = np.maximum(layout.area(objects), MIN_AREA)
    overlooked = a.missed + a.missed_small * np.exp(-area / a.missed_area)
    seen = rng.permutation(np.flatnonzero(rng.random(len(objects)) >= overlooked))
    if len(seen) > num_regions:
        seen = _largest(seen, area, num_regions)
    more = rng.permutation(np.repeat(seen, rng.binomial(a.most_duplicates, a.duplicate_chance, size=len(seen))))
    source = np.concatenate([seen, more])
    spread = a.jitter * np.exp(a.jitter_spread * rng.standard_normal(len(source)))
    spread = spread * (area[source] / REFERENCE_AREA) ** -a.jitter_area
    boxes = _inside(_jittered(objects[source], spread[:, None], rng), layout)
    kept = _apart(np.zeros((0, 4)), boxes, a.suppress_iou, num_regions)
    for round_ in range(_ROUNDS):
        lacking = num_regions - len(kept)
        if not lacking:
            break
        some = int(rng.binomial(lacking, a.partial_share)) if len(objects) else 0
        which = _by_size(area, some, rng) if some else np.zeros(0, dtype=int)
        boxes = np.concatenate([_parts(objects[which], rng), _background(lacking - some, layout, rng)])
        limit = a.suppress_iou if round_ < _ROUNDS - 1 else 1.0
        kept = _apart(kept, _inside(boxes, layout), limit, num_regions)
    return rng.permutation(kept)


def _largest(numbers: np.ndarray, area: np.ndarray, most: int) -> np.ndarray:
    return numbers[np.argsort(-area[numbers], kind="stable")[:most]]


def _by_size(area: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The numbers of `count` objects, larger ones more often."""
    chance = np.sqrt(area)
    return rng.choice(len(area), size=count, p=chance / chance.sum())


def _apart(kept: np.ndarray, boxes: np.ndarray, limit: float, most: int) -> np.ndarray:
    """`kept` and, in their order, those of `boxes` whose IoU with all before them is at most `limit`."""
    candidates = np.concatenate([kept, boxes])
    overlap = iou(candidates, candidates)
    chosen = list(range(len(kept)))
    for number in range(len(kept), len(candidates)):
        if len(chosen) < most and overlap[number, chosen].max(initial=0.0) <= limit:
            chosen.append(number)
    return candidates[chosen]


def _jittered(boxes: np.ndarray, spread: float | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    centres = centres + spread * rng.standard_normal(centres.shape) * sides
    sides = sides * np.exp(spread * rng.standard_normal(sides.shape))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def _parts(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A piece of each box: 0.35 to 0.7 of each side, anywhere in it."""
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = rng.uniform(0.35, 0.7, sides.shape)
    corner = boxes[:, :2] + rng.random(sides.shape) * (1 - kept) * sides
    return np.concatenate([corner, corner + kept * sides], axis=1)


def _background(count: int, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    area = np.exp(np.log(_BACKGROUND_AREA) + _BACKGROUND_SPREAD * rng.standard_normal(count))
    area = np.clip(area, MIN_AREA, 0.6) * layout.width * layout.height
    wide = np.sqrt(area * np.exp(_BACKGROUND_ASPECT_SPREAD * rng.standard_normal(count)))
    sides = np.stack([np.minimum(wide, 0.95 * layout.width), np.minimum(area / wide, 0.95 * layout.height)], axis=1)
    corner = rng.random((count, 2)) * ((layout.width, layout.height) - sides)
    return np.concatenate([corner, corner + sides], axis=1)


def _inside(boxes: np.ndarray, layout: Layout) -> np.ndarray:
    """Whole pixels, inside the picture, with sides of at least MIN_SIDE_PX."""
    size = np.array([layout.width, layout.height], dtype=float)
    low = np.clip(np.rint(boxes[:, :2]), 0, size - MIN_SIDE_PX)
    high = np.clip(np.rint(boxes[:, 2:]), low + MIN_SIDE_PX, size)
    return np.concatenate([low, high], axis=1)


# --- features and class probabilities ------------------------------------------------------------------
def regions_of(world: World, image_id: int, others: Mapping[str, float], layout: Layout, boxes: np.ndarray) -> Regions:
    """The regions of the detected boxes (K, 4), descending by their largest class probability except the background's.

    ``others``: word of the captions that describes no object -> share of the captions that have it.
    """
    a = world.assumptions
    shows = shares(iou(boxes, layout.boxes_px), a.visibility_power, a.dominance_power)
    area = np.maximum(layout.area(boxes), MIN_AREA) / REFERENCE_AREA
    confusion = np.clip(area**-a.size_confusion, *_CONFUSION_RANGE).astype(np.float32)[:, None]
    match = shows @ world.detector_vectors[layout.columns]
    probs = _class_probs(world, match, confusion, world.random("classes", image_id))
    features = _features(world, others, layout, boxes, shows, confusion, world.random("features", image_id))
    order = np.argsort(-probs[:, 1:].max(axis=1), kind="stable")
    boxes = boxes[order].astype(np.float32)
    return Regions(image_id, layout.width, layout.height, boxes, features[order], probs[order])


def shares(overlap: np.ndarray, visibility_power: float, dominance_power: float) -> np.ndarray:
    """(K, O) IoU of regions and objects -> (K, O) float32, how much of each object a region shows.

    share_o = (max IoU)^visibility_power * IoU_o^dominance_power / sum of IoU^dominance_power
    """
    powers = overlap**dominance_power
    total = powers.sum(axis=1, keepdims=True)
    visible = overlap.max(axis=1, keepdims=True, initial=0.0) ** visibility_power
    return (visible * np.divide(powers, total, out=np.zeros_like(powers), where=total > 0)).astype(np.float32)


def _class_probs(world: World, match: np.ndarray, confusion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """c, (K, C) float32: softmax of how well each class fits the detector vectors (K, M) of the objects in a region.

    ``confusion``: (K, 1), factor of the noise.
    """
    a = world.assumptions
    noise = rng.standard_normal(match.shape, dtype=np.float32)
    logits = (a.sharpness * (match + a.class_noise * confusion * noise)) @ world.detector_vectors.T
    logits[:, 0] = a.background_logit
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _features(
    world: World,
    others: Mapping[str, float],
    layout: Layout,
    boxes: np.ndarray,
    shows: np.ndarray,
    confusion: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """V, (K, D) float32: relu(projection of the latent numbers + bias)^power, of a given norm; a latent vector is

    class vectors + adjectives of the objects that the region shows + scene vector + noise.
    """
    a = world.assumptions
    objects = world.class_vectors[layout.columns].copy()
    for row, words in enumerate(layout.modifiers):
        objects[row] += a.adjective_weight * _mean_direction(world, {word: words.count(word) for word in words})
    around = a.scene_weight * _mean_direction(world, others)
    noise = rng.standard_normal((len(shows), a.latent_dim), dtype=np.float32)
    if a.feature_overlap:
        common = common_noise(boxes / ((layout.width, layout.height) * 2), a, rng)
        noise = np.sqrt(np.float32(1 - a.feature_overlap)) * noise + np.sqrt(np.float32(a.feature_overlap)) * common
    latent = shows @ objects + around + np.float32(a.feature_noise) * confusion * noise
    if a.feature_evenness:
        usual = np.sqrt(a.latent_dim * a.feature_noise**2 + 1)
        latent *= (usual / np.linalg.norm(latent, axis=1, keepdims=True)) ** np.float32(a.feature_evenness)
    log_area = np.log(np.maximum(layout.area(boxes), MIN_AREA) / REFERENCE_AREA)
    of_region = rng.standard_normal((2, len(shows)))
    bias = a.feature_bias + a.feature_bias_area * log_area + a.feature_bias_noise * of_region[0]
    seen = latent @ world.projection + bias.astype(np.float32)[:, None]
    seen = np.maximum(seen, 0) ** np.float32(a.feature_power)
    if a.feature_norm:
        norm = a.feature_norm * np.sqrt(world.settings.feature_dim)
        norm = norm * np.exp(a.feature_norm_noise * of_region[1] + a.feature_norm_area * log_area)
        length = np.maximum(np.linalg.norm(seen, axis=1), np.finfo(np.float32).tiny)
        seen = seen * (norm / length).astype(np.float32)[:, None]
    return seen


def common_noise(boxes_01: np.ndarray, a: Assumptions, rng: np.random.Generator) -> np.ndarray:
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
