"""The rule of INFERENCE.REGION_RULE, with the columns of every object word, and a check of the class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.packs.region_classes import class_columns, region_classes
from xmodaler_ssattn.packs.region_file import read_header
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.region_rules import CLASS_RULES, RULES, RegionRule

IMAGES_CHECKED = 200


def region_rule(cfg: Any) -> RegionRule:
    """The rule that a config names.

    The names of the region classes are those of INFERENCE.REGION_CLASSES, else of DATALOADER.REGIONS, else of the
    vocabulary's folder.

    Raises:
        UserError: an unknown rule, or a rule of classes for regions whose classes have no names, or names of which no
            one is an object class of the captions.
    """
    inference = cfg.INFERENCE
    name, power = inference.REGION_RULE, inference.REGION_CLASS_POWER
    problems = []
    if name not in RULES:
        problems.append(f"REGION_RULE: expected one of {', '.join(RULES)}; got {name!r}.")
    if not 0 <= inference.UNION_OVERLAP < 1:
        problems.append(f"UNION_OVERLAP: expected 0 <= UNION_OVERLAP < 1, got {inference.UNION_OVERLAP!r}.")
    if not 0 <= power < float("inf"):
        problems.append(f"REGION_CLASS_POWER: expected a number >= 0, got {power!r}.")
    raise_all(problems, "INFERENCE")
    if name not in CLASS_RULES:
        return RegionRule(name, overlap=inference.UNION_OVERLAP)
    words = inference.VOCAB
    if not words:
        raise UserError(f"INFERENCE.REGION_RULE {name} needs INFERENCE.VOCAB, the words of the model.")
    classes = cfg.MODEL.SS_ATTENTION.NUM_CLASSES
    regions = cfg.DATALOADER.REGIONS
    attributes = read_header(regions).attributes if regions and Path(regions).is_file() else None
    names = region_classes(Path(words).parent, classes, inference.REGION_CLASSES or None, attributes)
    if names is None:
        raise UserError(
            f"INFERENCE.REGION_RULE {name} needs the names of the {classes - 1} classes of the regions' class "
            "probabilities (MODEL.SS_ATTENTION.NUM_CLASSES without the background). Set INFERENCE.REGION_CLASSES to "
            "the detector's list, one name per line."
        )
    object_words = ObjectWords.of_model(words)
    class_of = object_words.among(read_lines(words, "Vocabulary"))
    columns = class_columns(names, class_of.values(), object_words.lemmas)
    if not columns:
        raise UserError(
            f"INFERENCE.REGION_RULE {name}: none of the {len(names)} names of the region classes "
            f"({', '.join(names[:5])}, ...) is an object class of the captions. Use the rule argmax, or set "
            "INFERENCE.REGION_CLASSES to a list with the same words as the captions."
        )
    return RegionRule(name, power, {word: columns.get(label, ()) for word, label in class_of.items()})


def check_class_names(
    rule: RegionRule, store: RegionStore, records: Sequence[Mapping[str, Any]], num_classes: int
) -> None:
    """Refuse a rule of classes whose class names do not fit the regions.

    On annotated images the probability of an object's class must be higher on the regions that hit its box than on the
    others.

    Args:
        records: grounding references, see ``grounding``.
        num_classes: MODEL.SS_ATTENTION.NUM_CLASSES.

    Raises:
        UserError: the regions have no class probabilities, another number of them, or those of other classes.
    """
    if store.num_classes != num_classes:
        raise UserError(
            f"INFERENCE.REGION_RULE {rule.name} needs {num_classes} class probabilities per region "
            f"(MODEL.SS_ATTENTION.NUM_CLASSES), but {store.path} has {store.num_classes or 'none'}. `xmodaler prepare "
            "regions --classifier FILE` computes them from the features."
        )
    right: list[float] = []
    wrong: list[float] = []
    for record in records[:IMAGES_CHECKED]:
        if int(record["image_id"]) not in store:
            continue
        found = store.read(int(record["image_id"]))
        assert found.class_probs is not None
        objects = {
            (caption["tokens"][position].lower(), tuple(box))
            for caption in record["captions"]
            for position, box in zip(caption["process_idx"], caption["process_bnd_box"])
        }
        for word, box in objects:
            if not rule.columns.get(word):
                continue
            probability = found.class_probs[:, list(rule.columns[word])].sum(axis=1)
            hit = iou(np.asarray([box]), found.boxes_px)[0] > IOU_THRESHOLD
            right += probability[hit].tolist()
            wrong += probability[~hit].tolist()
    if right and wrong and np.mean(right) <= np.mean(wrong):
        raise UserError(
            f"INFERENCE.REGION_RULE: the names of the region classes do not fit {store.path}. On annotated images the "
            f"probability of an object's class is {np.mean(right):.3f} on its regions and {np.mean(wrong):.3f} on the "
            "others. Set INFERENCE.REGION_CLASSES to the list of the detector that made the regions, in its order."
        )
