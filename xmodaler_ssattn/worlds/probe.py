"""The information in single regions: linear probes on V, p and c, without a captioner.

Two questions about a data set, each answered on images that were not used to train the probe:

* which object is it? (the class of the annotated object that a region covers)
* is it talked about? (sigma of the region: whether it matches a box of the captions)

They bound what a model can learn from a single region, and show whether positions reveal the answers.
Letters: n regions, D features, C class probabilities, M classes of the annotations.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from xmodaler_ssattn.boxes import iou, spatial_vectors, union_box
from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.data.sigma import indicator
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.store import Regions, RegionStore

MIN_IOU = 0.5  # a region covers an object above this IoU; the metric's threshold
DECAYS = (1e-4, 1e-3, 1e-2)
STEPS, BATCH, LEARNING_RATE = 2000, 256, 2e-3
ALL_REGIONS_OF = 8  # all regions of every eighth image are used for the second probe, which is enough


@dataclass(frozen=True)
class LabelledRegions:
    """Regions of a split."""

    inputs: Mapping[str, np.ndarray]  # "V" (n, D), "p" (n, 5) and, where the file has it, "c" (n, C); float32
    labels: np.ndarray  # (n,) int64


def objects_of(image: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """class -> its boxes (xyxy pixels, each once) in all captions of an image; a phrase's boxes become their union."""
    found: dict[str, list[list[float]]] = {}
    for caption in image["captions"]:
        for phrase in caption["phrases"]:
            if phrase["class"] is not None and phrase["boxes"]:
                box, known = union_box(phrase["boxes"]), found.setdefault(phrase["class"], [])
                if box not in known:
                    known.append(box)
    return found


def covered_objects(store: RegionStore, images: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> LabelledRegions:
    """Each annotated object with the region that covers it best, if one has an IoU above ``MIN_IOU``."""
    parts = []
    for image in images:
        regions, best, labels = store.read(image["image_id"]), [], []
        for name, boxes in objects_of(image).items():
            overlap = iou(np.asarray(boxes), regions.boxes_px)
            covering = overlap.argmax(axis=1)[overlap.max(axis=1) > MIN_IOU].tolist()
            best += covering
            labels += [classes.index(name)] * len(covering)
        parts.append(_labelled(regions, best, labels))
    return _concatenated(parts)


def talked_about(store: RegionStore, images: Iterable[Mapping[str, Any]]) -> LabelledRegions:
    """All regions, with the paper's sigma over all captions of their image as label."""
    parts = []
    for image in images:
        regions = store.read(image["image_id"])
        boxes = [box for caption in image["captions"] for phrase in caption["phrases"] for box in phrase["boxes"]]
        sigma = indicator(regions.boxes_px, np.asarray(boxes, dtype=np.float64).reshape(-1, 4))
        parts.append(_labelled(regions, range(len(sigma)), sigma))
    return _concatenated(parts)


def _labelled(regions: Regions, chosen: Sequence[int], labels: Sequence[int] | np.ndarray) -> LabelledRegions:
    rows = np.asarray(chosen, dtype=np.int64)
    p = spatial_vectors(regions.boxes_px, regions.width, regions.height)
    inputs = {"V": regions.features[rows], "p": p[rows]}
    if regions.class_probs is not None:
        inputs["c"] = regions.class_probs[rows]
    return LabelledRegions(inputs, np.asarray(labels, dtype=np.int64))


def _concatenated(parts: Sequence[LabelledRegions]) -> LabelledRegions:
    names = parts[0].inputs if parts else ()
    inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in names}
    return LabelledRegions(inputs, np.concatenate([np.zeros(0, dtype=np.int64), *(part.labels for part in parts)]))


