"""From a captions file to a data set: the official layout, the annotations prepared from it, and a region file.

folder/Sentences/ID.txt  Annotations/ID.xml  split_ids_flickr30k_entities.json    the official layout, no pictures
folder/{train,val,test}.json  vocabulary.txt  captions_*.json  grounding_*.json   prepared from it
folder/regions.h5  [regions_shuffled.h5]  simulated.json                          regions, manifest
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.data.official_writer import ANNOTATIONS, SENTENCES, write_splits
from xmodaler_ssattn.data.prepare import prepare_annotations
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import atomic_directory, read_json, sha256_of, write_json
from xmodaler_ssattn.packs.store import RegionWriter
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.worlds.simulated.captions import Talk, choose_images, learn_habits, listen, read_captions
from xmodaler_ssattn.worlds.simulated.official_files import write_official
from xmodaler_ssattn.worlds.simulated.parameters import Assumptions
from xmodaler_ssattn.worlds.simulated.regions import Regions, make_regions
from xmodaler_ssattn.worlds.simulated.scene import Scene, make_scene
from xmodaler_ssattn.worlds.simulated.shuffled import write_shuffled
from xmodaler_ssattn.worlds.simulated.world import World, make_world

SCHEMA = "xmodaler_ssattn/simulated"
VERSION = 1
MANIFEST, REGIONS, SHUFFLED = "simulated.json", "regions.h5", "regions_shuffled.h5"
SOURCE = "simulated from captions: neither boxes nor features come from pictures"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the caller chooses beside the assumptions.

    Attributes:
        seed: of the world.
        counts: images of train, val, test; None takes all that the captions file has.
        num_regions, feature_dim, num_classes: K, D, C (with the background).
        dtype: of features and class probabilities in the file.
        shuffled: also write regions_shuffled.h5.
    """

    seed: int = 0
    counts: tuple[int, int, int] | None = None
    num_regions: int = 36
    feature_dim: int = 2048
    num_classes: int = 1601
    dtype: str = "float16"
    shuffled: bool = False


def simulate(
    captions_file: str | os.PathLike,
    out_dir: str | os.PathLike,
    settings: Settings,
    assumptions: Assumptions,
    classes: Sequence[str],
    lemma: Callable[[str], str],
    *,
    splits: Mapping[str, Sequence[int]] | None = None,
    workers: int = 1,
) -> tuple[Mapping[str, Any], bool]:
    """Write the data set; the folder appears whole. One that was made with the same arguments is left as it is.

    Args:
        captions_file: of ``captions.read_captions``.
        classes: the named classes.
        lemma: word -> lemma.
        splits: split -> ids, instead of the captions file's own.
        workers: processes; the result is the same.

    Returns:
        the manifest, and whether the folder was made by this call.

    Raises:
        UserError: unusable input; not enough images; a folder that holds something else.
    """
    out_dir = Path(out_dir)
    captions = read_captions(captions_file)
    chosen = choose_images(captions, splits, settings.counts, settings.seed)
    wanted = {
        "schema": SCHEMA,
        "version": VERSION,
        "captions_sha256": sha256_of(captions_file),
        "classes": list(classes),
        "settings": {**dataclasses.asdict(settings), "counts": [len(chosen[split]) for split in SPLITS]},
        "assumptions": dataclasses.asdict(assumptions),
        "images_sha256": hash_of(chosen),
    }
    found = finished(out_dir, wanted)
    if found is not None:
        return found, False
    check_sizes(settings, len(classes), chosen)
    lemma, names = functools.cache(lemma), frozenset(classes)
    # What people usually say is learnt from all training captions, so that it does not depend on how many are taken.
    everyone = (
        splits["train"] if splits is not None else [i for i, entry in captions.items() if entry["split"] == "train"]
    )
    ids = [image_id for split in SPLITS for image_id in chosen[split]]
    talks = {
        image_id: listen(captions[image_id]["captions"], names, lemma)
        for image_id in progress(sorted({*everyone, *ids}), desc="reading captions")
    }
    habits = learn_habits(talks[image_id] for image_id in everyone)
    words = {word for talk in talks.values() for word in talk.others} | {
        word for talk in talks.values() for item in talk.objects for word in item.modifiers
    }
    world = make_world(
        assumptions,
        settings.seed,
        classes,
        words,
        habits,
        num_regions=settings.num_regions,
        feature_dim=settings.feature_dim,
        num_classes=settings.num_classes,
    )
    with writable(out_dir) as folder:
        for name in (SENTENCES, ANNOTATIONS):
            (folder / name).mkdir()
        write_splits(folder, chosen)
        reached = []
        written = write_regions(
            folder / REGIONS,
            world,
            ids,
            lambda image_id: make_image(world, image_id, talks[image_id]),
            settings.dtype,
            workers,
            source=SOURCE,
        )
        for image_id, scene, regions in written:
            write_official(folder, image_id, talks[image_id], scene)
            if scene.mentioned:
                overlap = iou(scene.boxes_px[: scene.mentioned], regions.boxes_px).max(axis=1)
                reached.append(overlap[np.array(scene.boxed, dtype=bool)] > 0.5)
        reach = float(np.concatenate(reached).mean()) if reached else 0.0
        prepared = prepare_annotations(
            folder,
            chosen,
            lemma=lemma,
            sentences_dir=folder / SENTENCES,
            annotations_dir=folder / ANNOTATIONS,
            classes=list(classes),
            source="simulated",
            workers=workers,
        )
        if settings.shuffled:
            write_shuffled(folder / REGIONS, folder / SHUFFLED, chosen, settings.seed)
        manifest = {
            **wanted,
            "source": SOURCE,
            "seed": settings.seed,
            "vocabulary_size": prepared.vocabulary.model_size,
            "num_classes": settings.num_classes,
            "feature_dim": settings.feature_dim,
            "num_regions": settings.num_regions,
            "reach": round(reach, 4),
            "counts": {split: dict(counts) for split, counts in prepared.counts.items()},
            "files": sorted([*os.listdir(folder), MANIFEST]),
        }
        write_json(folder / MANIFEST, manifest, indent=1)
    return manifest, True


