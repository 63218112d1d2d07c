"""The files that a run uses: whether they exist and are intact, the sample scenes, and digests of their contents."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import file_name
from xmodaler_ssattn.data.checksums import changed_files
from xmodaler_ssattn.data.word_pairs import pair_rule
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.host import load_vocab
from xmodaler_ssattn.modeling.word_list import check_words, words_sha256
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.packs.trust import check_region_file
from xmodaler_ssattn.worlds.drawn import draw_dataset
from xmodaler_ssattn.worlds.drawn.drawn_dataset import MANIFEST
from xmodaler_ssattn.worlds.making import read_manifest

DATASET = "Flickr30kEntitiesDataset"
# The attributes of a region file that define the meaning of its numbers. Its path and its images may change.
_DESCRIPTION = ("source", "order", "background", "vocabulary_sha256", "weights_sha256")
# Config key -> the attribute of a region file that it records.
_KEPT = {"CLASSES_SHA256": "vocabulary_sha256", "DETECTOR_SHA256": "weights_sha256"}


def check_files(cfg: Any) -> None:
    """Refuse missing files of our data set, all at once; their contents are checked when they are read."""
    annotations, regions = "`xmodaler prepare annotations`", "`xmodaler prepare regions`"
    problems = []
    for stage in ("TRAIN", "VAL", "TEST"):
        if cfg.DATASETS[stage] != DATASET:
            continue
        wanted = [
            ("INFERENCE.VOCAB", cfg.INFERENCE.VOCAB, annotations),
            ("DATALOADER.REGIONS", cfg.DATALOADER.REGIONS, regions),
            ("DATALOADER.ANNO_FOLDER", Path(cfg.DATALOADER.ANNO_FOLDER) / f"{stage.lower()}.json", annotations),
        ]
        if stage != "TRAIN":
            key = f"{stage}_ANNFILE"
            wanted.append((f"INFERENCE.{key}", cfg.INFERENCE[key], annotations))
        problems += [
            f"{key}: the file {path} does not exist; {command} writes it."
            for key, path, command in wanted
            if not Path(path).is_file()
        ]
    raise_all(dict.fromkeys(problems), "Data files are missing (--data DIR sets all paths at once)")


def changed_data(cfg: Any) -> tuple[list[str], bool]:
    """One sentence for each data file that has changed since it was written, and whether the region file is intact.

    Reads all of them once, about 1 s per GB.
    """
    if DATASET not in (cfg.DATASETS.TRAIN, cfg.DATASETS.VAL, cfg.DATASETS.TEST):
        return [], True
    problems = changed_files(cfg.DATALOADER.ANNO_FOLDER)
    try:
        check_region_file(cfg.DATALOADER.REGIONS)
    except UserError as error:
        return [*problems, str(error)], False
    return problems, True


def prepare_sample(cfg: Any, *, given: bool = False) -> None:
    """Draw the sample scenes if the config is one of theirs and they do not exist yet.

    MODEL.VOCAB_SIZE and MODEL.SS_ATTENTION.NUM_CLASSES, which depend on the number of scenes, are set from the data.

    Args:
        given: the user named the folder: scenes in it are used as they are, whatever their number.
    """
    if not cfg.DATALOADER.SAMPLE_SCENES:
        return
    folder = Path(cfg.DATALOADER.ANNO_FOLDER)
    if given and (manifest_file := folder / MANIFEST).is_file():
        manifest = read_manifest(manifest_file)
        count = manifest["parameters"]["num_images"]
        if count != cfg.DATALOADER.SAMPLE_SCENES:
            print(f"--data: the {count} scenes in {folder} are used, not {cfg.DATALOADER.SAMPLE_SCENES}.", flush=True)
            cfg.DATALOADER.SAMPLE_SCENES = count
    else:
        if not folder.exists():
            wanted = cfg.DATALOADER.SAMPLE_SCENES
            print(f"The sample scenes do not exist yet: drawing {wanted} into {folder}.", flush=True)
        feature_dim = cfg.MODEL.VISUAL_EMBED.IN_DIM
        manifest, _ = draw_dataset(folder, num_images=cfg.DATALOADER.SAMPLE_SCENES, feature_dim=feature_dim)
    cfg.MODEL.VOCAB_SIZE = manifest["vocabulary_size"]
    cfg.MODEL.SS_ATTENTION.NUM_CLASSES = manifest["num_classes"]


def record_identity(cfg: Any, where: str) -> None:
    """Fill MODEL.VOCABULARY_SHA256, CLASSES_SHA256 and DETECTOR_SHA256; refuse or warn if they have other values."""
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
        described: the attributes of a region file, or those that a detector would write.
        where: the region file or the detector's weights.
    """
    for key, what in (("DETECTOR_SHA256", "detector's weights"), ("CLASSES_SHA256", "class list")):
        trained, now = cfg.MODEL[key], str(described.get(_KEPT[key], ""))
        if trained and now and trained != now:
            logging.getLogger(__name__).warning(
                "%s: its %s (sha256 %s) are not those of the regions that the model was trained on (sha256 %s). If "
                "they differ in content, features and classes mean something else to the model, and its captions will "
                "be wrong.", where, what, now[:16], trained[:16],
            )  # fmt: skip


def data_facts(cfg: Any) -> dict[str, Any]:
    """The facts about our own data set that must be equal when a run is resumed; see ``engine/resume.py``."""
    if cfg.DATASETS.TRAIN != DATASET:
        return {}
    described = _description(cfg)
    pairs = cfg.LOSSES.WORD_ATTENTION.PAIRS if pair_rule(cfg) is not None else ""
    annotations = Path(cfg.DATALOADER.ANNO_FOLDER) / file_name("train")
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
