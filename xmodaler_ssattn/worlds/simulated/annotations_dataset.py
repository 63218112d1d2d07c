"""The world of annotations: from prepared annotations to a data set. Captions, phrases and boxes stay real.

folder/{train,val,test}.json  vocabulary.txt  captions_*.json  grounding_*.json   the chosen part of the annotations
and what ``dataset`` writes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.data.subset import select_annotations
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.packs.store import Regions, RegionStore
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.worlds.pixels import BOTTOM_UP, describe
from xmodaler_ssattn.worlds.simulated import dataset
from xmodaler_ssattn.worlds.simulated.annotations_content import AnnotatedImage, problems_of, understand_record
from xmodaler_ssattn.worlds.simulated.annotations_layout import AnnotationsWorld, Donors, collect_donors, real_layout
from xmodaler_ssattn.worlds.simulated.appearance import regions_of
from xmodaler_ssattn.worlds.simulated.assumptions import AnnotationsAssumptions, Settings
from xmodaler_ssattn.worlds.simulated.detector import detect_real
from xmodaler_ssattn.worlds.simulated.layout import Layout
from xmodaler_ssattn.worlds.simulated.world import make_world
from xmodaler_ssattn.worlds.statistics import AREAS, region_statistics

SOURCE = "simulated around real boxes: captions, phrases and boxes are real, features do not come from pictures"
MEASURED_IMAGES = 200  # their regions are compared with the real ones
LISTED = 20  # ids of the images named in the manifest


def simulate_from_annotations(
    annotations_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    settings: Settings,
    assumptions: AnnotationsAssumptions,
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
    records, split_of, classes = _read(annotations_dir, functools.cache(lemma))
    if splits is not None:
        strange = [i for split in SPLITS for i in splits[split] if split_of.get(i, split) != split]
        if strange:
            raise UserError(f"{len(strange)} images are in another split of the annotations, e.g. {strange[:5]}.")
    chosen = dataset.choose_images(split_of, splits, settings.counts, settings.seed)
    source = {"annotations_sha256": {split: sha256_of(annotations_dir / file_name(split)) for split in SPLITS}}
    wanted = dataset.identity(source, classes, settings, assumptions, chosen)
    found = dataset.finished(out_dir, wanted)
    if found is not None:
        return found, False
    dataset.check_sizes(settings, classes, chosen)
    ids = [image_id for split in SPLITS for image_id in chosen[split]]
    # Distractors come from all training images, so that they do not depend on how many are taken.
    training = [records[image_id] for image_id, split in split_of.items() if split == "train"]
    needed = {record.image_id: record for record in (*training, *(records[image_id] for image_id in ids))}.values()
    unnamed, named = settings.num_classes - 1 - len(classes), frozenset(classes)
    raise_all(
        (problem for record in needed for problem in problems_of(record, named, unnamed)),
        f"The annotations in {annotations_dir} cannot be simulated",
    )
    world = make_world(settings, assumptions, classes, set().union(*(record.words for record in needed)))
    donors = collect_donors(training, assumptions)
    with dataset.new_folder(out_dir) as folder:
        report = select_annotations(annotations_dir, folder, chosen)
        make = functools.partial(_simulate, world, records, donors)
        written = dataset.write_regions(folder / dataset.REGIONS, settings, ids, make, workers, SOURCE)
        chosen_records = [records[image_id] for image_id in ids]
        counts = _count((layout for layout, _ in written), chosen_records, settings.num_regions)
        if settings.shuffled:
            dataset.write_shuffled(folder, chosen, settings)
        manifest = dataset.write_manifest(
            folder,
            wanted,
            SOURCE,
            settings,
            report,
            _measure(folder, ids, counts),
            reasons={field.name: field.metadata["reason"] for field in dataclasses.fields(assumptions)},
            sha256={name: sha256_of(folder / name) for name in sorted(os.listdir(folder))},
        )
    return manifest, True


def _simulate(
    world: AnnotationsWorld, records: Mapping[int, AnnotatedImage], donors: Donors, image_id: int
) -> dataset.Simulated:
    return simulate_annotated(world, records[image_id], donors)


def simulate_annotated(world: AnnotationsWorld, image: AnnotatedImage, donors: Donors) -> tuple[Layout, Regions]:
    """One image's objects and regions. Depends only on the world, the donors, the id and the image's annotations."""
    layout = real_layout(world, image, donors)
    rng = world.random("boxes", image.image_id)
    boxes = detect_real(world.assumptions, world.settings.num_regions, layout, rng)
    return layout, regions_of(world, image.image_id, image.others, layout, boxes)


def _read(folder: Path, lemma: Callable[[str], str]) -> tuple[dict[int, AnnotatedImage], dict[int, str], list[str]]:
    """Image id -> what its record says, image id -> split, classes."""
    missing = [file_name(split) for split in SPLITS if not (folder / file_name(split)).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a folder of annotations: {', '.join(missing)} missing. Write it with `xmodaler prepare "
            "annotations`."
        )
    records: dict[int, AnnotatedImage] = {}
    split_of: dict[int, str] = {}
    classes, twice = [], []
    for split in SPLITS:
        header, images = open_annotations(folder / file_name(split), split)
        if header.get("source") == "simulated":
            raise UserError(
                f"The boxes in {folder / file_name(split)} are simulated; --annotations needs annotations made from "
                "real files by `xmodaler prepare annotations`."
            )
        classes.append(header["classes"])
        for image in progress(images, desc=f"reading {split} annotations"):
            record = understand_record(image, lemma)
            if split_of.setdefault(record.image_id, split) != split:
                twice.append(f"image {record.image_id} is in {split_of[record.image_id]} and in {split}")
            records[record.image_id] = record
    raise_all(twice, f"The annotations in {folder} cannot be simulated")
    if any(names != classes[0] for names in classes):
        raise UserError(f"The files of {folder} have different lists of classes; prepare all splits together.")
    return records, split_of, classes[0]


def _count(layouts: Iterable[Layout], records: Sequence[AnnotatedImage], num_regions: int) -> dict[str, Any]:
    """What the images hold; the layouts come in the order of the records."""
    counts: Counter[str] = Counter()
    without_box, crowded = [], []
    for layout, record in zip(layouts, records, strict=True):
        objects = len(record.objects)
        if not objects:
            without_box.append(record.image_id)
        if objects > num_regions:
            crowded.append(record.image_id)
        counts.update(
            objects=objects,
            objects_of_no_class=sum(item.name is None for item in record.objects),
            groups=len(record.groups),
            chains=record.chains,
            chains_without_box=record.chains_without_box,
            others=len(layout.columns) - objects,
        )
    return {
        **dict(sorted(counts.items())),
        "images_without_box": {"count": len(without_box), "first": sorted(without_box)[:LISTED]},
        "images_with_more_boxes_than_regions": {"count": len(crowded), "first": sorted(crowded)[:LISTED]},
    }


def _measure(folder: Path, ids: Sequence[int], world: dict[str, Any]) -> dict[str, Any]:
    """What the regions reach and look like."""
    store = RegionStore(folder / dataset.REGIONS)
    images = chain.from_iterable(open_annotations(folder / file_name(split), split)[1] for split in SPLITS)
    found = {
        name: None if math.isnan(value) else round(value, 4) for name, value in region_statistics(images, store).items()
    }
    return {
        "reach": found["reach"],
        "reach_by_area": {f"up to {high:g}": found[f"reach_to_{high:g}"] for high in AREAS},
        "world": world,
        "pixels": {
            "simulated": describe([store.read(image_id) for image_id in ids[:MEASURED_IMAGES]]),
            "bottom_up": BOTTOM_UP,
        },
        "phrase_words_reached": found["reach_of_words"],
    }
