"""Digests of the files that a run uses: word list, class list, annotations and regions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import file_name
from xmodaler_ssattn.data.word_pairs import pair_rule
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.host import load_vocab
from xmodaler_ssattn.modeling.word_list import check_words, words_sha256
from xmodaler_ssattn.packs.store import RegionStore

DATASET = "Flickr30kEntitiesDataset"
# The attributes of a region file that define the meaning of its numbers. Its path and its images may change.
_DESCRIPTION = ("source", "order", "background", "vocabulary_sha256", "weights_sha256")
# Config key -> the attribute of a region file that it records.
_KEPT = {"CLASSES_SHA256": "vocabulary_sha256", "DETECTOR_SHA256": "weights_sha256"}


def record_identity(cfg: Any, where: str) -> None:
    """Fill MODEL.VOCABULARY_SHA256, CLASSES_SHA256 and DETECTOR_SHA256, or compare the values that they have.

    Raises:
        UserError: the config was written for another word list.
    """
    if Path(cfg.INFERENCE.VOCAB).is_file():
        words = words_sha256(load_vocab(cfg.INFERENCE.VOCAB)[1:])
        check_words(cfg.MODEL.VOCABULARY_SHA256, words, f"MODEL.VOCABULARY_SHA256 of {where}")
        cfg.MODEL.VOCABULARY_SHA256 = words
    described = _description(cfg)
    warn_of_other_regions(cfg, described, cfg.DATALOADER.REGIONS)
    for key, name in _KEPT.items():
        cfg.MODEL[key] = cfg.MODEL[key] or str(described.get(name, ""))


def warn_of_other_regions(cfg: Any, described: Mapping[str, Any], where: Any) -> None:
    """Warn if regions come from another detector or class list than the model was trained with.

    The digests are of whole files, so equal classes in another layout also give the warning.

    Args:
        cfg: the model's config.
        described: the attributes of a region file, or those that a detector would write.
        where: the region file or the detector's weights.
    """
    for key, what in (("DETECTOR_SHA256", "detector's weights"), ("CLASSES_SHA256", "class list")):
        trained, now = cfg.MODEL[key], str(described.get(_KEPT[key], ""))
        if trained and now and trained != now:
            logging.getLogger(__name__).warning(
                "%s: its %s (sha256 %s) are not those of the regions that the model was trained on (sha256 %s). If "
                "they differ in content, features and classes mean something else to the model, and its captions will "
                "be wrong.",
                where,
                what,
                now[:16],
                trained[:16],
            )


def data_facts(cfg: Any) -> dict[str, Any]:
    """The facts about our own data set that must be equal when a run is resumed; see ``engine/resume.py``."""
    if cfg.DATASETS.TRAIN != DATASET:
        return {}
    annotations = Path(cfg.DATALOADER.ANNO_FOLDER) / file_name("train")
    described = _description(cfg)
    pairs = cfg.LOSSES.WORD_ATTENTION.PAIRS if pair_rule(cfg) is not None else ""
    facts = {"training annotations (sha256 of train.json)": sha256_of(annotations)}
    if pairs:
        facts["word pairs (sha256 of LOSSES.WORD_ATTENTION.PAIRS)"] = sha256_of(pairs) if Path(pairs).is_file() else ""
    return facts | {f"{name} of the region file": str(described.get(name, "")) for name in _DESCRIPTION}


def _description(cfg: Any) -> Mapping[str, Any]:
    """The attributes of the region file; empty when it cannot be read, which the loader will report."""
    try:
        return RegionStore(cfg.DATALOADER.REGIONS).attributes if cfg.DATALOADER.REGIONS else {}
    except UserError:
        return {}
