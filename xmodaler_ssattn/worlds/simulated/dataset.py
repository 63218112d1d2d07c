"""Write the folder of a simulated data set of either world: the choice of images, the manifest, and the region files.

folder/regions.h5  [regions_shuffled.h5]  simulated.json

The shuffled file is for the leak test (`tools/simulate_regions.py`): it has the regions of whole images exchanged among
the images of a split. If the CIDEr of a model that is evaluated on it is well above that of the references of exchanged
images, something other than the regions identifies the image.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.data.prepare import PrepareReport
from xmodaler_ssattn.data.splits import image_rank
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import atomic_directory, write_json
from xmodaler_ssattn.packs.store import Regions, RegionStore, RegionWriter
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.worlds.making import differences, map_in_processes, read_manifest
from xmodaler_ssattn.worlds.simulated.assumptions import Assumptions, Settings
from xmodaler_ssattn.worlds.simulated.world import Layout, generator

SCHEMA = "xmodaler_ssattn/simulated"
VERSION = 1
MANIFEST, REGIONS, SHUFFLED = "simulated.json", "regions.h5", "regions_shuffled.h5"
SHUFFLED_SOURCE = "simulated, then exchanged among images of a split: no image has its own regions"
Simulated = tuple[Layout, Regions]
Splits = Mapping[str, Sequence[int]]  # train, val and test -> image ids


class WorldSource(abc.ABC):
    """The input of a simulation, and the parts that are specific to its world."""

    title: str  # one sentence about the real and simulated parts, for the manifest and the region file
    digest: Mapping[str, Any]  # the identity of the input, by its name in the manifest
    classes: Sequence[str]  # in the order of the columns of c after the background
    split_of: Mapping[int, str]  # image id -> its split in the input
    splits: Splits | None  # split -> ids, instead of the input's own
    assumptions: Assumptions

    @abc.abstractmethod
    def build(self, settings: Settings, chosen: Splits) -> Callable[[int], Simulated]:
        """Sample the world; returns image id -> its layout and regions, as ``map_in_processes`` takes it."""

    @abc.abstractmethod
    def write(
        self, folder: Path, chosen: Splits, written: Iterator[Simulated], workers: int
    ) -> tuple[PrepareReport, Mapping[str, Any]]:
        """Write the annotations; returns the report on them, and entries of the manifest.

        The region files are written while ``written`` is iterated over.
        """


def simulate(
    source: WorldSource, out_dir: str | os.PathLike, settings: Settings, *, workers: int = 1
) -> tuple[Mapping[str, Any], bool]:
    """Write the data set atomically. A folder that was made with the same arguments is not changed.

    Returns:
        the manifest, and whether the folder was made by this call. The number of `workers`, processes, changes nothing.

    Raises:
        UserError: the input cannot be used, there are not enough images, or the folder has other content.
    """
    out_dir = Path(out_dir)
    chosen = choose_images(source.split_of, source.splits, settings.counts, settings.seed)
    wanted = {
        "schema": SCHEMA,
        "version": VERSION,
        **source.digest,
        "classes": list(source.classes),
        "settings": {**dataclasses.asdict(settings), "counts": [len(chosen[split]) for split in SPLITS]},
        "assumptions": dataclasses.asdict(source.assumptions),
        "images_sha256": hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest(),
    }
    found = finished(out_dir, wanted)
    if found is not None:
        return found, False
    check_sizes(settings, source.classes, chosen)
    make = source.build(settings, chosen)
    with new_folder(out_dir) as folder:
        written = write_regions(folder, settings, chosen, make, workers, source.title)
        report, entries = source.write(folder, chosen, written, workers)
        manifest = {
            **wanted,
            "source": source.title,
            "seed": settings.seed,
            "vocabulary_size": report.vocabulary.model_size,
            "num_classes": settings.num_classes,
            "feature_dim": settings.feature_dim,
            "num_regions": settings.num_regions,
            "counts": {split: dict(counts) for split, counts in report.counts.items()},
            **entries,
            "files": sorted([*os.listdir(folder), MANIFEST]),
        }
        write_json(folder / MANIFEST, manifest, indent=1)
    return manifest, True


def choose_images(
    split_of: Mapping[int, str], splits: Splits | None, counts: Sequence[int] | None, seed: int
) -> dict[str, list[int]]:
    """Choose the images of each split, split -> ids, ascending; fewer images are a subset of more.

    Args:
        split_of: image id -> its split in the input.
        splits: split -> ids to use instead of the input's own splits.
        counts: images of train, val, test; None: all.
        seed: of the random order of a split's images, of which the first are used.

    Raises:
        UserError: a split lacks images, or names images without captions.
    """
    if splits is None:
        splits = {split: [image_id for image_id, own in split_of.items() if own == split] for split in SPLITS}
    chosen, problems = {}, []
    for split, count in zip(SPLITS, counts or (None,) * len(SPLITS)):
        ids = splits[split]
        absent = [image_id for image_id in ids if image_id not in split_of]
        if absent:
            problems.append(f"{len(absent)} images of the split {split} have no captions, e.g. {absent[:5]}")
        wanted = len(ids) if count is None else count
        if not 1 <= wanted <= len(ids):
            problems.append(f"{wanted} images of the split {split} are wanted, it has {len(ids)}; at least 1 is needed")
        chosen[split] = sorted(sorted(ids, key=lambda image_id: image_rank(seed, image_id))[:wanted])
    raise_all(problems, "The images cannot be chosen")
    return chosen


def finished(out_dir: Path, wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The manifest when the folder was made with this identity and is complete, None when there is nothing.

    Raises:
        UserError: the folder has other content; it is never removed.
    """
    if not out_dir.exists() or (out_dir.is_dir() and not os.listdir(out_dir)):
        return None
    if not (out_dir / MANIFEST).is_file():
        raise UserError(f"{out_dir} exists and does not contain {MANIFEST}. Choose another folder, or remove it.")
    manifest = read_manifest(out_dir / MANIFEST)
    reasons = list(differences(manifest, wanted))
    reasons += [f"{name} is missing" for name in manifest.get("files", []) if not (out_dir / name).exists()]
    if reasons:
        raise UserError(
            f"{out_dir} has another simulated data set ({'; '.join(reasons)}). Choose another folder, or remove it."
        )
    return manifest


