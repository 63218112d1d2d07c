"""The world of captions: from a captions file to a data set. Captions are real; boxes and features are simulated.

The folder has the official layout without pictures, the annotations prepared from it (``worlds.making``), and
the files of ``dataset``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.data.official_writer import ObjectBox, annotation_xml, marked
from xmodaler_ssattn.data.prepare import PrepareReport
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.worlds import making
from xmodaler_ssattn.worlds.simulated.assumptions import CaptionsAssumptions, Settings
from xmodaler_ssattn.worlds.simulated.captions_world import (
    CaptionedImage,
    CaptionsWorld,
    invent_layout,
    make_captions_world,
    read_captions,
    understand_captions,
)
from xmodaler_ssattn.worlds.simulated.class_priors import prior_of
from xmodaler_ssattn.worlds.simulated.dataset import Simulated, Splits, WorldSource
from xmodaler_ssattn.worlds.simulated.detector import detect_invented, regions_of
from xmodaler_ssattn.worlds.simulated.world import Layout


class CaptionsSource(WorldSource):
    """A captions file, as ``read_captions`` reads it, and the named classes; ``lemma`` maps a word to its lemma.

    Raises:
        UserError: an unusable file.
    """

    title = "simulated from captions: neither boxes nor features come from pictures"

    def __init__(
        self,
        path: str | os.PathLike,
        classes: Sequence[str],
        lemma: Callable[[str], str],
        assumptions: CaptionsAssumptions,
        splits: Splits | None = None,
    ) -> None:
        entries = read_captions(path)
        self.classes, self.assumptions, self.splits = classes, assumptions, splits
        self.digest = {"captions_sha256": sha256_of(path)}
        self.split_of = {image_id: entry["split"] for image_id, entry in entries.items()}
        self._captions = {image_id: entry["captions"] for image_id, entry in entries.items()}
        self._lemma = functools.cache(lemma)
        self._images: dict[int, CaptionedImage] = {}

    def build(self, settings: Settings, chosen: Splits) -> Callable[[int], Simulated]:
        # Habits are learnt from all training captions, so that they do not depend on the number of images.
        own = [image_id for image_id, split in self.split_of.items() if split == "train"]
        training = self.splits["train"] if self.splits else own
        names, ids = frozenset(self.classes), {*training, *chain.from_iterable(chosen.values())}
        self._images = {
            image_id: understand_captions(self._captions[image_id], names, self._lemma)
            for image_id in progress(sorted(ids), desc="reading captions")
        }
        world = make_captions_world(settings, self.assumptions, self.classes, self._images, training)
        return functools.partial(simulate_captioned, world, self._images)

    def write(
        self, folder: Path, chosen: Splits, written: Iterator[Simulated], workers: int
    ) -> tuple[PrepareReport, dict[str, Any]]:
        making.make_folders(folder, chosen)
        reached = [np.zeros(0)]
        for layout, regions in written:
            image_id, content = regions.image_id, self._images[regions.image_id]
            making.write_image(folder, image_id, _sentences(content), _xml(image_id, layout))
            boxes = layout.boxes_px[: layout.mentioned][np.array(layout.boxed, dtype=bool)]
            reached.append(iou(boxes, regions.boxes_px).max(axis=1) > 0.5)
        reach = np.concatenate(reached)
        report = making.prepare(folder, chosen, self.classes, self._lemma, "simulated", workers)
        return report, {"reach": round(float(reach.mean()), 4) if len(reach) else 0.0}


def simulate_captioned(world: CaptionsWorld, images: Mapping[int, CaptionedImage], image_id: int) -> Simulated:
    """One image's objects and regions. Depends only on the world, the id and the image's captions."""
    content = images[image_id]
    layout = invent_layout(world, image_id, content)
    boxes = detect_invented(world.assumptions, world.settings.num_regions, layout, world.random("boxes", image_id))
    return layout, regions_of(world, image_id, content.others, layout, boxes)


def _sentences(content: CaptionedImage) -> Iterator[str]:
    """The captions with markup; an object's chain is its index in ``CaptionedImage.objects``, counted from 1."""
    for tokens, phrases, chains in zip(content.tokens, content.phrases, content.chains):
        parts: list[str] = []
        position = 0
        for phrase, number in zip(phrases, chains):
            prior, words = prior_of(phrase.name), " ".join(tokens[phrase.start : phrase.end])
            parts += tokens[position : phrase.start]
            parts.append(marked(words, number + 1, prior.entity_type if prior else "other"))
            position = phrase.end
        yield " ".join([*parts, *tokens[position:]])


def _xml(image_id: int, layout: Layout) -> str:
    """The boxes of the mentioned objects only."""
    boxes = [
        ObjectBox(tuple(box), (number,))
        for number, (box, boxed) in enumerate(zip(layout.boxes_px.tolist(), layout.boxed), 1)
        if boxed
    ]
    scenes = [number for number, boxed in enumerate(layout.boxed, 1) if not boxed]
    return annotation_xml(image_id, layout.width, layout.height, boxes, scenes=scenes)
