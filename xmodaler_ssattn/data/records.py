"""Build and check the mapper's records: the data of an image that does not change between epochs.

A record contains no features, because it is pickled for every sample that a worker makes:

* ``image_id``
* ``captions``: token ids; in training cut at MODEL.MAX_SEQ_LEN, in val and test only if the attention on the
  reference captions is requested
* ``sigma``, ``has_boxes``: with GroundingLoss, the target of beta and whether there are ground-truth boxes; one row
  per image or per caption, as set in LOSSES.GROUNDING.TARGETS
* ``pairs``: with supervision per word, the pairs of each caption, see ``word_pairs.word_pairs``
* ``spans``: with ProphetCaptioner, the phrases of each caption: (n, 2) int64, start and end
* ``row``: added by the mapper when the regions are resident on the device
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from xmodaler_ssattn.data.annotations import Box, Caption, Image, open_annotations
from xmodaler_ssattn.data.pair_file import PairFile
from xmodaler_ssattn.data.sigma import beta_target
from xmodaler_ssattn.data.vocabulary import Vocabulary, read_vocabulary
from xmodaler_ssattn.data.word_pairs import word_pairs
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.store import RegionStore

if TYPE_CHECKING:
    from xmodaler_ssattn.data.mapper import Flickr30kEntitiesDataset

T = TypeVar("T")

CLASSIFIER_HINT = (
    "recompute them from the features with the detector's classifier: "
    "`xmodaler prepare regions --classifier FILE` (it takes the pack, or the region file itself; `xmodaler prepare "
    "classifier` writes FILE), or, when only the attention reads them, set MODEL.SS_ATTENTION.SEMANTIC_INPUT v"
)
# Maximum length of reference captions when the attention on them is requested (GVD's seq_length for that).
MAX_REFERENCE_WORDS = 40
IDS_SHOWN = 10


@dataclasses.dataclass
class Collected:
    """The result of ``collect_records``."""

    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of the images that can be used
    problems: list[str] = dataclasses.field(default_factory=list)  # a sentence for each missing or unfitting item
    store: RegionStore | None = None  # the region file, when it can be opened
    cut_captions: int = 0  # training captions that are longer than the limit


def collect_records(mapper: Flickr30kEntitiesDataset) -> Collected:
    """Read the files that a mapper names, and build the records that it turns into samples."""
    found = Collected()
    vocabulary = _attempt(found.problems, read_vocabulary, mapper.vocabulary_file)
    store = found.store = _attempt(found.problems, RegionStore, mapper.regions_file)
    opened = _attempt(found.problems, open_annotations, mapper.annotation_file, mapper.stage)
    pairs = None
    if mapper.stage == "train" and mapper.pair_rule is not None and mapper.pairs_file and not found.problems:
        files = mapper.annotation_file, mapper.vocabulary_file
        pairs = _attempt(found.problems, PairFile, mapper.pairs_file, mapper.stage, *files, store)
    found.problems += _contradictions(mapper, vocabulary, store)
    if opened is None:
        return found
    absent, empty = [], []
    try:
        for image in opened[1]:
            image_id = image["image_id"]
            if store is None:
                continue
            if image_id not in store:
                absent.append(image_id)
            elif store.num_boxes(image_id) == 0:
                empty.append(image_id)
            elif vocabulary is not None:
                found.records.append(_record(mapper, image, vocabulary, found, pairs))
    except UserError as error:
        found.problems.append(str(error))
    spans = [table for record in found.records for table in record.get("spans", ())]
    if spans and not any(map(len, spans)):
        found.problems.append(
            f"no caption in {mapper.annotation_file} has a phrase, and MODEL.META_ARCHITECTURE reads the words of "
            "phrases; write the file with `xmodaler prepare annotations` from captions whose phrases are marked"
        )
    if pairs is not None and not found.problems:
        found.problems += pairs.others(record["image_id"] for record in found.records)
    if found.records and not any(len(part) for record in found.records for part in record.get("pairs", [[0]])):
        found.problems.append(
            f"no object word in {mapper.pairs_file or mapper.annotation_file} has a region, so WordAttentionLoss (or "
            "PointerLoss) has nothing to learn. `xmodaler prepare annotations --entities DIR` writes annotations with "
            "boxes; or remove the loss from LOSSES.NAMES"
        )
    for image_ids, what in (
        (absent, f"not in the region file {mapper.regions_file}; add them with `xmodaler prepare regions`"),
        (empty, f"without a region in {mapper.regions_file}; attention needs at least one"),
    ):
        if image_ids:
            shown = ", ".join(map(str, image_ids[:IDS_SHOWN])) + (", ..." if len(image_ids) > IDS_SHOWN else "")
            count = f"{len(image_ids)} image{'s' if len(image_ids) > 1 else ''}"
            found.problems.append(f"{count} of the {mapper.stage} split {what}: {shown}")
    return found


def _attempt(problems: list[str], function: Callable[..., T], *arguments: Any) -> T | None:
    """The function's value, or None and one more problem."""
    try:
        return function(*arguments)
    except UserError as error:
        problems.append(str(error))
        return None


