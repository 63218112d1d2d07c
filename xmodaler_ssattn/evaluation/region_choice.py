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
from xmodaler_ssattn.host import EMBEDDING_REGISTRY
from xmodaler_ssattn.packs.region_classes import class_columns, region_classes
from xmodaler_ssattn.packs.region_file import read_header
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.region_rules import CLASS, CLASS_RULES, RULES, RegionRule

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
    if name in CLASS_RULES:
        return class_rule(cfg, name, f"INFERENCE.REGION_RULE {name}")
    return RegionRule(name, overlap=inference.UNION_OVERLAP)


def class_rule(cfg: Any, name: str, user: str) -> RegionRule:
    """The rule of classes ``name`` for a config; ``user`` is what needs it, for messages. Raises UserError."""
    object_words, columns = columns_of_classes(cfg, user)
    class_of = object_words.among(read_lines(cfg.INFERENCE.VOCAB, "Vocabulary"))
    found = {word: columns.get(label, ()) for word, label in class_of.items()}
    return RegionRule(name, cfg.INFERENCE.REGION_CLASS_POWER, found)


def columns_of_classes(cfg: Any, user: str) -> tuple[ObjectWords, dict[str, tuple[int, ...]]]:
    """The object words of a model, and for each of their classes the columns of the class probabilities that name it.

    Raises:
        UserError: INFERENCE.VOCAB is empty, the columns have no names, or no one of these is a class of the captions.
    """
    words = cfg.INFERENCE.VOCAB
    if not words:
        raise UserError(f"{user} needs INFERENCE.VOCAB, the words of the model.")
    classes = cfg.MODEL.SS_ATTENTION.NUM_CLASSES
    regions = cfg.DATALOADER.REGIONS
    attributes = read_header(regions).attributes if regions and Path(regions).is_file() else None
    names = region_classes(Path(words).parent, classes, cfg.INFERENCE.REGION_CLASSES or None, attributes)
    if names is None:
        raise UserError(
            f"{user} needs the names of the {classes - 1} classes of the regions' class probabilities (MODEL."
            "SS_ATTENTION.NUM_CLASSES without the background). Set INFERENCE.REGION_CLASSES to the detector's list, "
            "one name per line."
        )
    object_words = ObjectWords.of_model(words)
    columns = class_columns(names, object_words.classes, object_words.lemmas)
    if not columns:
        raise UserError(
            f"{user}: none of the {len(names)} names of the region classes "
            f"({', '.join(names[:5])}, ...) is an object class of the captions. Set INFERENCE.REGION_CLASSES to a list "
            "with the same words as the captions, or do without the class names."
        )
    return object_words, columns


def check_classes_of(cfg: Any, records: Sequence[Mapping[str, Any]]) -> None:
    """``check_class_names`` for a config whose rule or whose visual embedding uses the names; else nothing."""
    name, embedding = cfg.INFERENCE.get("REGION_RULE"), cfg.MODEL.VISUAL_EMBED.NAME
    user = f"INFERENCE.REGION_RULE {name}"
    if name not in CLASS_RULES:
        known = embedding in EMBEDDING_REGISTRY
        if not (known and getattr(EMBEDDING_REGISTRY.get(embedding), "reads_class_names", False)):
            return
        name, user = CLASS, f"MODEL.VISUAL_EMBED.NAME {embedding}"
    store = RegionStore(cfg.DATALOADER.REGIONS or cfg.DATALOADER.FEATS_FOLDER)
    check_class_names(class_rule(cfg, name, user), store, records, cfg.MODEL.SS_ATTENTION.NUM_CLASSES, user)


def check_class_names(
    rule: RegionRule,
    store: RegionStore,
    records: Sequence[Mapping[str, Any]],
    num_classes: int,
    user: str = "INFERENCE.REGION_RULE",
) -> None:
    """Refuse a rule of classes whose class names do not fit the regions: on annotated images, the probability of an
    object's class must be higher on the regions that hit its box than on the others.

    Args:
        records: grounding references, see ``grounding``.
        num_classes: MODEL.SS_ATTENTION.NUM_CLASSES.
        user: what uses the names, for messages.

    Raises:
        UserError: the regions have no class probabilities, another number of them, or those of other classes.
    """
    if store.num_classes != num_classes:
        raise UserError(
            f"{user} needs {num_classes} class probabilities per region "
            f"(MODEL.SS_ATTENTION.NUM_CLASSES), but {store.path} has {store.num_classes or 'none'}. `xmodaler prepare "
            "regions --classifier FILE` computes them from the features."
        )
    right, wrong = [], []
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
            f"{user}: the names of the region classes do not fit {store.path}. On annotated images the "
            f"probability of an object's class is {np.mean(right):.3f} on its regions and {np.mean(wrong):.3f} on the "
            "others. Set INFERENCE.REGION_CLASSES to the list of the detector that made the regions, in its order."
        )
