"""From prepared annotations with real boxes to a data set: what people say and where it is stays real.

folder/{train,val,test}.json  vocabulary.txt  captions_*.json  grounding_*.json   the chosen part of the annotations
folder/regions.h5  [regions_shuffled.h5]  simulated.json                          regions, manifest
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import area as area_of
from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.data.classes import union_box
from xmodaler_ssattn.data.subset import select_annotations
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import sha256_of, write_json
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.worlds.pixels import BOTTOM_UP, Described, describe
from xmodaler_ssattn.worlds.simulated.annotated import Donors, Told, collect_donors, listen, make_scene, problems_of
from xmodaler_ssattn.worlds.simulated.captions import choose_images
from xmodaler_ssattn.worlds.simulated.dataset import (
    MANIFEST,
    REGIONS,
    SCHEMA,
    SHUFFLED,
    Made,
    Settings,
    check_sizes,
    finished,
    hash_of,
    writable,
    write_regions,
)
from xmodaler_ssattn.worlds.simulated.detector import detect
from xmodaler_ssattn.worlds.simulated.parameters import RealBoxes
from xmodaler_ssattn.worlds.simulated.regions import Regions, regions_of
from xmodaler_ssattn.worlds.simulated.scene import Scene
from xmodaler_ssattn.worlds.simulated.shuffled import write_shuffled
from xmodaler_ssattn.worlds.simulated.world import World, generator, make_world

VERSION = 1
SOURCE = "simulated around real boxes: captions, phrases and boxes are real, features do not come from pictures"
AREAS = (0.01, 0.05, 0.2, 1.0)  # reach is counted up to each of these shares of the picture
MEASURED_IMAGES = 200  # their regions are compared with the real ones
LISTED = 20  # ids of the images named in the manifest


def simulate_annotated(
    annotations_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    settings: Settings,
    assumptions: RealBoxes,
    lemma: Callable[[str], str],
    *,
    splits: Mapping[str, Sequence[int]] | None = None,
    workers: int = 1,
) -> tuple[Mapping[str, Any], bool]:
    """Write the data set; the folder appears whole. One that was made with the same arguments is left as it is.

    Args:
        annotations_dir: folder of ``xmodaler prepare annotations``.
        lemma: word -> lemma, for the heads of phrases without a class.
        splits: split -> ids to use, each in its own split of the annotations.
        workers: processes; the result is the same.

    Returns:
        the manifest, and whether the folder was made by this call.

    Raises:
        UserError: unusable annotations, all problems at once; not enough images; a folder that holds something else.
    """
    annotations_dir, out_dir = Path(annotations_dir), Path(out_dir)
    told, classes = _read(annotations_dir, functools.cache(lemma))
    home = {image_id: {"split": split} for split in SPLITS for image_id in told[split]}
    if splits is not None:
        strange = [i for split in SPLITS for i in splits[split] if home.get(i, {"split": split})["split"] != split]
        if strange:
            raise UserError(f"{len(strange)} images stand in another split of the annotations, e.g. {strange[:5]}.")
    chosen = choose_images(home, splits, settings.counts, settings.seed)
    wanted = {
        "schema": SCHEMA,
        "version": VERSION,
        "annotations_sha256": {split: sha256_of(annotations_dir / file_name(split)) for split in SPLITS},
        "classes": list(classes),  # in the order of the columns of c, behind the background
        "settings": {**dataclasses.asdict(settings), "counts": [len(chosen[split]) for split in SPLITS]},
        "assumptions": dataclasses.asdict(assumptions),
        "images_sha256": hash_of(chosen),
    }
    found = finished(out_dir, wanted)
    if found is not None:
        return found, False
    check_sizes(settings, len(classes), chosen)
    images = {image_id: told[split][image_id] for split in SPLITS for image_id in chosen[split]}
    # Distractors come from all training images, so that they do not depend on how many are taken.
    needed = {**told["train"], **images}
    unnamed = settings.num_classes - 1 - len(classes)
    named = frozenset(classes)
    raise_all(
        (problem for image in needed.values() for problem in problems_of(image, named, unnamed)),
        f"The annotations in {annotations_dir} cannot be simulated",
    )
    world = make_world(
        assumptions,
        settings.seed,
        classes,
        set().union(*(image.words for image in needed.values())),
        None,
        num_regions=settings.num_regions,
        feature_dim=settings.feature_dim,
        num_classes=settings.num_classes,
    )
    donors = collect_donors(told["train"].values(), assumptions)
    with writable(out_dir) as folder:
        report = select_annotations(annotations_dir, folder, chosen)
        written = write_regions(
            folder / REGIONS,
            world,
            list(images),
            lambda image_id: make_image(world, images[image_id], donors),
            settings.dtype,
            workers,
            source=SOURCE,
        )
        measured = _measure(written, images, settings)
        if settings.shuffled:
            write_shuffled(folder / REGIONS, folder / SHUFFLED, chosen, settings.seed)
        measured["phrase_words_reached"] = _words_reached(folder, measured.pop("boxes"))
        manifest = {
            **wanted,
            "source": SOURCE,
            "seed": settings.seed,
            "vocabulary_size": report.vocabulary.model_size,
            "num_classes": settings.num_classes,
            "feature_dim": settings.feature_dim,
            "num_regions": settings.num_regions,
            **measured,
            "counts": {split: dict(counts) for split, counts in report.counts.items()},
            "reasons": {field.name: field.metadata["reason"] for field in dataclasses.fields(assumptions)},
            "sha256": {name: sha256_of(folder / name) for name in sorted(os.listdir(folder))},
            "files": sorted([*os.listdir(folder), MANIFEST]),
        }
        write_json(folder / MANIFEST, manifest, indent=1)
    return manifest, True


def make_image(world: World, told: Told, donors: Donors) -> Made:
    """One image's objects and regions. Depends on the world, the donors, the id and the annotations of the image."""
    scene = make_scene(world, told, donors)
    boxes = detect(world.assumptions, world.num_regions, scene, generator(world.seed, "boxes", told.image_id))
    return scene, regions_of(world, told.image_id, told.others, scene, boxes)


