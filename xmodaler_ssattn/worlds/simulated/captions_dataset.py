"""The world of captions: from a captions file to a data set. Captions are real; boxes and features are simulated.

The folder holds the official layout without pictures and what is prepared from it (``worlds.official_layout``), and
what ``dataset`` writes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.data.annotations import SPLITS
from xmodaler_ssattn.data.official_writer import ObjectBox, annotation_xml, marked
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.packs.store import Regions
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.worlds import official_layout
from xmodaler_ssattn.worlds.simulated import dataset
from xmodaler_ssattn.worlds.simulated.appearance import regions_of
from xmodaler_ssattn.worlds.simulated.assumptions import CaptionsAssumptions, Settings
from xmodaler_ssattn.worlds.simulated.captions_content import CaptionedImage, read_captions, understand_captions
from xmodaler_ssattn.worlds.simulated.captions_layout import CaptionsWorld, invent_layout, make_captions_world
from xmodaler_ssattn.worlds.simulated.class_priors import prior_of
from xmodaler_ssattn.worlds.simulated.detector import detect_invented
from xmodaler_ssattn.worlds.simulated.layout import Layout

SOURCE = "simulated from captions: neither boxes nor features come from pictures"


def simulate_from_captions(
    captions_file: str | os.PathLike,
    out_dir: str | os.PathLike,
    settings: Settings,
    assumptions: CaptionsAssumptions,
    classes: Sequence[str],
    lemma: Callable[[str], str],
    *,
    splits: Mapping[str, Sequence[int]] | None = None,
    workers: int = 1,
) -> tuple[Mapping[str, Any], bool]:
    """Write the data set; the folder appears whole. One that was made with the same arguments is left as it is.

    Args:
        captions_file: as ``read_captions`` reads it.
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
    split_of = {image_id: entry["split"] for image_id, entry in captions.items()}
    chosen = dataset.choose_images(split_of, splits, settings.counts, settings.seed)
    source = {"captions_sha256": sha256_of(captions_file)}
    wanted = dataset.identity(source, classes, settings, assumptions, chosen)
    found = dataset.finished(out_dir, wanted)
    if found is not None:
        return found, False
    dataset.check_sizes(settings, classes, chosen)
    # Habits are learnt from all training captions, so that they do not depend on how many images are taken.
    training = [i for i, split in split_of.items() if split == "train"] if splits is None else splits["train"]
    ids = [image_id for split in SPLITS for image_id in chosen[split]]
    lemma, names = functools.cache(lemma), frozenset(classes)
    images = {
        image_id: understand_captions(captions[image_id]["captions"], names, lemma)
        for image_id in progress(sorted({*training, *ids}), desc="reading captions")
    }
    world = make_captions_world(settings, assumptions, classes, images, training)
    with dataset.new_folder(out_dir) as folder:
        official_layout.make_folders(folder, chosen)
        make = functools.partial(_simulate, world, images)
        reached = [np.zeros(0)]
        for layout, regions in dataset.write_regions(folder / dataset.REGIONS, settings, ids, make, workers, SOURCE):
            image_id, content = regions.image_id, images[regions.image_id]
            official_layout.write_image(folder, image_id, _sentences(content), _xml(image_id, layout))
            boxes = layout.boxes_px[: layout.mentioned][np.array(layout.boxed, dtype=bool)]
            reached.append(iou(boxes, regions.boxes_px).max(axis=1) > 0.5)
        reach = np.concatenate(reached)
        report = official_layout.prepare(folder, chosen, classes, lemma, "simulated", workers)
        if settings.shuffled:
            dataset.write_shuffled(folder, chosen, settings)
        measured = {"reach": round(float(reach.mean()), 4) if len(reach) else 0.0}
        manifest = dataset.write_manifest(folder, wanted, SOURCE, settings, report, measured)
    return manifest, True


def _simulate(world: CaptionsWorld, images: Mapping[int, CaptionedImage], image_id: int) -> dataset.Simulated:
    return simulate_captioned(world, image_id, images[image_id])


def simulate_captioned(world: CaptionsWorld, image_id: int, content: CaptionedImage) -> tuple[Layout, Regions]:
    """One image's objects and regions. Depends only on the world, the id and the captions."""
    layout = invent_layout(world, image_id, content)
    boxes = detect_invented(world.assumptions, world.settings.num_regions, layout, world.random("boxes", image_id))
    return layout, regions_of(world, image_id, content.others, layout, boxes)


def _sentences(content: CaptionedImage) -> Iterator[str]:
    """The captions with markup; an object's chain is its index in ``CaptionedImage.objects``, counted from 1."""
    for tokens, phrases, chains in zip(content.tokens, content.phrases, content.chains):
        parts: list[str] = []
        position = 0
        for phrase, chain in zip(phrases, chains):
            prior, words = prior_of(phrase.name), " ".join(tokens[phrase.start : phrase.end])
            parts += tokens[position : phrase.start]
            parts.append(marked(words, chain + 1, prior.entity_type if prior else "other"))
            position = phrase.end
        yield " ".join([*parts, *tokens[position:]])


def _xml(image_id: int, layout: Layout) -> str:
    """The boxes of what is mentioned, and nothing of what is not."""
    boxes = [
        ObjectBox(tuple(box), (chain,))
        for chain, (box, boxed) in enumerate(zip(layout.boxes_px.tolist(), layout.boxed), 1)
        if boxed
    ]
    scenes = [chain for chain, boxed in enumerate(layout.boxed, 1) if not boxed]
    return annotation_xml(image_id, layout.width, layout.height, boxes, scenes=scenes)