def _contradictions(
    mapper: Flickr30kEntitiesDataset, vocabulary: Vocabulary | None, store: RegionStore | None
) -> list[str]:
    """Contradictions between the config and the files."""
    problems = []
    if vocabulary is not None and vocabulary.model_size != mapper.vocab_size:
        problems.append(
            f"MODEL.VOCAB_SIZE is {mapper.vocab_size}, but {mapper.vocabulary_file} has {len(vocabulary)} "
            f"words; set it to {vocabulary.model_size} (words + 1)"
        )
    if store is None:
        return problems
    if store.feature_dim != mapper.inputs.feature_dim:
        problems.append(
            f"MODEL.VISUAL_EMBED.IN_DIM is {mapper.inputs.feature_dim}, but the features in {mapper.regions_file} "
            f"have {store.feature_dim} numbers; set it to {store.feature_dim}"
        )
    wanted = mapper.inputs.num_classes
    if wanted is not None and store.num_classes is None:
        problems.append(
            "the config reads class probabilities (for the attention, MODEL.VISUAL_EMBED or INFERENCE.REGION_RULE), "
            f"but {mapper.regions_file} has none; " + CLASSIFIER_HINT
        )
    elif wanted is not None and store.num_classes != wanted:
        problems.append(
            f"MODEL.SS_ATTENTION.NUM_CLASSES is {wanted}, but the class probabilities in {mapper.regions_file} have "
            f"{store.num_classes} columns; set it to {store.num_classes}"
        )
    return problems


def _record(
    mapper: Flickr30kEntitiesDataset, image: Image, vocabulary: Vocabulary, found: Collected, pairs: PairFile | None
) -> dict[str, Any]:
    record: dict[str, Any] = {"image_id": image["image_id"]}
    captions = image["captions"]
    if mapper.stage != "train":
        if mapper.gt_attention:
            record["captions"] = [vocabulary.encode(caption["tokens"][:MAX_REFERENCE_WORDS]) for caption in captions]
        return record
    words = mapper.max_seq_len
    record["captions"] = [vocabulary.encode(caption["tokens"][:words]) for caption in captions]
    found.cut_captions += sum(len(caption["tokens"]) > words for caption in captions)
    max_regions = mapper.inputs.max_regions
    if mapper.targets is not None:
        rows = [_target_phrases(caption, words) for caption in captions]
        if mapper.targets == "image":
            rows = [[phrase for row in rows for phrase in row]]
        regions_px = found.store.boxes_px(image["image_id"], max_regions)
        record["sigma"] = np.stack([beta_target(regions_px, row, mapper.sigma, mapper.min_iou) for row in rows])
        record["has_boxes"] = np.array([len(row) > 0 for row in rows], dtype=np.float32)
    if pairs is not None:
        record["pairs"] = pairs.of_image(image, words, max_regions)
    elif mapper.pair_rule is not None and not mapper.pairs_file:
        regions_px = found.store.boxes_px(image["image_id"], max_regions)
        record["pairs"] = [word_pairs(regions_px, caption, words, mapper.pair_rule) for caption in captions]
    if mapper.spans:
        for caption in captions:
            spans = [(p["start"], min(p["end"], words)) for p in caption["phrases"] if p["start"] < words]
            record.setdefault("spans", []).append(np.array(spans, dtype=np.int64).reshape(-1, 2))
    return record


def _target_phrases(caption: Caption, words: int) -> list[list[Box]]:
    """Boxes of each phrase whose object word is among the first ``words``; GVD drops the others too."""
    return [
        phrase["boxes"]
        for phrase in caption["phrases"]
        if phrase["boxes"] and (phrase["head"] if phrase["head"] is not None else phrase["end"] - 1) < words
    ]
