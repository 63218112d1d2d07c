"""The assumptions of simulated data sets: the sizes chosen by the caller, and all numbers of the model with reasons.

``area`` is always a box's share of the picture.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from xmodaler_ssattn.errors import raise_all


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings chosen by the caller, apart from the assumptions."""

    seed: int = 0  # of the world
    counts: tuple[int, int, int] | None = None  # images of train, val, test; None: all images of the input
    num_regions: int = 36  # K
    feature_dim: int = 2048  # D
    num_classes: int = 1601  # C, with the background
    dtype: str = "float16"  # of features and class probabilities in the file
    shuffled: bool = False  # also write regions_shuffled.h5


def _number(default: float, reason: str, low: float = 0.0, high: float = float("inf")) -> Any:
    return dataclasses.field(default=default, metadata={"reason": reason, "low": low, "high": high})


def _share(default: float, reason: str) -> Any:
    return _number(default, reason, 0, 1)


def _choice(default: str, reason: str, *choices: str) -> Any:
    return dataclasses.field(default=default, metadata={"reason": reason, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """The assumptions of both worlds.

    Raises:
        UserError: lists all values outside their ranges.
    """

    # --- objects that no caption mentions
    unmentioned_mean: float = _number(8.0, "mean number (Poisson) of unmentioned objects: about as many as mentioned")
    unmentioned_unnamed: float = _share(0.5, "share of them of classes that captions never name (1,120 of 1,600)")
    # --- regions
    partial_share: float = _share(0.25, "share of the remaining regions with a part of an object; others: background")
    # --- what a region shows
    visibility_power: float = _number(0.5, "objects show by (largest IoU)^this: 0.75 gives 0.87, 0.25 a half")
    dominance_power: float = _number(3.0, "objects share a region by IoU^this: one of 0.7 has 13 times that of 0.3")
    adjective_weight: float = _number(
        0.6, "length of the adjectives' vector (class: 1): kinds differ more than colours"
    )
    scene_weight: float = _number(0.7, "length of the vector of the captions' other words, which every region shows")
    feature_noise: float = _number(0.11, "noise of V's latent numbers at area 0.1: linear probes find half the classes")
    feature_overlap: float = _share(0.0, "share of V's noise that belongs to the place, common to overlapping regions")
    feature_window: float = _number(
        0.3, "standard deviation, in sides, of the bell by which a region sees the places around its centre", 0.05, 2
    )
    feature_evenness: float = _share(0.0, "power that evens out latent lengths: 0 leaves them, 1 makes all equal")
    feature_bias: float = _number(0.0, "added to V before the cut at zero: 0 leaves half of the numbers zero", -3, 3)
    feature_bias_area: float = _number(0.0, "bias grows by this times log (area / 0.1): large regions have fewer zeros")
    feature_power: float = _number(1.0, "V is raised to this power: above 1 a few large numbers dominate", 0.2, 5)
    feature_bias_noise: float = _number(0.0, "standard deviation of the bias: some regions are sparser than others")
    feature_norm: float = _number(0.0, "root mean square of V at area 0.1 (norm / sqrt(D)); 0: no norm is set")
    feature_norm_noise: float = _number(0.0, "standard deviation of the norm's log, when feature_norm is given")
    feature_norm_area: float = _number(0.0, "the norm grows by (area / 0.1)^this, when feature_norm is given", -1, 1)
    class_noise: float = _number(0.125, "noise of c, independent of V's, so that c has information that V lacks")
    size_confusion: float = _number(0.2, "noise grows by (area / 0.1)^-this: small regions are confused more")
    class_kinship: float = _number(0.3, "common part of related classes' vectors (man, guy, male)", 0, 0.9)
    sharpness: float = _number(18.0, "logits are this times the match with a class: clear objects get 0.9 and more")
    background_logit: float = _number(10.5, "logit of the background: above what only noise gives the best class")
    latent_dim: int = _number(128, "latent numbers of V, which get the noise, so that D changes nothing", 8, 4096)
    detector_dim: int = _number(64, "the same for the class probabilities", 8, 4096)

    def __post_init__(self) -> None:
        raise_all(self._problems(), "The assumptions of the simulated data set cannot be used")

    def _problems(self) -> list[str]:
        problems = []
        for field in dataclasses.fields(self):
            value, limits = getattr(self, field.name), field.metadata
            if "choices" in limits:
                if value not in limits["choices"]:
                    problems.append(f"{field.name} must be one of {', '.join(limits['choices'])}, got {value!r}")
            elif not limits["low"] <= value <= limits["high"]:
                problems.append(f"{field.name} must be between {limits['low']:g} and {limits['high']:g}, got {value}")
        return problems


@dataclasses.dataclass(frozen=True)
class CaptionsAssumptions(Assumptions):
    """The world of captions: boxes are also simulated. The ``salience`` of an object is
    mention_weight * (share of captions that mention it) + (1 - mention_weight) * (how early), both in 0..1.
    """

    # --- objects: where they are and how large
    mention_weight: float = _share(0.6, "weight of how often against how early: often varies less by chance")
    size_gain: float = _number(2.0, "growth of log area with salience: a factor of 7, as from bystander to portrait")
    size_noise: float = _number(0.7, "standard deviation of log area: a factor of 2; size only hints at mentions")
    centring: float = _share(0.6, "how much salience moves an object to the middle (1: salience 1 is centred)")
    height_noise: float = _number(0.10, "standard deviation of a centre's height around its class's, in heights")
    aspect_noise: float = _number(0.25, "standard deviation of log (width / height) around the class's usual one")
    places_boxed: float = _share(0.5, "share of places (street, beach) with a box; in Entities many are scenes without")
    # --- objects that no caption mentions
    unmentioned_shrink: float = _number(0.2, "their log area is this much smaller than of an object of salience 0")
    unmentioned_rarity: float = _number(0.3, "classes are sampled by (mentions)^-this: seldom ones more often", 0, 3)
    rim: float = _number(1.5, "centres' distance from the middle, per axis: maximum of so many uniform numbers", 1, 20)
    # --- regions: errors around the boxes
    jitter: float = _number(0.09, "standard deviation of a best region's centre and log sides: IoU about 0.75")
    loose_jitter: float = _number(0.22, "the same for further regions of an object: IoU about 0.5")
    missed: float = _share(0.04, "share of objects without a best region: what detectors overlook")
    loose_share: float = _share(0.4, "share of the remaining regions that are loose boxes of an object")

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.loose_share + self.partial_share > 1:
            problems.append(
                f"loose_share and partial_share together must be at most 1, got {self.loose_share} and "
                f"{self.partial_share}"
            )
        return problems


@dataclasses.dataclass(frozen=True)
class AnnotationsAssumptions(Assumptions):
    """The world of real annotations: captions, phrases and boxes are real; what a detector makes of them is not.

    V and the certainty of c are calibrated by 360 real regions (``worlds.pixels.BOTTOM_UP``). What 200 images of the
    study's size give, the real value in brackets: cosine of two regions of an image by IoU, 0: 0.27 (0.27), to 0.1:
    0.35 (0.34), to 0.3: 0.59 (0.61), to 0.5: 0.79 (0.77), to 0.7: 0.93 (0.93); of two images 0.18 (0.19); zeros 0.35
    (0.34), norms vary by 0.15 (0.16), the best class has 0.42 (0.42) on average.

    Not calibrated, because the real file does not hold it: the whole distribution of c (the background's share, which
    classes are confused), how often c is right, and how well V tells classes, adjectives and scenes. Known to differ:
    the surest twentieth of the regions has 0.96 (0.80) and more; regions of different images with the same best class
    have a cosine of 0.25 (0.40, but there the class is predicted from the features).
    """

    # --- objects
    group_boxes: float = _share(
        0.5, "share of groups of several boxes whose enclosing box is one more object: detectors know people and crowd"
    )
    # --- things that no caption mentions
    distractors: str = _choice(
        "mentioned",
        "unmentioned objects are not annotated, so there are two estimates: 'mentioned' uses boxes of other pictures "
        "that one of their captions mentions; 'rim' takes small boxes far from the middle",
        "mentioned",
        "rim",
    )
    donors_drawn: int = _number(12, "random training images among which a picture finds its donors", 1, 1000)
    donors_kept: int = _number(3, "those with the most scene words in common: streets get cars and not waves", 1, 1000)
    rim_area: float = _share(0.05, "distractors 'rim': the largest area of a box")
    rim_distance: float = _share(0.5, "distractors 'rim': least distance from the middle on one axis (1: border)")
    # --- regions: errors around the boxes
    missed: float = _share(0.04, "share of large objects that the detector overlooks")
    missed_small: float = _share(
        0.12,
        "a small object is overlooked more often by this times exp(-area / missed_area): with the jitter, a region "
        "reaches 70.5 % of the real boxes below 1 % of the picture, 85.9 % of those from 1 to 5 %, 92.7 % from 5 to "
        "20 %, and 97.1 % above",
    )
    missed_area: float = _number(0.01, "area at which that has fallen to a third", 1e-6)
    most_duplicates: int = _number(2, "most further boxes of an object; detectors keep several of one thing", 0, 100)
    duplicate_chance: float = _share(0.35, "chance of each of them")
    jitter: float = _number(0.115, "median standard deviation of centre and log sides, in sides, at area 0.1")
    jitter_spread: float = _number(0.55, "standard deviation of the log of that: some regions fit well, some do not")
    jitter_area: float = _number(0.08, "jitter grows by (area / 0.1)^-this: boxes of small objects are less exact")
    suppress_iou: float = _number(0.7, "largest IoU of two regions; none of 360 real regions is above it", 0.05, 1)
    # --- replaced defaults; "real" are 360 Bottom-Up regions of 10 images (worlds.pixels.BOTTOM_UP)
    partial_share: float = _share(0.5, "share of the remaining regions with a part of an object; others: background")
    size_confusion: float = _number(0.0, "noise grows by (area / 0.1)^-this: real certainty correlates by 0.07 only")
    feature_overlap: float = _share(1.0, "share of V's noise that belongs to the place: equal boxes have equal V")
    feature_window: float = _number(
        0.23,
        "standard deviation, in sides, of the bell by which a region sees the places around its centre; real cosines "
        "of features rise with the IoU of two regions of an image from 0.27 (0) by 0.61 (0.3) to 0.93 (0.7)",
        0.05,
        2,
    )
    feature_evenness: float = _share(1.0, "all latent vectors have one length: the zeros depend on the bias only")
    feature_bias: float = _number(0.54, "added to V before the cut at zero: of real numbers 34 % are zero", -3, 3)
    feature_bias_area: float = _number(0.15, "bias grows by this times log (area / 0.1): real zeros correlate by -0.71")
    feature_bias_noise: float = _number(0.215, "standard deviation of the bias: the real zeros' share has one of 0.11")
    feature_power: float = _number(2.6, "V is raised to this power: two images have a cosine of 0.19, not 0.45", 0.2, 5)
    feature_norm: float = _number(1.6, "root mean square of V at area 0.1: the real norm is 72 for 2,048 numbers")
    feature_norm_noise: float = _number(0.15, "standard deviation of the log of the norm: real norms vary by 16 %")
    feature_norm_area: float = _number(0.025, "norm grows by (area / 0.1)^this: real norms correlate by 0.26", -1, 1)
    class_noise: float = _number(0.215, "noise of c: the best class is right in about 45 % of the regions on an object")
    sharpness: float = _number(17.0, "logits are this times the match with a class: real maxima are 0.42 on average")
    background_logit: float = _number(8.0, "logit of the background; the least certain real region kept has 0.07")
