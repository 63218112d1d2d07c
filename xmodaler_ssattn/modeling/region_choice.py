"""The rule of INFERENCE.REGION_RULE, with the class of every word of the vocabulary and a check of the class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.packs.region_classes import class_columns, region_classes
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.region_rules import CLASS_RULES, RULES, RegionRule

IMAGES_CHECKED = 200


def region_rule(cfg: Any) -> RegionRule:
    """The rule that a config names.

    Raises:
        UserError: an unknown rule; a rule of classes for regions whose classes have no names, or whose names do not fit
            the regions.
    """
    inference = cfg.INFERENCE
    name, power = inference.REGION_RULE, inference.REGION_CLASS_POWER
    problems = []
    if name not in RULES:
        problems.append(f"REGION_RULE: expected one of {', '.join(RULES)}; got {name!r}.")
    if not 0 <= power < float("inf"):
        problems.append(f"REGION_CLASS_POWER: expected a number >= 0, got {power!r}.")
    raise_all(problems, "INFERENCE")
    if name not in CLASS_RULES:
        return RegionRule(name)
    folder, words = Path(cfg.DATALOADER.ANNO_FOLDER), inference.VOCAB
    names = region_classes(folder, cfg.MODEL.SS_ATTENTION.NUM_CLASSES, inference.REGION_CLASSES or None)
    if names is None:
        raise UserError(
            f"INFERENCE.REGION_RULE {name} needs the names of the {cfg.MODEL.SS_ATTENTION.NUM_CLASSES - 1} classes of "
            "the regions' class probabilities. Set INFERENCE.REGION_CLASSES to the detector's list, one name per line."
        )
    if not words:
        raise UserError(f"INFERENCE.REGION_RULE {name} needs INFERENCE.VOCAB, the words of the model.")
    object_words = ObjectWords.of_model(words)
    class_of = object_words.among(read_lines(words, "Vocabulary"))
    columns = class_columns(names, class_of.values(), object_words.lemmas)
    check_columns(columns, cfg.DATALOADER.REGIONS or cfg.DATALOADER.FEATS_FOLDER, folder / "grounding_val.json")
    found = {word: columns[label] for word, label in class_of.items() if label in columns}
    return RegionRule(name, power, found)


def check_columns(columns: Mapping[str, Sequence[int]], regions: str | Path, reference: str | Path) -> None:
    """Refuse class names that do not fit the regions.

    On annotated images the probability of an object's class must be higher on the regions that hit its box than on the
    others. Nothing is checked without both files.

    Raises:
        UserError: it is not; gives both means.
    """
    if not (Path(regions).is_file() and Path(reference).is_file()):
        return
    store = RegionStore(regions)
    if store.num_classes is None:
        raise UserError(
            f"INFERENCE.REGION_RULE needs class probabilities, but {regions} has none. `xmodaler prepare regions "
            "--classifier FILE` computes them from the features."
        )
    right, wrong = [], []
    for record in read_reference(reference).images[:IMAGES_CHECKED]:
        if int(record["image_id"]) not in store:
            continue
        found = store.read(int(record["image_id"]))
        objects = {
            (name, tuple(box))
            for caption in record["captions"]
            for name, box in zip(caption["process_clss"], caption["process_bnd_box"])
            if name in columns
        }
        for name, box in objects:
            probability = found.class_probs[:, list(columns[name])].sum(axis=1)  # type: ignore[index]
            hit = iou(np.asarray([box]), found.boxes_px)[0] > IOU_THRESHOLD
            right += probability[hit].tolist()
            wrong += probability[~hit].tolist()
    if right and wrong and np.mean(right) <= np.mean(wrong):
        raise UserError(
            f"INFERENCE.REGION_RULE: the names of the region classes do not fit {regions}. On annotated images the "
            f"probability of an object's class is {np.mean(right):.3f} on its regions and {np.mean(wrong):.3f} on the "
            "others. Set INFERENCE.REGION_CLASSES to the list of the detector that made the regions, in its order."
        )
