"""Draws scenes in several processes; the result does not depend on how many."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.worlds.drawn.descriptors import cut_crops, describe_crops
from xmodaler_ssattn.worlds.drawn.grammar import describe
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES, COLOUR_NAMES
from xmodaler_ssattn.worlds.drawn.official_layout import write_scene
from xmodaler_ssattn.worlds.drawn.proposals import NUM_REGIONS, propose_from_scene
from xmodaler_ssattn.worlds.drawn.scenes import Scene, make_scene

OBJECT_IOU = 0.5  # a region is an object's from this overlap on, else background


@dataclass
class DrawnScene:
    """What is needed of a scene once its files are written.

    boxes_px: (K, 4) float32; descriptors: (K, E) float32; labels: (K,) int64, 0 background, else 1 + the place in
    CLASS_NAMES; colours: (K,) int64, the place in COLOUR_NAMES, -1 for background; reached: for each object, whether a
    region overlaps it by more than OBJECT_IOU.
    """

    image_id: int
    width: int
    height: int
    boxes_px: np.ndarray
    descriptors: np.ndarray
    labels: np.ndarray
    colours: np.ndarray
    reached: np.ndarray


def draw_scenes(
    folder: Path, seed: int, count: int, num_regions: int = NUM_REGIONS, workers: int | None = None
) -> Iterator[DrawnScene]:
    """Draws scenes 0..count - 1 into the official layout's folders under `folder`, in order."""
    tasks = [(folder, seed, index, num_regions) for index in range(count)]
    workers = min(_cores() if workers is None else workers, count)
    if workers <= 1:
        yield from map(_draw, tasks)
        return
    # A fork starts at once and needs nothing of the main module; elsewhere than on Linux it is not safe.
    method = "fork" if sys.platform == "linux" else "spawn"
    with multiprocessing.get_context(method).Pool(workers) as pool:
        yield from pool.imap(_draw, tasks, chunksize=4)


def label_regions(boxes_px: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a detector would be told of each region, by its largest overlap with an object: `DrawnScene`'s fields
    labels, colours and reached."""
    kinds = np.asarray([1 + CLASS_NAMES.index(item.kind.name) for item in scene.objects], dtype=np.int64)
    colours = np.asarray([COLOUR_NAMES.index(item.colour) for item in scene.objects], dtype=np.int64)
    overlaps = iou(boxes_px, np.asarray([item.box_px for item in scene.objects]))
    nearest, is_object = overlaps.argmax(axis=1), overlaps.max(axis=1) > OBJECT_IOU
    return (
        np.where(is_object, kinds[nearest], 0),
        np.where(is_object, colours[nearest], -1),
        overlaps.max(axis=0) > OBJECT_IOU,
    )


def _draw(task: tuple[Path, int, int, int]) -> DrawnScene:
    folder, seed, index, num_regions = task
    scene = make_scene(seed, index)
    picture = write_scene(folder, scene, describe(scene))
    boxes = propose_from_scene(scene, num_regions)
    descriptors = describe_crops(cut_crops(picture, boxes))
    return DrawnScene(scene.image_id, scene.width, scene.height, boxes, descriptors, *label_regions(boxes, scene))


def _cores() -> int:
    """Cores that this process may use: a container or a batch system often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