def check_sizes(settings: Settings, classes: Sequence[str], chosen: Splits) -> None:
    """Raise a ``UserError`` for impossible sizes."""
    least = {"num_regions": 1, "feature_dim": 1, "num_classes": len(classes) + 1}
    raise_all(
        (
            f"{name} must be at least {value}, got {getattr(settings, name)}"
            + (f": the background and {len(classes)} named classes" if name == "num_classes" else "")
            for name, value in least.items()
            if getattr(settings, name) < value
        ),
        "The simulated regions",
    )
    if settings.shuffled and min(map(len, chosen.values())) < 2:
        raise UserError(
            "--shuffled exchanges images within a split, so each split needs at least two; there are "
            f"{[len(chosen[split]) for split in SPLITS]} in {', '.join(SPLITS)}."
        )


@contextlib.contextmanager
def new_folder(out_dir: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out_dir` when the block succeeds."""
    try:
        if out_dir.is_dir() and not os.listdir(out_dir):
            out_dir.rmdir()  # an empty folder is treated as a missing one
        with atomic_directory(out_dir) as folder:
            yield folder
    except OSError as error:
        raise UserError(
            f"The simulated data set cannot be written to {out_dir}: {error}. Choose another folder, or free some "
            "space or change the permissions."
        ) from error


# --- region files -------------------------------------------------------------------------------------
def write_regions(
    folder: Path, settings: Settings, chosen: Splits, make: Callable[[int], Simulated], workers: int, source: str
) -> Iterator[Simulated]:
    """Write the region files, and yield what ``make`` makes for each image, with regions in the file's dtype."""
    ids = [image_id for split in SPLITS for image_id in chosen[split]]
    make = functools.partial(_in_dtype, make, np.dtype(settings.dtype))
    with _writer(folder / REGIONS, ids, settings, source) as writer:
        made = map_in_processes(make, ids, workers)
        for layout, regions in progress(made, len(ids), "simulating images"):
            writer.write(**vars(regions))
            yield layout, regions
    if settings.shuffled:
        write_shuffled(folder, chosen, settings)


def _in_dtype(make: Callable[[int], Simulated], dtype: np.dtype, image_id: int) -> Simulated:
    layout, regions = make(image_id)
    features, class_probs = regions.features.astype(dtype), np.asarray(regions.class_probs, dtype=dtype)
    return layout, dataclasses.replace(regions, features=features, class_probs=class_probs)


def _writer(path: Path, ids: Sequence[int], settings: Settings, source: str) -> RegionWriter:
    sizes = settings.num_regions, settings.feature_dim, settings.num_classes
    return RegionWriter(path, ids, *sizes, feature_dtype=settings.dtype, probs_dtype=settings.dtype, source=source)


def derangement(ids: Sequence[int], seed: int, name: str) -> dict[int, int]:
    """image id -> another image's id, each used once: a random cycle through all of them, two at least."""
    circle = generator(seed, "derangement", name).permutation(np.sort(np.asarray(ids, dtype=np.int64)))
    return dict(zip(circle.tolist(), np.roll(circle, -1).tolist()))


def write_shuffled(folder: Path, splits: Splits, settings: Settings) -> None:
    """Copy the region file with every image's regions replaced by another one's.

    Boxes are scaled to the size of their new image, so that p does not change.
    """
    store = RegionStore(folder / REGIONS)
    giver: dict[int, int] = {}
    for split, members in splits.items():
        giver |= derangement(members, settings.seed, split)
    ids = store.ids.tolist()
    with _writer(folder / SHUFFLED, ids, settings, SHUFFLED_SOURCE) as writer:
        for image_id in ids:
            regions, (width, height) = store.read(giver[image_id]), store.image_size(image_id)
            factor = np.array([width / regions.width, height / regions.height] * 2, dtype=np.float32)
            writer.write(image_id, width, height, regions.boxes_px * factor, regions.features, regions.class_probs)
