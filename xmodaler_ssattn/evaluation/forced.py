"""Grounding of the reference captions themselves: attention accuracy under teacher forcing, also by the place and kind
of the object word, and reach of the regions.

Records as in ``grounding.py``. All scores are divided by the number of annotated words, not of predicted ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou_gvd
from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.grounding import record_of

UNKNOWN = "unk"  # the vocabulary's UNK, lower-cased
PLACES = ("1st", "2nd", "3rd")
LATER = "4th or later"
# The classes whose phrases Flickr30k Entities marks as people, or as clothing, more often than as anything else
# (counted over all its captions); all other classes are "other".
_PEOPLE = (
    "adult artist athlete audience baby band bicyclist biker boy bride cheerleader chef child class climber clown "
    "couple cowboy crew crowd customer cyclist dancer daughter doctor driver drummer family fan father female "
    "firefighter fireman friend gentleman girl goalie groom group guard guitarist guy gymnast hiker individual "
    "infant jockey kid lady male man member mother motorcyclist musician officer onlooker opponent parade passenger "
    "pedestrian people performer person pitcher player policeman racer referee rider runner singer skateboarder "
    "skater skier snowboarder soldier someone son spectator student surfer swimmer teacher team teammate teenager "
    "toddler tourist vendor woman worker"
)
_CLOTHING = (
    "apron attire backpack bag bandanna belt bikini blouse boot cap clothes clothing coat collar costume dress garb "
    "glass glove goggles harness hat headband headphone heel helmet hoodie jacket jeans jersey jumpsuit leash mask "
    "necklace orange outfit outfits overalls pajamas pants pink purse ring robe sandal scarf shirt shoe shorts "
    "skirt sneaker sock stripe suit sunglass sweater sweatshirt swimsuit t-shirt tie top trunk umbrella uniform "
    "vest wetsuit"
)
PEOPLE, CLOTHING = frozenset(_PEOPLE.split()), frozenset(_CLOTHING.split())
KINDS = ("people", "clothing", "other")


def forced_sentences(
    image_id: int, captions: Sequence[Mapping[str, Any]], forced: Sequence[GroundedCaption]
) -> tuple[dict[str, Any], ...]:
    """GVD's gt-mode sentences: at each annotated word, its class and the box attended to under teacher forcing.

    The forced captions contain the reference's non-empty tokens, possibly cut at the model's maximum length; an
    annotated word after the cut is left out, which the metric counts as a miss.

    Args:
        captions: the image's reference captions, see ``grounding``.
        forced: one for each of them, in their order.

    Raises:
        UserError: the number of captions or a word differs from the reference.
    """
    if len(captions) != len(forced):
        raise UserError(
            f"image {image_id}: {len(forced)} forced captions for {len(captions)} of the grounding reference; "
            "do the annotations and the reference come from the same `xmodaler prepare`?"
        )
    sentences = []
    for caption, said in zip(captions, forced):
        positions = [i for i, token in enumerate(caption["tokens"]) if token != ""]
        words = [word.text.lower() for word in said.words]
        written = [caption["tokens"][i].lower() for i in positions][: len(words)]
        if len(words) > len(written) or any(a != b for a, b in zip(words, written) if a != UNKNOWN):
            raise UserError(
                f"image {image_id}: the forced caption {str(said)!r} is not the reference's {' '.join(written)!r}; do "
                "the annotations and the reference come from the same `xmodaler prepare`?"
            )
        box_at = {position: word.box_px for position, word in zip(positions, said.words)}
        kept = [(i, name) for i, name in zip(caption["process_idx"], caption["process_clss"]) if i in box_at]
        sentences.append(record_of((name, i, list(box_at[i])) for i, name in kept))
    return tuple(sentences)


@dataclass(frozen=True)
class ForcedMatches:
    """One row per annotated word of the reference; all arrays have length n."""

    classes: tuple[str, ...]  # that occur
    image_ids: tuple[int, ...]  # the reference's images, in its order
    image: np.ndarray  # (n,) int64, row of the image in the reference
    label: np.ndarray  # (n,) int64, index into ``classes``
    place: np.ndarray  # (n,) int64, the number of annotated words before it in its caption
    hit: np.ndarray  # (n,) bool, whether the predicted box overlaps the annotated one by more than 0.5


def match_forced(
    reference: Sequence[Mapping[str, Any]], predictions: Mapping[str, Sequence[Mapping[str, Any]]]
) -> ForcedMatches:
    """Compare the box of each annotated word with the box predicted at its position (GVD's ``gt_grd_eval``).

    A position that the prediction lacks (a caption cut short, an image left out) is a miss. If a prediction has a
    position twice, the first is used. The classes of the prediction are not used, only its positions.

    Args:
        reference: see ``grounding``.
        predictions: ``{str(image_id): [one sentence per reference caption, in the reference's order]}``.

    Raises:
        UserError: an image has a different number of sentences than of reference captions.
    """
    labels: dict[str, int] = {}
    rows: list[tuple[int, int, int]] = []
    compared, predicted_px, reference_px = [], [], []
    for image, record in enumerate(reference):
        sentences = predictions.get(str(record["image_id"]))
        captions = record["captions"]
        if sentences is not None and len(sentences) != len(captions):
            raise UserError(
                f"image {record['image_id']}: expected {len(captions)} sentences, one per reference caption, "
                f"got {len(sentences)}."
            )
        for number, caption in enumerate(captions):
            at: dict[int, Sequence[float]] = {}
            if sentences is not None:
                for position, box in zip(sentences[number]["idx_in_sent"], sentences[number]["bbox"]):
                    at.setdefault(position, box)
            place = {position: number for number, position in enumerate(sorted(caption["process_idx"]))}
            for position, name, box in zip(caption["process_idx"], caption["process_clss"], caption["process_bnd_box"]):
                if position in at:
                    compared.append(len(rows))
                    predicted_px.append(at[position])
                    reference_px.append(box)
                rows.append((image, labels.setdefault(name, len(labels)), place[position]))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    hit = np.zeros(len(rows), dtype=bool)
    hit[compared] = iou_gvd(predicted_px, reference_px) > IOU_THRESHOLD
    ids = tuple(record["image_id"] for record in reference)
    return ForcedMatches(tuple(labels), ids, table[:, 0], table[:, 1], table[:, 2], hit)


def attention_accuracy(
    matches: ForcedMatches, *, undefined: float = math.nan, image_weights: np.ndarray | None = None
) -> float:
    """The share of hits of each class that occurs, averaged over classes, as a fraction (``gt_accuracy``).

    Args:
        undefined: the value when nothing is annotated; GVD's script gives NaN there.
        image_weights: (images,) the weight of each reference image; default 1.
    """
    image_weights = np.ones(len(matches.image_ids)) if image_weights is None else image_weights
    weights, size = np.asarray(image_weights, dtype=np.float64)[matches.image], len(matches.classes)
    total = np.bincount(matches.label, weights, minlength=size)
    hits = np.bincount(matches.label, matches.hit * weights, minlength=size)
    seen = total > 0
    return float(np.mean(hits[seen] / total[seen])) if seen.any() else undefined


def kind_of(name: str) -> str:
    """ "people", "clothing" or "other"."""
    return "people" if name in PEOPLE else "clothing" if name in CLOTHING else "other"


def groups(matches: ForcedMatches) -> dict[str, np.ndarray]:
    """Name -> (n,) bool, whether each annotated word belongs to the group.

    ``all``; the first, second, third and later object words of their captions (``PLACES``, ``LATER``); the ``KINDS``;
    and each kind among the first object words and among all later ones ("people, 1st", "people, later").
    """
    kinds = np.array([kind_of(name) for name in matches.classes], dtype="U8")[matches.label]
    found = {"all": np.ones(len(matches.label), dtype=bool)}
    found |= {name: matches.place == place for place, name in enumerate(PLACES)}
    found[LATER] = matches.place >= len(PLACES)
    found |= {kind: kinds == kind for kind in KINDS}
    for kind in KINDS:
        found[f"{kind}, 1st"] = (kinds == kind) & (matches.place == 0)
        found[f"{kind}, later"] = (kinds == kind) & (matches.place > 0)
    return found


def accuracy_by_place(matches: ForcedMatches) -> dict[str, dict[str, float]]:
    """Group (see ``groups``) -> ``words``, its number of annotated words, and ``accuracy``, the share of hits.

    Without supervision, attention may ground only the first object word of a sentence; people then seem easier than
    things only because sentences begin with them. The mean is over words, not over classes as in
    ``attention_accuracy``. A group without words is left out.
    """
    return {
        name: {"words": int(chosen.sum()), "accuracy": float(matches.hit[chosen].mean())}
        for name, chosen in groups(matches).items()
        if chosen.any()
    }


def reachable_share(
    reference: Sequence[Mapping[str, Any]], regions_px: Mapping[str, np.ndarray], *, undefined: float = math.nan
) -> float:
    """Share of the annotated boxes that at least one region could hit: the upper limit of every grounding score.

    Args:
        reference: see ``grounding``; each annotated word counts once.
        regions_px: ``{str(image_id): (K, 4) boxes}``, xyxy pixels. The boxes of a missing image cannot be reached.
        undefined: the value when nothing is annotated.
    """
    reached = total = 0
    for record in reference:
        annotated = [box for caption in record["captions"] for box in caption["process_bnd_box"]]
        boxes = np.array(annotated, dtype=np.float32).reshape(-1, 4)
        total += len(boxes)
        regions = np.asarray(regions_px.get(str(record["image_id"]), ()), dtype=np.float32).reshape(-1, 4)
        if len(boxes) and len(regions):
            reached += int((iou_gvd(regions, boxes[:, None]) > IOU_THRESHOLD).any(axis=1).sum())
    return reached / total if total else undefined
