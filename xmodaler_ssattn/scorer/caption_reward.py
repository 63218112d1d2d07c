"""The registered scorers: the reward of a sampled caption, for the trainer of ``engine/rl_trainer.py``.

X-modaler's own scorers unpickle their references and frequencies. These have its interface and its config keys:
``SCORER.NAME`` is called with a decoded batch and adds up ``SCORER.TYPES``, each a registered class with
``compute_score(references, captions)``, by ``SCORER.WEIGHTS``. References come from the training annotations.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from xmodaler_ssattn import keys
from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou_plus_one
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.data.vocabulary import END
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.host import SCORER_REGISTRY, configurable, kfg
from xmodaler_ssattn.partners import needs_attention, needs_grounded_captioner
from xmodaler_ssattn.scorer.cider import DocumentFrequencies, cider_d
from xmodaler_ssattn.scorer.references import NO_CLASS, RewardReferences, read_reward_references, references_path

logger = logging.getLogger(__name__)

GROUNDING = "Grounding"  # the name of the grounding term among the scores


@SCORER_REGISTRY.register()
class CiderD:
    """CIDEr-D with the document frequencies of the training images' references."""

    @configurable
    def __init__(self, *, frequencies: DocumentFrequencies):
        self.frequencies = frequencies

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        references = _references(completed(cfg))
        if len(references.captions) == 1:
            logger.warning(
                "%s has only one image. CIDEr-D gives weight to phrases that few images' references contain, so every "
                "caption has the reward 0; train on more images.",
                references.path,
            )
        return {"frequencies": DocumentFrequencies.of(references.captions.values())}

    def compute_score(
        self, gts: Sequence[Sequence[Sequence[int]]], res: Sequence[Sequence[int]]
    ) -> tuple[float, np.ndarray]:
        """X-modaler's interface of a scorer.

        Args:
            gts: n lists of reference captions, word ids; captions of one image may share one list object, whose
                n-grams are then counted once.
            res: n captions of word ids.

        Returns:
            (mean, (n,) float64 scores).
        """
        places: dict[int, int] = {}
        images = [places.setdefault(id(references), len(places)) for references in gts]
        by_image = list({id(references): references for references in gts}.values())
        scores = cider_d(res, images, by_image, self.frequencies)
        return float(scores.mean()) if len(scores) else 0.0, scores


@SCORER_REGISTRY.register()
class GroundedScorer:
    """A weighted sum of text scores and the share of object words whose region hits their object.

    Captions and references end with the end mark, as in X-modaler's self-critical training: a caption that stops in
    the middle of a phrase does not match the n-grams with the end mark. A caption cut at MODEL.MAX_SEQ_LEN has none.

    Args:
        references: those of the training images.
        types: names of ``scorers``, for the log.
        scorers: objects with ``compute_score(gts, res)``.
        weights: one per scorer.
        grounding_weight: the weight of the grounding term; 0 disables it.
    """

    @configurable
    def __init__(
        self,
        *,
        references: RewardReferences,
        types: Sequence[str],
        scorers: Sequence[Any],
        weights: Sequence[float],
        grounding_weight: float = 0.0,
    ):
        self.references = references
        self.types, self.scorers, self.weights = list(types), list(scorers), list(weights)
        self.grounding_weight = grounding_weight

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        check_scorer_config(cfg)
        references = _references(cfg)
        weight = cfg.SCORER.GROUNDING_WEIGHT
        if weight > 0 and not any(len(objects.classes) for objects in references.objects.values()):
            raise UserError(
                f"SCORER.GROUNDING_WEIGHT is {weight}, but no phrase of {references.path} has both a class and a box: "
                "nothing can be grounded. Set it to 0.0, or prepare the annotations with boxes."
            )
        if weight > 0 and not (references.class_of_word != NO_CLASS).any():
            raise UserError(
                f"SCORER.GROUNDING_WEIGHT is {weight}, but no word of {cfg.INFERENCE.VOCAB} names an object class of "
                f"{references.path}: no caption could be rewarded. Take both from the same `xmodaler prepare`."
            )
        return {
            "references": references,
            "types": cfg.SCORER.TYPES,
            "scorers": [SCORER_REGISTRY.get(name)(cfg) for name in cfg.SCORER.TYPES],
            "weights": cfg.SCORER.WEIGHTS,
            "grounding_weight": weight,
        }

    def __call__(self, batched_inputs: dict) -> dict:
        """Score decoded captions.

        Args:
            batched_inputs: IDS, the image id of each of the n captions; G_SENTS_IDS (n, T), word ids and 0 from the
                end on. For the grounding term also WORD_REGIONS (n, T) and, for the B images (n is a multiple of B),
                BOXES_PX (B, K, 4) and NUM_REGIONS.

        Returns:
            kfg.REWARDS: (n,) float64; and the mean of each term before weighting.

        Raises:
            UserError: an image is not in the training annotations.
        """
        ids = [int(image_id) for image_id in batched_inputs[kfg.IDS]]
        missing = dict.fromkeys(image_id for image_id in ids if not self.references.captions.get(image_id))
        if missing:
            raise UserError(
                f"No reference captions of image {', '.join(map(str, missing))} in {self.references.path}, so its "
                "captions have no reward. Take annotations and DATASETS.TRAIN from the same `xmodaler prepare`, or "
                "set SCORER.GT_PATH to training annotations with all images."
            )
        rows = batched_inputs[kfg.G_SENTS_IDS].tolist()
        captions = [up_to_the_end(row) for row in rows]
        gts = [self.references.captions[image_id] for image_id in ids]
        rewards, scores = np.zeros(len(ids)), {}
        for name, weight, scorer in zip(self.types, self.weights, self.scorers, strict=True):
            scores[name], each = scorer.compute_score(gts, captions)
            rewards += weight * np.asarray(each)
        if self.grounding_weight > 0:
            each = self._grounding(ids, captions, batched_inputs)
            scores[GROUNDING] = float(each.mean()) if len(each) else 0.0
            rewards += self.grounding_weight * each
        return {kfg.REWARDS: rewards, **scores}

    def _grounding(self, ids: list[int], captions: list[list[int]], batch: dict) -> np.ndarray:
        regions, boxes = batch[keys.WORD_REGIONS].tolist(), batch[keys.BOXES_PX].cpu().numpy()
        shares, per_image = np.zeros(len(ids)), len(ids) // len(boxes)
        for image, count in enumerate(batch[keys.NUM_REGIONS]):
            here = slice(image * per_image, (image + 1) * per_image)
            objects = self.references.objects[ids[here.start]]
            classes = [self.references.class_of_word[caption].tolist() for caption in captions[here]]
            spoken = [row[: len(caption)] for row, caption in zip(regions[here], captions[here])]
            shares[here] = grounded_share(classes, spoken, objects.classes, objects.boxes_px, boxes[image, :count])
        return shares