def check_sizes(settings: Settings, named: int, chosen: Mapping[str, Sequence[int]]) -> None:
    """Raise ``UserError`` for sizes that cannot be; `named` classes, `chosen` images of each split."""
    least = {"num_regions": 1, "feature_dim": 1, "num_classes": named + 1}
    raise_all(
        (
            f"{name} must be at least {value}, got {getattr(settings, name)}"
            + (f": the background and {named} named classes" if name == "num_classes" else "")
            for name, value in least.items()
            if getattr(settings, name) < value
        ),
        "The simulated regions",
    )
    if settings.shuffled and min(map(len, chosen.values())) < 2:
        raise UserError(
            "--shuffled exchanges images within a split, so each split needs two at least; there are "
            f"{[len(chosen[split]) for split in SPLITS]} in {', '.join(SPLITS)}."
        )


def hash_of(chosen: Mapping[str, Sequence[int]]) -> str:
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def writable(out_dir: Path) -> Iterator[Path]:
    try:
        if out_dir.is_dir() and not os.listdir(out_dir):
            out_dir.rmdir()  # an empty folder of the user's is as good as none
        with atomic_directory(out_dir) as folder:
            yield folder
    except OSError as error:
        raise UserError(
            f"The simulated data set cannot be written to {out_dir}: {error}. Choose another folder, or "
            "make room or rights for it."
        ) from error


def finished(out_dir: Path, wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The manifest when the folder was made with these arguments and is complete, None when there is nothing.

    Raises:
        UserError: the folder holds something else; it is never removed.
    """
    if not out_dir.exists() or (out_dir.is_dir() and not os.listdir(out_dir)):
        return None
    if not (out_dir / MANIFEST).is_file():
        raise UserError(f"{out_dir} exists and holds no {MANIFEST}; choose another folder, or remove it.")
    manifest = read_json(out_dir / MANIFEST, "The simulated data set's manifest")
    manifest = manifest if isinstance(manifest, dict) else {}
    differences = list(_differences(manifest, wanted))
    missing = [name for name in manifest.get("files", []) if not (out_dir / name).exists()]
    if differences or missing:
        reasons = differences + [f"{name} is missing" for name in missing]
        raise UserError(
            f"{out_dir} holds a simulated data set that was made otherwise ({'; '.join(reasons)}). Choose "
            "another folder, or remove it."
        )
    return manifest


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in wanted.items():
        there = found.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _differences(there, value, f"{prefix}{name}.")
        elif there != value:
            short = isinstance(value, (str, int, float)) or len(str(value)) < 60
            yield f"{prefix}{name} was {there}, now {value}" if short else f"other {prefix}{name}"


# --- images, in one process or several ----------------------------------------------------------------
Made = tuple[Scene, Regions]


def make_image(world: World, image_id: int, talk: Talk) -> tuple[Scene, Regions]:
    """One image's objects and regions. Depends on the world, the id and the captions alone."""
    scene = make_scene(world, image_id, talk)
    return scene, make_regions(world, image_id, talk, scene)


_job: tuple[Callable[[int], Made], np.dtype] | None = None  # what a forked worker finds in its memory


def _work(image_id: int) -> tuple[int, Scene, Regions]:
    make, dtype = _job
    scene, regions = make(image_id)
    return image_id, scene, Regions(regions.boxes_px, regions.features.astype(dtype), regions.class_probs.astype(dtype))


def write_regions(
    path: Path,
    world: World,
    ids: Sequence[int],
    make: Callable[[int], Made],
    dtype: str,
    workers: int,
    *,
    source: str,
) -> Iterator[tuple[int, Scene, Regions]]:
    """Write the region file, and give each image's id, objects and regions (in the file's dtype) as they are written.

    Args:
        make: image id -> its objects and regions.
        workers: processes; the result is the same.
    """
    global _job
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(
            RegionWriter(
                path,
                ids,
                world.num_regions,
                world.feature_dim,
                world.num_classes,
                feature_dtype=dtype,
                probs_dtype=dtype,
                source=source,
            )
        )
        _job = (make, np.dtype(dtype))
        stack.callback(_forget)
        if workers > 1 and sys.platform == "linux":  # a fork shares captions and world without copying them
            pool = stack.enter_context(multiprocessing.get_context("fork").Pool(workers))
            made: Iterator = pool.imap(_work, ids, chunksize=8)
        else:
            made = map(_work, ids)
        for image_id, scene, regions in progress(made, len(ids), "simulating images"):
            writer.write(image_id, scene.width, scene.height, regions.boxes_px, regions.features, regions.class_probs)
            yield image_id, scene, regions


def _forget() -> None:
    global _job
    _job = None
