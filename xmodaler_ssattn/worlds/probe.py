"""What regions tell by themselves: linear probes on V, p and c, without any captioner.

Two questions of a data set, each answered on images that the probe has not seen:

* which object is it? (the class of the annotated object that a region covers)
* is it talked about? (sigma of the region: does it answer a box of the captions)

They bound what a model can take from a single region, and tell whether positions give the answers away.
Letters: n samples, D features, C class probabilities, M classes of the annotations.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodaler_ssattn.boxes import iou, spatial_vectors
from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.data.classes import union_box
from xmodaler_ssattn.data.sigma import indicator
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.store import Regions, RegionStore

MIN_IOU = 0.5  # a region covers an object from here on; the metric's threshold
DECAYS = (1e-4, 1e-3, 1e-2)
STEPS, BATCH, LEARNING_RATE = 2000, 256, 2e-3
ALL_REGIONS_OF = 8  # one image of so many gives all its regions to the second probe: 36 each are plenty


@dataclass(frozen=True)
class Samples:
    """Regions of a split.

    Attributes:
        inputs: "V" (n, D), "p" (n, 5) and, when the file has class probabilities, "c" (n, C); float32.
        labels: (n,) int64.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray


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


def covered_objects(store: RegionStore, images: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> Samples:
    """Each annotated object with the region that covers it best, if one has an IoU above ``MIN_IOU``."""
    column = {name: i for i, name in enumerate(classes)}
    rows = []
    for image in images:
        regions = store.read(image["image_id"])
        p = spatial_vectors(regions.boxes_px, regions.width, regions.height)
        for name, boxes in objects_of(image).items():
            for overlap in iou(np.asarray(boxes), regions.boxes_px):
                best = int(overlap.argmax())
                if overlap[best] > MIN_IOU:
                    rows.append(_row(regions, p, best, column[name]))
    return _gather(rows)


def talked_about(store: RegionStore, images: Iterable[Mapping[str, Any]]) -> Samples:
    """All regions, with the paper's sigma over all captions of their image as label."""
    rows = []
    for image in images:
        regions = store.read(image["image_id"])
        p = spatial_vectors(regions.boxes_px, regions.width, regions.height)
        boxes = [box for caption in image["captions"] for phrase in caption["phrases"] for box in phrase["boxes"]]
        sigma = indicator(regions.boxes_px, np.asarray(boxes, dtype=np.float64).reshape(-1, 4))
        rows += [_row(regions, p, i, int(value)) for i, value in enumerate(sigma)]
    return _gather(rows)


def _row(regions: Regions, p: np.ndarray, i: int, label: int) -> tuple[dict[str, np.ndarray], int]:
    """Region ``i``, copied: a view would keep the whole image in memory."""
    inputs = {"V": regions.features[i].copy(), "p": p[i]}
    if regions.class_probs is not None:
        inputs["c"] = regions.class_probs[i].copy()
    return inputs, label


def _gather(rows: Sequence[tuple[dict[str, np.ndarray], int]]) -> Samples:
    labels = np.array([label for _, label in rows], dtype=np.int64)
    names = rows[0][0] if rows else ()
    return Samples({name: np.stack([inputs[name] for inputs, _ in rows]) for name in names}, labels)


def linear_scores(
    train: tuple[np.ndarray, np.ndarray],
    others: Sequence[np.ndarray],
    num_classes: int,
    decay: float,
    steps: int = STEPS,
) -> list[np.ndarray]:
    """Softmax regression by AdamW: logits, (m, M) float32, for each array of ``others`` (m, F).

    Args:
        train: inputs (n, F) float32 and labels (n,); each input is brought to mean 0 and deviation 1 over them.
        decay: share of itself that a weight loses in a step at the full rate.
    """
    x, y = torch.from_numpy(train[0]), torch.from_numpy(train[1])
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) / deviation
    shuffle = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(x.shape[1], num_classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=LEARNING_RATE, weight_decay=decay / LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    batches: Iterator[Tensor] = iter(())
    for _ in range(steps):
        chosen = next(batches, None)
        if chosen is None:
            batches = iter(torch.randperm(len(x), generator=shuffle).split(BATCH))
            chosen = next(batches)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(x[chosen]), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return [layer((torch.from_numpy(other) - mean) / deviation).numpy() for other in others]


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of (n, M) scores whose largest entry is the label."""
    return float((scores.argmax(axis=1) == labels).mean()) if len(labels) else float("nan")


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive has a larger score than a negative, ties counted half.

    Args:
        scores: (n,). labels: (n,) of 0 and 1.

    Returns:
        NaN when one of the two kinds is missing.
    """
    scores, positive = np.asarray(scores), np.asarray(labels).astype(bool)
    count, rest = int(positive.sum()), int((~positive).sum())
    if not count or not rest:
        return float("nan")
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[place]  # from 1; equal scores share the mean of their ranks
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * rest))