def grounded_share(
    word_classes: Sequence[Sequence[int]],
    word_regions: Sequence[Sequence[int]],
    object_classes: np.ndarray,
    object_boxes_px: np.ndarray,
    region_boxes_px: np.ndarray,
) -> np.ndarray:
    """The share of each caption's words naming an annotated class of the image whose region hits such an object.

    A region hits when its overlap with one of the objects of the word's class is above 0.5, in the published metric's
    convention (boxes are x2 - x1 + 1 wide). Words that name no class, or a class without a box in this image, are
    ignored, because the place of these objects is unknown.

    Args:
        word_classes, word_regions: of each word of each caption; the class is below 0 for none.
        object_classes: (G,) the image's annotated objects; G may be 0.
        object_boxes_px, region_boxes_px: (G, 4) and (K, 4), xyxy pixels.

    Returns:
        (captions,) float64, 0 to 1; 0 for a caption without such a word.
    """
    overlaps = iou_plus_one(object_boxes_px, region_boxes_px) > IOU_THRESHOLD  # (G, K)
    hits = {int(name): overlaps[object_classes == name].any(axis=0) for name in np.unique(object_classes)}
    shares = np.zeros(len(word_classes))
    for number, (classes, regions) in enumerate(zip(word_classes, word_regions, strict=True)):
        said = [bool(hits[name][region]) for name, region in zip(classes, regions, strict=True) if name in hits]
        shares[number] = sum(said) / len(said) if said else 0.0
    return shares


def up_to_the_end(ids: Sequence[int]) -> list[int]:
    """Word ids up to and including the first 0; all of them when there is none."""
    ids = list(ids)
    return ids[: ids.index(END) + 1] if END in ids else ids


def check_scorer_config(cfg: Any) -> None:
    """Refuse SCORER settings that cannot work, all at once.

    Raises UserError: lists the wrong settings, with the values to set.
    """
    scorer, problems = cfg.SCORER, []
    unknown = [name for name in scorer.TYPES if name not in SCORER_REGISTRY]
    if unknown or not scorer.TYPES:
        problems.append(f"SCORER.TYPES: expected names of registered scores such as ['CiderD'], got {scorer.TYPES!r}.")
    if len(scorer.WEIGHTS) != len(scorer.TYPES):
        problems.append(f"SCORER.WEIGHTS: expected a number for each of SCORER.TYPES, got {scorer.WEIGHTS!r}.")
    if scorer.EOS_ID != END:
        problems.append(f"SCORER.EOS_ID: expected {END}, which ends every caption here, got {scorer.EOS_ID!r}.")
    if scorer.GROUNDING_WEIGHT > 0:
        reason = "which does not return the region of a sampled word"
        name = "SCORER.GROUNDING_WEIGHT"
        problems += filter(None, [needs_grounded_captioner(cfg, name, reason), needs_attention(cfg, name)])
    if not scorer.GROUNDING_WEIGHT >= 0:
        problems.append(f"SCORER.GROUNDING_WEIGHT: expected a number >= 0, got {scorer.GROUNDING_WEIGHT!r}.")
    problems += unread_files(cfg)
    raise_all(problems, "The reward cannot be computed")


def unread_files(cfg: Any) -> list[str]:
    """Problems with the files that SCORER names; X-modaler's own defaults are pickle files."""
    problems, scorer = [], cfg.SCORER
    if scorer.GT_PATH and not scorer.GT_PATH.endswith(".json"):
        problems.append(
            f"SCORER.GT_PATH: {scorer.GT_PATH} is not an annotation file (pickle files are not read, since loading one "
            "runs any code that it contains). Set it to '' for the train.json of DATALOADER.ANNO_FOLDER."
        )
    if scorer.CIDER_CACHED:
        problems.append(
            f"SCORER.CIDER_CACHED: {scorer.CIDER_CACHED} is not read: document frequencies are counted from the "
            "training references, in a second. Set it to ''."
        )
    return problems


def _references(cfg: Any) -> RewardReferences:
    path, objects = str(references_path(cfg)), cfg.SCORER.GROUNDING_WEIGHT > 0
    return read_reward_references(path, cfg.INFERENCE.VOCAB, objects=objects, lemma_folder=cfg.DATALOADER.ANNO_FOLDER)
