"""The inputs that a model reads from an image's regions, for the dataset, the caption command and the checks.

A visual embedding, a decoder or a meta-architecture returns the sample keys that it reads from a class method
``reads(cfg)``; classes that read only ATT_FEATS and captions, such as the host's own, need none.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.boxes import spatial_vectors
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import DECODER_REGISTRY, EMBEDDING_REGISTRY, META_ARCH_REGISTRY, kfg
from xmodaler_ssattn.packs.store import Regions, RegionStore
from xmodaler_ssattn.region_rules import CLASS_RULES

# Sample key -> its data set in a region file; the other keys are computed.
STORED = {kfg.ATT_FEATS: "features", keys.BOXES_PX: "boxes", keys.CLASS_PROBS: "class_probs"}


class RegionInputs(NamedTuple):
    """The regions that a config's model expects."""

    feature_dim: int  # D
    num_classes: int | None  # C with background; None when class probabilities are not read
    max_regions: int | None  # only the first ones of an image are read; None: all


def keys_read(cfg: Any) -> set[str]:
    """The sample keys that the classes named by a config read in addition to those that every model reads."""
    read: set[str] = set()
    for registry, name in (
        (EMBEDDING_REGISTRY, cfg.MODEL.VISUAL_EMBED.NAME),
        (DECODER_REGISTRY, cfg.MODEL.DECODER),
        (META_ARCH_REGISTRY, cfg.MODEL.META_ARCHITECTURE),
    ):
        if name and name in registry:  # an unknown name is refused where the model is built
            read |= getattr(registry.get(name), "reads", lambda cfg: set())(cfg)
    return read


def region_inputs(cfg: Any, stage: str = "test") -> RegionInputs:
    """The inputs for a config, from the classes that it names; those of a rule of classes only outside of training."""
    read = keys_read(cfg)
    if stage != "train" and cfg.INFERENCE.REGION_RULE in CLASS_RULES:
        read.add(keys.CLASS_PROBS)
    limit = cfg.DATALOADER.MAX_FEAT_NUM
    return RegionInputs(
        cfg.MODEL.VISUAL_EMBED.IN_DIM,
        cfg.MODEL.SS_ATTENTION.NUM_CLASSES if keys.CLASS_PROBS in read else None,
        limit if limit > 0 else None,
    )


def region_sample(regions: Regions, inputs: RegionInputs, source: str | os.PathLike) -> dict[str, Any]:
    """The region part of a sample, with keys and shapes as in ``keys.py`` without the batch dimension.

    V and c are tensors, which are passed from a worker to the trainer through shared memory; small values are arrays.
    ``source`` is the origin of the regions, for messages.

    Raises:
        UserError: the image has no region, or a number is not finite; the message names the image.
    """
    if len(regions.boxes_px) == 0:
        raise UserError(f"Image {regions.image_id} in {source} has no region: there is nothing to attend to.")
    regions.check_numbers(source)
    keep = slice(inputs.max_regions)
    boxes = regions.boxes_px[keep]
    sample = {
        kfg.IDS: regions.image_id,
        kfg.ATT_FEATS: torch.from_numpy(regions.features[keep]),
        keys.BOXES_PX: boxes,
        keys.SPATIAL: spatial_vectors(boxes, regions.width, regions.height),
        keys.IMAGE_SIZE: np.array([regions.width, regions.height], dtype=np.float32),
    }
    if inputs.num_classes is not None:
        assert regions.class_probs is not None  # the dataset and the caption command have compared C
        sample[keys.CLASS_PROBS] = torch.from_numpy(regions.class_probs[keep])
    return sample


def stored_sample(store: RegionStore, image_id: int, inputs: RegionInputs) -> dict[str, Any]:
    """``region_sample`` of an image in a region file."""
    regions = store.read(image_id, limit=inputs.max_regions, class_probs=inputs.num_classes is not None)
    return region_sample(regions, inputs, store.path)