def _read(folder: Path, lemma: Callable[[str], str]) -> tuple[dict[str, dict[int, Told]], list[str]]:
    """split -> image id -> what it tells; the classes."""
    missing = [file_name(split) for split in SPLITS if not (folder / file_name(split)).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a folder of annotations: {', '.join(missing)} missing. Write it with `xmodaler prepare "
            "annotations`."
        )
    told: dict[str, dict[int, Told]] = {}
    classes: dict[str, list[str]] = {}
    home: dict[int, str] = {}
    twice = []
    for split in SPLITS:
        header, images = open_annotations(folder / file_name(split), split)
        if header.get("source") == "simulated":
            raise UserError(
                f"The boxes in {folder / file_name(split)} are simulated; --annotations needs annotations made from "
                "real files by `xmodaler prepare annotations`."
            )
        classes[split] = header["classes"]
        told[split] = {
            image["image_id"]: listen(image, lemma) for image in progress(images, desc=f"reading {split} annotations")
        }
        twice += [f"image {i} stands in {home[i]} and in {split}" for i in told[split] if i in home]
        home.update(dict.fromkeys(told[split], split))
    raise_all(twice, f"The annotations in {folder} cannot be simulated")
    if any(names != classes["train"] for names in classes.values()):
        raise UserError(f"The files of {folder} have different lists of classes; prepare all splits together.")
    return told, classes["train"]


def _measure(
    written: Iterator[tuple[int, Scene, Regions]], images: Mapping[int, Told], settings: Settings
) -> dict[str, Any]:
    """Write the regions by running through `written`, and count what they reach and look like."""
    overlaps, areas, sample, boxes = [np.zeros(0)], [np.zeros(0)], [], {}
    counts: Counter[str] = Counter()
    without_box, crowded = [], []
    for image_id, scene, regions in written:
        told = images[image_id]
        real = scene.boxes_px[: scene.mentioned]
        boxes[image_id] = regions.boxes_px
        if len(real):
            overlaps.append(iou(real, regions.boxes_px).max(axis=1))
            areas.append(area_of(real) / (scene.width * scene.height))
        else:
            without_box.append(image_id)
        if len(real) > settings.num_regions:
            crowded.append(image_id)
        groups = len(told.groups)
        counts.update(
            objects=len(real),
            objects_of_no_class=sum(item.name is None for item in told.objects),
            groups=groups,
            chains=told.chains,
            chains_without_box=told.chains_without_box,
            others=len(scene.columns) - len(real),
        )
        if len(sample) < MEASURED_IMAGES:
            probs = regions.class_probs.astype(np.float32)[:, 1:].max(axis=1)
            sample.append(
                Described(regions.boxes_px, scene.width, scene.height, regions.features.astype(np.float32), probs)
            )
    overlap, area = np.concatenate(overlaps), np.concatenate(areas)
    reached, low, by_area = overlap > 0.5, 0.0, {}
    for high in AREAS:
        inside = (area > low) & (area <= high) if low else area <= high
        by_area[f"up to {high:g}"] = _share(reached[inside])
        low = high
    return {
        "reach": _share(reached),
        "reach_by_area": by_area,
        "boxes": boxes,
        "world": {
            **dict(sorted(counts.items())),
            "images_without_box": {"count": len(without_box), "first": sorted(without_box)[:LISTED]},
            "images_with_more_boxes_than_regions": {"count": len(crowded), "first": sorted(crowded)[:LISTED]},
        },
        "pixels": {"simulated": describe(sample), "bottom_up": BOTTOM_UP},
    }


def _share(found: np.ndarray) -> float | None:
    return round(float(found.mean()), 4) if len(found) else None


def _words_reached(folder: Path, boxes: Mapping[int, np.ndarray]) -> float | None:
    """Share of the object words with a box whose box (of a group, the enclosing one) a region reaches."""
    found = []
    for split in SPLITS:
        for image in open_annotations(folder / file_name(split), split)[1]:
            drawn = [
                union_box(phrase["boxes"])
                for caption in image["captions"]
                for phrase in caption["phrases"]
                if phrase["class"] is not None and phrase["boxes"]
            ]
            if drawn:
                found.append(iou(np.array(drawn), boxes[image["image_id"]]).max(axis=1) > 0.5)
    return _share(np.concatenate(found)) if found else None
