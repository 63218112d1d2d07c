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
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.data.written import PrepareReport, select_annotations
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.worlds.pixels import BOTTOM_UP, describe
from xmodaler_ssattn.worlds.simulated.annotations_world import (
    AnnotatedImage,
    Donors,
    collect_donors,
    problems_of,
    real_layout,
    understand_record,
)
from xmodaler_ssattn.worlds.simulated.assumptions import AnnotationsAssumptions, Settings
from xmodaler_ssattn.worlds.simulated.dataset import REGIONS, Simulated, Splits, WorldSource
from xmodaler_ssattn.worlds.simulated.detector import detect_real, regions_of
from xmodaler_ssattn.worlds.simulated.world import World, make_world
from xmodaler_ssattn.worlds.statistics import AREAS, region_statistics

MEASURED_IMAGES = 200  # their regions are compared with the real ones
LISTED = 20  # ids of the images named in the manifest


class AnnotationsSource(WorldSource):
    """A folder of ``xmodaler prepare annotations`` with real boxes.

    Args:
        lemma: word -> lemma, for the heads of phrases without a class.
        splits: split -> ids to use, each in its own split of the annotations.

    Raises:
        UserError: unusable annotations, all problems at once.
    """

    title = "simulated around real boxes: captions, phrases and boxes are real, features do not come from pictures"

    def __init__(
        self,
        folder: str | os.PathLike,
        lemma: Callable[[str], str],
        assumptions: AnnotationsAssumptions,
        splits: Splits | None = None,
    ) -> None:
        self.folder, self.assumptions, self.splits = Path(folder), assumptions, splits
        self._records, self.split_of, self.classes = _read(self.folder, functools.cache(lemma))
        strange = [i for split, ids in (splits or {}).items() for i in ids if self.split_of.get(i, split) != split]
        if strange:
            raise UserError(f"{len(strange)} images are in another split of the annotations, e.g. {strange[:5]}.")
        self.digest = {"annotations_sha256": {split: sha256_of(self.folder / file_name(split)) for split in SPLITS}}

    def build(self, settings: Settings, chosen: Splits) -> Callable[[int], Simulated]:
        # Distractors come from all training images, so that they do not depend on how many are taken.
        training = [self._records[image_id] for image_id, split in self.split_of.items() if split == "train"]
        others = [self._records[image_id] for split in SPLITS if split != "train" for image_id in chosen[split]]
        unnamed, named = settings.num_classes - 1 - len(self.classes), frozenset(self.classes)
        raise_all(
            (problem for record in training + others for problem in problems_of(record, named, unnamed)),
            f"The annotations in {self.folder} cannot be simulated",
        )
        words = set().union(*(record.words for record in training + others))
        world = make_world(settings, self.assumptions, self.classes, words)
        donors = collect_donors(training, self.assumptions)
        return functools.partial(simulate_annotated, world, self._records, donors)

    def write(
        self, folder: Path, chosen: Splits, written: Iterator[Simulated], workers: int
    ) -> tuple[PrepareReport, dict[str, Any]]:
        report = select_annotations(self.folder, folder, chosen)
        counts = _count(written, self._records)
        return report, {
            **_measure(folder),
            "world": counts,
            "reasons": {field.name: field.metadata["reason"] for field in dataclasses.fields(self.assumptions)},
            "sha256": {name: sha256_of(folder / name) for name in sorted(os.listdir(folder))},
        }


def simulate_annotated(world: World, images: Mapping[int, AnnotatedImage], donors: Donors, image_id: int) -> Simulated:
    """One image's objects and regions. Depends only on the world, the donors, the id and the image's annotations."""
    image = images[image_id]
    layout = real_layout(world, image, donors)
    rng = world.random("boxes", image.image_id)
    boxes = detect_real(world.assumptions, world.settings.num_regions, layout, rng)
    return layout, regions_of(world, image.image_id, image.others, layout, boxes)


def _read(folder: Path, lemma: Callable[[str], str]) -> tuple[dict[int, AnnotatedImage], dict[int, str], list[str]]:
    """Image id -> content of its record, image id -> split, classes."""
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


def _count(written: Iterable[Simulated], records: Mapping[int, AnnotatedImage]) -> dict[str, Any]:
    """Counts of the contents of the images."""
    counts: Counter[str] = Counter()
    without_box, crowded = [], []
    for layout, regions in written:
        record = records[regions.image_id]
        objects = len(record.objects)
        if not objects:
            without_box.append(record.image_id)
        if objects > len(regions.boxes_px):
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


def _measure(folder: Path) -> dict[str, Any]:
    """Statistics of the reach and the features of the regions."""
    store = RegionStore(folder / REGIONS)
    images = chain.from_iterable(open_annotations(folder / file_name(split), split)[1] for split in SPLITS)
    found = region_statistics(images, store)
    rounded = {name: None if math.isnan(value) else round(value, 4) for name, value in found.items()}
    looks = describe([store.read(image_id) for image_id in store.ids[:MEASURED_IMAGES].tolist()])
    return {
        "reach": rounded["reach"],
        "reach_by_area": {f"up to {high:g}": rounded[f"reach_to_{high:g}"] for high in AREAS},
        "pixels": {"simulated": looks, "bottom_up": BOTTOM_UP},
        "phrase_words_reached": rounded["reach_of_words"],
    }
