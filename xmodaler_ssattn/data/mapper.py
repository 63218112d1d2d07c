"""The registered dataset: from one image of the annotation file to one sample of the batch contract.

Everything that does not change between epochs is computed once, in ``load_data``: token ids, and for
each image the regions that answer its ground-truth boxes. A record holds nothing but small integers.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.data.annotations import file_name, open_annotations
from xmodaler_ssattn.data.device_cache import resident_regions
from xmodaler_ssattn.data.inputs import RegionInputs, region_inputs, stored_sample
from xmodaler_ssattn.data.sigma import positives, sigma_of
from xmodaler_ssattn.data.vocabulary import Vocabulary, read_vocabulary
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.fast.resident import ResidentRegions
from xmodaler_ssattn.host import DATASETS_REGISTRY, configurable, kfg
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.partners import captioner_is_grounded, refuse_parts_that_read_more, require_grounded_captioner

CLASSIFIER_HINT = (
    "recompute them from the features with the detector's classifier: "
    "`xmodaler prepare regions --classifier FILE` (it takes the pack, or the region file itself), "
    "or set MODEL.SS_ATTENTION.SEMANTIC_INPUT v"
)
TARGETS = ("image", "sentence")
SIGMAS = ("binary", "count")
CACHES = ("none", "ram", "device")
# Reference captions are followed up to here when the attention on them is asked for (GVD's seq_length for that).
MAX_REFERENCE_WORDS = 40
IDS_SHOWN = 10


@DATASETS_REGISTRY.register()
class Flickr30kEntitiesDataset:
    """Annotations + regions -> samples; built by the host's loaders as ``(cfg, stage)``.

    Args:
        stage: "train", "val" or "test".
        annotation_file, vocabulary_file, regions_file: what ``xmodaler prepare`` writes.
        seq_per_sample: S, captions drawn at random for each image and epoch.
        max_regions: take the first so many regions of an image; None takes all.
        max_seq_len: words of a caption that are kept for training.
        vocab_size: MODEL.VOCAB_SIZE, must be the vocabulary's words + 1.
        feature_dim: D that the model expects.
        num_classes: C that the model expects, or None when no slot reads class probabilities.
        targets: where sigma's boxes come from: "image" (all sentences) or "sentence"; None leaves sigma out.
        min_iou: see ``sigma.positives``.
        sigma: "binary", or "count": how many boxes have the region as their best.
        gt_attention: give the reference captions in val and test.
        cache: for training, "ram" reads the region file once at the start; "device" keeps the regions on
            ``device``, where the captioner gathers them, and samples carry a row's number instead. What does not
            fit there falls back to "ram" or "none" with a warning.
        device: MODEL.DEVICE; only read with cache "device".
        stock_samples: give samples that X-modaler's own meta-architectures read: all values tensors, with ATT_FEATS_LOC
            and G_TOKENS_TYPE.
    """

    @configurable
    def __init__(
        self,
        *,
        stage: str,
        annotation_file: str,
        vocabulary_file: str,
        regions_file: str,
        seq_per_sample: int,
        max_regions: int | None,
        max_seq_len: int,
        vocab_size: int,
        feature_dim: int,
        num_classes: int | None,
        targets: str | None,
        min_iou: float = 0.0,
        sigma: str = "binary",
        gt_attention: bool = False,
        cache: str = "none",
        device: str = "cpu",
        stock_samples: bool = False,
    ) -> None:
        for name, value, allowed in (
            ("LOSSES.GROUNDING.TARGETS", targets, (*TARGETS, None)),
            ("LOSSES.GROUNDING.SIGMA", sigma, SIGMAS),
            ("DATALOADER.CACHE", cache, CACHES),
        ):
            if value not in allowed:
                raise UserError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}.")
        if seq_per_sample < 1 or max_seq_len < 1:
            raise UserError(
                "DATALOADER.SEQ_PER_SAMPLE and MODEL.MAX_SEQ_LEN must be at least 1; "
                f"got {seq_per_sample} and {max_seq_len}."
            )
        self.stage = stage
        self.annotation_file, self.vocabulary_file, self.regions_file = annotation_file, vocabulary_file, regions_file
        self.seq_per_sample, self.max_regions, self.max_seq_len = seq_per_sample, max_regions, max_seq_len
        self.vocab_size, self.feature_dim, self.num_classes = vocab_size, feature_dim, num_classes
        self.targets, self.min_iou, self.gt_attention, self.cache = targets, min_iou, gt_attention, cache
        self.sigma = sigma
        self.device, self.stock_samples = device, stock_samples
        self._store: RegionStore | None = None
        self._resident: ResidentRegions | None = None  # held here, in the process that loaded the data
        self._resident_name: str | None = None
        self.cut_captions = 0  # training captions longer than max_seq_len, counted by collect()

    @classmethod
    def from_config(cls, cfg: Any, stage: str = "train") -> dict[str, Any]:
        cfg = completed(cfg)
        grounded = captioner_is_grounded(cfg)
        if cls.__call__ is Flickr30kEntitiesDataset.__call__:  # a derived class may add to its samples
            refuse_parts_that_read_more(cfg, cls.__name__)
        folder = Path(cfg.DATALOADER.ANNO_FOLDER)
        if cfg.DATALOADER.CACHE == "device":
            require_grounded_captioner(cfg, "DATALOADER.CACHE device", "which does not gather regions on the device")
        return {
            "stage": stage,
            "annotation_file": str(folder / file_name(stage)),
            "vocabulary_file": cfg.INFERENCE.VOCAB or str(folder / "vocabulary.txt"),
            # X-modaler's own key, in a config to which nobody could add ours.
            "regions_file": cfg.DATALOADER.REGIONS or cfg.DATALOADER.FEATS_FOLDER,
            "seq_per_sample": cfg.DATALOADER.SEQ_PER_SAMPLE,
            "max_seq_len": cfg.MODEL.MAX_SEQ_LEN,
            "vocab_size": cfg.MODEL.VOCAB_SIZE,
            **region_inputs(cfg)._asdict(),
            "targets": cfg.LOSSES.GROUNDING.TARGETS if "GroundingLoss" in cfg.LOSSES.NAMES else None,
            "min_iou": cfg.LOSSES.GROUNDING.MIN_IOU,
            "sigma": cfg.LOSSES.GROUNDING.SIGMA,
            "gt_attention": cfg.INFERENCE.GT_ATTENTION and grounded,
            "stock_samples": not grounded,
            "cache": cfg.DATALOADER.CACHE,
            "device": cfg.MODEL.DEVICE,
        }

    def __getstate__(self) -> dict[str, Any]:
        """A worker that does not share our memory gets the table's name, not the table."""
        return {**self.__dict__, "_resident": None}

    # --- once -----------------------------------------------------------------------------------------
    def load_data(self, cfg: Any) -> list[dict[str, Any]]:
        """Read and check everything; called by the host's loaders.

        Returns:
            One record an image: ``image_id``, ``captions`` (token ids), ``positives`` (region indices, one row an
            image or one a caption) and ``has_boxes``; ``row`` when the regions are resident on the device.

        Raises:
            UserError: all that is missing or does not fit, in one message.
        """
        records, problems = self.collect()
        raise_all(problems, f"The {self.stage} data cannot be used")
        if self.stage == "train":
            self._fill_cache(records)
        logging.getLogger(__name__).info(
            "%s: %d images, %d captions cut at %d words, %s",
            self.stage,
            len(records),
            self.cut_captions,
            self.max_seq_len,
            self.annotation_file,
        )
        return records

    def _fill_cache(self, records: list[dict[str, Any]]) -> None:
        cache = self.cache
        if cache == "device":
            self._resident, cache = resident_regions(
                self._store,
                [record["image_id"] for record in records],
                self.device,
                self._inputs(),
            )
        if self._resident is not None:
            self._resident_name = self._resident.name
            for row, record in enumerate(records):
                record["row"] = row
        elif cache == "ram":
            self._store.warm_up()

    def collect(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The records of the images that can be used, and a sentence for everything that is missing or does not fit."""
        self.cut_captions = 0
        problems: list[str] = []
        vocabulary = _attempt(problems, read_vocabulary, self.vocabulary_file)
        self._store = _attempt(problems, RegionStore, self.regions_file)
        opened = _attempt(problems, open_annotations, self.annotation_file, self.stage)
        problems += self._contradictions(vocabulary)
        records: list[dict[str, Any]] = []
        if opened is not None:
            absent, empty = [], []
            images = _attempt_each(problems, opened[1])
            for image in images:
                image_id = image["image_id"]
                if self._store is not None and image_id not in self._store:
                    absent.append(image_id)
                elif self._store is not None and self._store.num_boxes(image_id) == 0:
                    empty.append(image_id)
                elif self._store is not None and vocabulary is not None:
                    records.append(self._record(image, vocabulary))
            problems += self._listed(
                absent, f"not in the region file {self.regions_file}; add them with `xmodaler prepare regions`"
            )
            problems += self._listed(empty, f"without a region in {self.regions_file}; attention needs at least one")
        return records, problems

    @property
    def store(self) -> RegionStore | None:
        """The open region file; None before ``load_data``, or when it cannot be opened."""
        return self._store

    def _contradictions(self, vocabulary: Vocabulary | None) -> list[str]:
        """What the config says against what the files have."""
        problems = []
        if vocabulary is not None and vocabulary.model_size != self.vocab_size:
            problems.append(
                f"MODEL.VOCAB_SIZE is {self.vocab_size}, but {self.vocabulary_file} has {len(vocabulary)} "
                f"words; set it to {vocabulary.model_size} (words + 1)"
            )
        store = self._store
        if store is None:
            return problems
        if store.feature_dim != self.feature_dim:
            problems.append(
                f"MODEL.VISUAL_EMBED.IN_DIM is {self.feature_dim}, but the features in {self.regions_file} "
                f"have {store.feature_dim} numbers; set it to {store.feature_dim}"
            )
        if self.num_classes is not None and store.num_classes is None:
            problems.append(
                f"the config feeds class probabilities to the attention, but {self.regions_file} has none; "
                + CLASSIFIER_HINT
            )
        elif self.num_classes is not None and store.num_classes != self.num_classes:
            problems.append(
                f"MODEL.SS_ATTENTION.NUM_CLASSES is {self.num_classes}, but the class probabilities in "
                f"{self.regions_file} have {store.num_classes} columns; set it to {store.num_classes}"
            )
        return problems

    def _listed(self, image_ids: list[int], what: str) -> list[str]:
        if not image_ids:
            return []
        shown = ", ".join(map(str, image_ids[:IDS_SHOWN])) + (", ..." if len(image_ids) > IDS_SHOWN else "")
        return [f"{len(image_ids)} image{'s' if len(image_ids) > 1 else ''} of the {self.stage} split {what}: {shown}"]

    def _record(self, image: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
        record: dict[str, Any] = {"image_id": image["image_id"]}
        if self.stage != "train":
            if self.gt_attention:
                record["captions"] = _encode(image, vocabulary, MAX_REFERENCE_WORDS)
            return record
        record["captions"] = _encode(image, vocabulary, self.max_seq_len)
        self.cut_captions += sum(len(caption["tokens"]) > self.max_seq_len for caption in image["captions"])
        if self.targets is not None:
            rows = [self._boxes_of(caption) for caption in image["captions"]]
            if self.targets == "image":
                rows = [sorted({tuple(box) for row in rows for box in row})]
            regions_px = self._store.boxes_px(image["image_id"], self.max_regions)
            counted = self.sigma == "count"
            record["positives"] = [
                positives(regions_px, np.asarray(row), self.min_iou, counted).tolist() for row in rows
            ]
            record["has_boxes"] = [float(len(row) > 0) for row in rows]
        return record

    def _boxes_of(self, caption: dict[str, Any]) -> list[list[float]]:
        """Boxes of the phrases whose object word is left after cutting; GVD drops the others too."""
        kept = []
        for phrase in caption["phrases"]:
            position = phrase["head"] if phrase["head"] is not None else phrase["end"] - 1
            if position < self.max_seq_len:
                kept += phrase["boxes"]
        return kept

    # --- for every sample -------------------------------------------------------------------------------
    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """One record -> one sample, keys and shapes as in ``keys.py`` without the batch dimension.

        A tensor costs a worker's reader a file handle, some 0.1 ms each: whatever is small is an array instead.

        Raises:
            UserError: names an image that has no region, or a number that is not finite.
        """
        if self._store is None:
            self._store = RegionStore(self.regions_file)
        if "row" in record:
            image_id = record["image_id"]
            count = self._store.num_boxes(image_id)
            count = count if self.max_regions is None else min(count, self.max_regions)
            sample = {kfg.IDS: image_id, keys.RESIDENT: self._resident_name, keys.RESIDENT_ROW: record["row"]}
        else:
            sample = self._regions_of(record["image_id"])
            count = len(sample[kfg.ATT_FEATS])
        if self.stage == "train":
            self._add_captions(sample, record, count)
        elif self.gt_attention:
            sample[keys.REF_TOKENS_IDS] = [np.array([0, *ids], dtype=np.int64) for ids in record["captions"]]
        return _for_stock_captioners(sample, self.max_seq_len) if self.stock_samples else sample

    def _regions_of(self, image_id: int) -> dict[str, Any]:
        return stored_sample(self._store, image_id, self._inputs())

    def _inputs(self) -> RegionInputs:
        return RegionInputs(self.feature_dim, self.num_classes, self.max_regions)

    def _add_captions(self, sample: dict[str, Any], record: dict[str, Any], num_regions: int) -> None:
        captions = record["captions"]
        chosen = draw_captions(len(captions), self.seq_per_sample)
        sample[kfg.SEQ_PER_SAMPLE] = self.seq_per_sample
        sample[kfg.G_TOKENS_IDS] = [np.array([0, *captions[i]], dtype=np.int64) for i in chosen]
        sample[kfg.G_TARGET_IDS] = [np.array([*captions[i], 0], dtype=np.int64) for i in chosen]
        if self.targets is None:
            return
        rows = [0] if self.targets == "image" else chosen
        sample[keys.SIGMA] = np.stack([sigma_of(record["positives"][row], num_regions) for row in rows])
        sample[keys.HAS_BOXES] = np.array([record["has_boxes"][row] for row in rows], dtype=np.float32)


def _for_stock_captioners(sample: dict[str, Any], max_seq_len: int) -> dict[str, Any]:
    """A sample as X-modaler's MSCoCoDataset gives it: tensors, ATT_FEATS_LOC as (x1, y1, x2, y2, s), G_TOKENS_TYPE."""
    words = sample.get(kfg.G_TOKENS_IDS)
    types = [np.ones_like(ids) for ids in words] if words is not None else np.ones(max_seq_len, dtype=np.int64)
    x1, x2, y1, y2, area = sample[keys.SPATIAL].T
    sample = {**sample, kfg.ATT_FEATS_LOC: np.stack([x1, y1, x2, y2, area], axis=1), kfg.G_TOKENS_TYPE: types}
    tensors = {
        key: [torch.as_tensor(item) for item in value] if isinstance(value, list) else torch.as_tensor(value)
        for key, value in sample.items()
    }
    return {**tensors, kfg.IDS: sample[kfg.IDS]}


def draw_captions(count: int, wanted: int) -> list[int]:
    """Which of ``count`` captions to train on now: drawn as X-modaler draws, so that a seed gives the same ones.

    Without replacement while there are enough; else all of them behind random repetitions.
    """
    if count >= wanted:
        return random.sample(range(count), wanted)
    return random.choices(range(count), k=wanted - count) + list(range(count))


def _encode(image: dict[str, Any], vocabulary: Vocabulary, limit: int) -> list[list[int]]:
    return [vocabulary.encode(caption["tokens"][:limit]) for caption in image["captions"]]


def _attempt(problems: list[str], function: Any, *arguments: Any) -> Any:
    """The function's value, or None and one more problem."""
    try:
        return function(*arguments)
    except UserError as error:
        problems.append(str(error))
        return None


def _attempt_each(problems: list[str], items: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    try:
        yield from items
    except UserError as error:
        problems.append(str(error))
