"""The registered dataset: it turns a record of an image into a sample of the batch contract.

Everything that does not change between epochs is computed once, in ``load_data`` (see ``records``).
"""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.data.annotations import file_name
from xmodaler_ssattn.data.device_cache import resident_regions
from xmodaler_ssattn.data.inputs import RegionInputs, keys_read, region_inputs, stored_sample
from xmodaler_ssattn.data.records import collect_records
from xmodaler_ssattn.data.sigma import SIGMAS
from xmodaler_ssattn.data.word_pairs import PairRule, of_captions, pair_rule, sample_pairs
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.fast.resident import ResidentRegions
from xmodaler_ssattn.host import DATASETS_REGISTRY, configurable, kfg
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.partners import (
    captioner_is_grounded,
    losses_of,
    refuse_parts_that_read_more,
    require_grounded_captioner,
)

TARGETS = ("image", "sentence")
CACHES = ("none", "ram", "device")


@DATASETS_REGISTRY.register()
class Flickr30kEntitiesDataset:
    """Annotations + regions -> samples; built by the host's loaders as ``(cfg, stage)``.

    A training sample has the image's regions, or their row number if they are resident on the device; S of the image's
    captions, as input ids (0, w1, ..., wT) and target ids (w1, ..., wT, 0); and what the losses need: with
    GroundingLoss the regions that match ground-truth boxes (sigma), with WordAttentionLoss pairs of object words and
    regions, with ProphetCaptioner the phrases.

    Args:
        stage: "train", "val" or "test".
        annotation_file, vocabulary_file, regions_file: files written by ``xmodaler prepare``.
        seq_per_sample: S, captions sampled per image and epoch, as X-modaler does.
        inputs: what the model reads of regions, and how many per image.
        max_seq_len: words per caption that are kept for training.
        vocab_size: MODEL.VOCAB_SIZE, must be the vocabulary's words + 1.
        targets: where sigma's boxes come from: "image" (all sentences) or "sentence"; None leaves sigma out.
        min_iou, sigma: see ``sigma.beta_target``.
        pair_rule: which regions an object word is paired with; None leaves the pairs out.
        pairs_file: a file of pairs from another teacher, which replaces the rule; "": none.
        spans: return the phrases of the captions in training.
        gt_attention: return the reference captions in val and test.
        cache: for training, "ram" reads the region file once at the start; "device" keeps the regions on ``device``
            (MODEL.DEVICE), where the captioner gathers them. If they do not fit, "ram" or "none" is used, with a
            warning.
        stock_samples: return samples for X-modaler's own meta-architectures: tensors, with X-modaler's own keys.

    Attributes:
        store: the open region file; None before ``load_data``, or when it cannot be opened.
        cut_captions: training captions longer than ``max_seq_len``, counted by ``collect``.

    Raises:
        UserError: a setting that cannot work.
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
        inputs: RegionInputs,
        max_seq_len: int,
        vocab_size: int,
        targets: str | None,
        min_iou: float = 0.0,
        sigma: str = "binary",
        pair_rule: PairRule | None = None,
        pairs_file: str = "",
        spans: bool = False,
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
        self.stage, self.seq_per_sample, self.max_seq_len = stage, seq_per_sample, max_seq_len
        self.annotation_file, self.vocabulary_file, self.regions_file = annotation_file, vocabulary_file, regions_file
        self.inputs, self.vocab_size = inputs, vocab_size
        self.targets, self.min_iou, self.sigma = targets, min_iou, sigma
        self.pair_rule, self.pairs_file, self.spans = pair_rule, pairs_file, spans
        self.gt_attention, self.cache, self.device, self.stock_samples = gt_attention, cache, device, stock_samples
        self.store: Any = None  # a RegionStore, from ``collect`` or opened in a worker
        self.cut_captions = 0
        self._resident: ResidentRegions | None = None  # referenced here, in the process that loaded the data
        self._resident_name: Any = None  # a TableName

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
            # X-modaler's own key, for configs that do not have ours.
            "regions_file": cfg.DATALOADER.REGIONS or cfg.DATALOADER.FEATS_FOLDER,
            "seq_per_sample": cfg.DATALOADER.SEQ_PER_SAMPLE,
            "max_seq_len": cfg.MODEL.MAX_SEQ_LEN,
            "vocab_size": cfg.MODEL.VOCAB_SIZE,
            "inputs": region_inputs(cfg, stage),
            "targets": cfg.LOSSES.GROUNDING.TARGETS if losses_of(cfg, "GroundingLoss") else None,
            "min_iou": cfg.LOSSES.GROUNDING.MIN_IOU,
            "sigma": cfg.LOSSES.GROUNDING.SIGMA,
            "pair_rule": pair_rule(cfg),
            "pairs_file": _in_folder(cfg.LOSSES.WORD_ATTENTION.PAIRS, folder),
            "spans": keys.WORD_SPANS in keys_read(cfg),
            "gt_attention": cfg.INFERENCE.GT_ATTENTION and grounded,
            "stock_samples": not grounded,
            "cache": cfg.DATALOADER.CACHE,
            "device": cfg.MODEL.DEVICE,
        }

    def __getstate__(self) -> dict[str, Any]:
        """A worker that does not share the memory gets the table's name, not the table."""
        return {**self.__dict__, "_resident": None}

    # --- once -----------------------------------------------------------------------------------------
    def load_data(self, cfg: Any) -> list[dict[str, Any]]:
        """The checked records of all images, see ``records.collect_records``; called by the host's loaders.

        Raises:
            UserError: lists everything that is missing or does not fit.
        """
        records, problems = self.collect()
        raise_all(problems, f"The {self.stage} data cannot be used")
        if self.stage == "train":
            self._fill_cache(records)
        cut = f"{self.cut_captions} captions cut at {self.max_seq_len} words"
        logging.getLogger(__name__).info(f"{self.stage}: {len(records)} images, {cut}, {self.annotation_file}")
        return records

    def collect(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The records of the images that can be used, and a sentence for everything that is missing or does not fit."""
        found = collect_records(self)
        self.store, self.cut_captions = found.store, found.cut_captions
        return found.records, found.problems

    def _fill_cache(self, records: list[dict[str, Any]]) -> None:
        cache = self.cache
        if cache == "device":
            ids = [record["image_id"] for record in records]
            self._resident, cache = resident_regions(self.store, ids, self.device, self.inputs)
        if self._resident is not None:
            self._resident_name = self._resident.name
            for row, record in enumerate(records):
                record["row"] = row
        elif cache == "ram":
            self.store.warm_up()

    # --- for every sample -------------------------------------------------------------------------------
    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """One record -> one sample, keys and shapes as in ``keys.py`` without the batch dimension.

        A tensor costs a worker's reader a file handle, about 0.1 ms each: small values are arrays instead.

        Raises:
            UserError: an image has no region, or a number is not finite; the message names the image.
        """
        if self.store is None:  # in a worker that does not share the memory
            self.store = RegionStore(self.regions_file)
        sample = self._regions(record)
        if self.stage == "train":
            captions = record["captions"]
            chosen = sample_captions(len(captions), self.seq_per_sample)
            sample[kfg.SEQ_PER_SAMPLE] = self.seq_per_sample
            sample[kfg.G_TOKENS_IDS] = [np.array([0, *captions[i]], dtype=np.int64) for i in chosen]
            sample[kfg.G_TARGET_IDS] = [np.array([*captions[i], 0], dtype=np.int64) for i in chosen]
            if self.targets is not None:
                rows = [0] if self.targets == "image" else chosen
                sample[keys.SIGMA], sample[keys.HAS_BOXES] = record["sigma"][rows], record["has_boxes"][rows]
            if self.pair_rule is not None:
                pairs, weights = sample_pairs(record["pairs"], chosen)
                sample[keys.WORD_PAIRS], sample[keys.PAIR_WEIGHTS] = pairs, weights
            if self.spans:
                sample[keys.WORD_SPANS] = np.column_stack(of_captions(record["spans"], chosen))
        elif self.gt_attention:
            sample[keys.REF_TOKENS_IDS] = [np.array([0, *ids], dtype=np.int64) for ids in record["captions"]]
        return _for_stock_captioners(sample, self.max_seq_len) if self.stock_samples else sample

    def _regions(self, record: dict[str, Any]) -> dict[str, Any]:
        """The part of the sample that comes from regions, or the row of regions that are on the device."""
        if "row" not in record:
            return stored_sample(self.store, record["image_id"], self.inputs)
        resident = {keys.RESIDENT: self._resident_name, keys.RESIDENT_ROW: record["row"]}
        return {kfg.IDS: record["image_id"], **resident}


def _in_folder(name: str, folder: Path) -> str:
    """A file name without a folder is one of the data folder's; a path and "" are unchanged."""
    return str(folder / name) if name and Path(name).name == name and not Path(name).is_file() else name


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


def sample_captions(count: int, wanted: int) -> list[int]:
    """Sample indices of ``wanted`` of ``count`` captions as X-modaler does, so that a seed gives the same ones.

    Without replacement if there are enough; otherwise random repetitions followed by all of them.
    """
    if count >= wanted:
        return random.sample(range(count), wanted)
    return random.choices(range(count), k=wanted - count) + list(range(count))