def linear_scores(
    train: tuple[np.ndarray, np.ndarray], others: Sequence[np.ndarray], num_classes: int, decay: float, steps: int
) -> list[np.ndarray]:
    """Softmax regression by AdamW: logits, (m, M) float32, for each array of ``others`` (m, F).

    Args:
        train: inputs (n, F) float32 and labels (n,); each input is normalised to mean 0 and deviation 1 over them.
        decay: weight decay per step at the full rate, as a share of the weight.
    """
    x, y = map(torch.from_numpy, train)
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) / deviation
    shuffle = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(x.shape[1], num_classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=LEARNING_RATE, weight_decay=decay / LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    batches = chain.from_iterable(torch.randperm(len(x), generator=shuffle).split(BATCH) for _ in count())
    for chosen in islice(batches, steps):
        optimizer.zero_grad()
        cross_entropy(layer(x[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return [layer((torch.from_numpy(other) - mean) / deviation).numpy() for other in others]


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive has a larger score than a negative, ties counted half.

    ``scores`` and ``labels`` (0 and 1) are (n,). NaN when there is no positive or no negative.

    >>> auc(np.array([1, 3, 2, 4]), np.array([0, 0, 1, 1]))
    0.75
    """
    positive = np.asarray(labels).astype(bool)
    count, rest = int(positive.sum()), int((~positive).sum())
    if not count or not rest:
        return float("nan")
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[place]  # from 1; equal scores share the mean of their ranks
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * rest))


Splits = Sequence[LabelledRegions]  # of train, val and test


def probe(splits: Splits, names: str, num_classes: int, steps: int = STEPS) -> np.ndarray:
    """Scores (n, M) for test by a linear probe on some inputs, e.g. "V" or "Vc"; val chooses among ``DECAYS``."""
    train, *others = (np.concatenate([split.inputs[name] for name in names], axis=1) for split in splits)
    data = train, splits[0].labels
    found = [linear_scores(data, others, num_classes, decay, steps) for decay in DECAYS]
    labels = torch.from_numpy(splits[1].labels)
    return min(found, key=lambda scores: float(cross_entropy(torch.from_numpy(scores[0]), labels)))[1]


def centrality(p: np.ndarray) -> np.ndarray:
    """Minus the distance of a region's centre from the image's, in the image's sides; p (n, 5): [x1, x2, y1, y2, s]."""
    x, y = (p[:, 0] + p[:, 1]) / 2 - 0.5, (p[:, 2] + p[:, 3]) / 2 - 0.5
    return -np.hypot(x, y)


def report_class(splits: Splits, num_classes: int, steps: int = STEPS) -> dict[str, float]:
    """Accuracies of "Which object is it?" on test by the probe's inputs, and of the commonest class."""
    labels = splits[2].labels
    found = {"commonest class": float((labels == np.bincount(splits[0].labels).argmax()).mean())}
    for names in _combinations(splits):
        found[names] = float((probe(splits, names, num_classes, steps).argmax(axis=1) == labels).mean())
    return found


def report_talked_about(splits: Splits, steps: int = STEPS) -> dict[str, float]:
    """AUC of "Is it talked about?" on test, of area or centrality only, and by the probe's inputs."""
    p, labels = splits[2].inputs["p"], splits[2].labels
    found = {"area": auc(p[:, 4], labels), "centrality": auc(centrality(p), labels)}
    for names in _combinations(splits):
        scores = probe(splits, names, 2, steps)
        found[names] = auc(scores[:, 1] - scores[:, 0], labels)
    return found


def _combinations(splits: Splits) -> tuple[str, ...]:
    return ("p", "V", "c", "Vc", "Vpc") if "c" in splits[0].inputs else ("p", "V", "Vp")


def probe_folder(
    folder: str | os.PathLike,
    regions: str | os.PathLike | None = None,
    num_images: int = 5000,
    steps: int = STEPS,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, float]]:
    """Both reports of a data set written by `xmodaler prepare`: ``class`` and ``talked_about``.

    Args:
        regions: region file, instead of the folder's own.
        num_images: maximum number of images per split.
        say: called with a line about each split.

    Raises:
        UserError: a file cannot be read, or no region covers an annotated object in a split.
    """
    folder, store = Path(folder), RegionStore(regions or Path(folder) / "regions.h5")
    objects, about = [], []
    for split in SPLITS:
        header, every = open_annotations(folder / file_name(split), split)
        classes = header["classes"]
        images = [image for image in islice(every, num_images) if image["image_id"] in store]
        objects.append(covered_objects(store, images, classes))
        about.append(talked_about(store, images[: max(1, num_images // ALL_REGIONS_OF)]))
        found = len(objects[-1].labels)
        say(f"{split}: {len(images):,} images, {found:,} objects with a region over them")
        if not found:
            raise UserError(f"{folder / file_name(split)}: no annotated object of these images has a region over it.")
    return {"class": report_class(objects, len(classes), steps), "talked_about": report_talked_about(about, steps)}