def probe(train: Samples, val: Samples, test: Samples, names: str, num_classes: int, steps: int = STEPS) -> np.ndarray:
    """Scores (n, M) for test by a linear probe on some inputs, e.g. "V" or "Vc"; val chooses among ``DECAYS``."""
    parts = [np.concatenate([samples.inputs[name] for name in names], axis=1) for samples in (train, val, test)]
    best: tuple[float, np.ndarray] | None = None
    for decay in DECAYS:
        on_val, on_test = linear_scores((parts[0], train.labels), parts[1:], num_classes, decay, steps)
        value = -_loss(on_val, val.labels)
        if best is None or value > best[0]:
            best = value, on_test
    assert best is not None
    return best[1]


def _loss(scores: np.ndarray, labels: np.ndarray) -> float:
    logits: Tensor = torch.from_numpy(scores)
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)))


def centrality(p: np.ndarray) -> np.ndarray:
    """Minus the distance of a region's centre from the image's, in units of the image's sides.

    Args:
        p: (n, 5), the paper's [x1, x2, y1, y2, s].
    """
    x, y = (p[:, 0] + p[:, 1]) / 2 - 0.5, (p[:, 2] + p[:, 3]) / 2 - 0.5
    return -np.hypot(x, y)


def report(train: Samples, val: Samples, test: Samples, classes: Sequence[str], steps: int = STEPS) -> dict[str, float]:
    """Which object is it? Accuracies on test by the probe's inputs, and of always saying the commonest class."""
    commonest = np.bincount(train.labels, minlength=len(classes)).argmax()
    found = {"commonest class": float((test.labels == commonest).mean())}
    for names in _combinations(train):
        found[names] = accuracy(probe(train, val, test, names, len(classes), steps), test.labels)
    return found


def report_talked_about(train: Samples, val: Samples, test: Samples, steps: int = STEPS) -> dict[str, float]:
    """Is it talked about? AUC on test, of area and centrality alone and by the probe's inputs."""
    found = {
        "area": auc(test.inputs["p"][:, 4], test.labels),
        "centrality": auc(centrality(test.inputs["p"]), test.labels),
    }
    for names in _combinations(train):
        scores = probe(train, val, test, names, 2, steps)
        found[names] = auc(scores[:, 1] - scores[:, 0], test.labels)
    return found


def _combinations(samples: Samples) -> tuple[str, ...]:
    return ("p", "V", "c", "Vc", "Vpc") if "c" in samples.inputs else ("p", "V", "Vp")


def probe_folder(
    folder: str | os.PathLike,
    regions: str | os.PathLike | None = None,
    num_images: int = 5000,
    steps: int = STEPS,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, float]]:
    """Both reports of a data set: ``class`` and ``talked_about``.

    Args:
        folder: written by `xmodaler prepare`.
        regions: another region file than its own.
        num_images: at most so many of each split, the first ones.
        say: is told how many samples each split has.

    Raises:
        UserError: an unreadable file, or a split without an annotated object that a region covers.
    """
    folder, store = Path(folder), RegionStore(regions or Path(folder) / "regions.h5")
    objects, about = [], []
    classes: list[str] = []
    for split in SPLITS:
        header, images = open_annotations(folder / file_name(split), split)
        classes = header["classes"]
        images = [image for image in islice(images, num_images) if image["image_id"] in store]
        objects.append(covered_objects(store, images, classes))
        about.append(talked_about(store, images[: max(1, num_images // ALL_REGIONS_OF)]))
        count = len(objects[-1].labels)
        say(f"{split}: {len(images):,} images, {count:,} objects with a region over them")
        if not count:
            raise UserError(f"{folder / file_name(split)}: no annotated object of these images has a region over it.")
    return {"class": report(*objects, classes, steps), "talked_about": report_talked_about(*about, steps)}
