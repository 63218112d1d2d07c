"""Draw the sample data set: pictures, annotations in the official layout, prepared annotations, regions.

folder/Images/ID.jpg  Sentences/ID.txt  Annotations/ID.xml  split_ids_flickr30k_entities.json    the official layout
folder/{train,val,test}.json  vocabulary.txt  captions_*.json  grounding_*.json                  prepared from it
folder/regions.h5  region_maker.npz  sample.json                                                 regions, manifest
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.data import official_writer
from xmodaler_ssattn.data.prepare import prepare_annotations
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json, write_json
from xmodaler_ssattn.packs.store import RegionWriter
from xmodaler_ssattn.progress import progress as plain_progress
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES, KINDS
from xmodaler_ssattn.worlds.drawn.manifest import MANIFEST, program_hash, why_not_usable
from xmodaler_ssattn.worlds.drawn.parallel import DrawnScene, draw_scenes
from xmodaler_ssattn.worlds.drawn.proposals import NUM_REGIONS
from xmodaler_ssattn.worlds.drawn.region_maker import SampleRegionMaker
from xmodaler_ssattn.worlds.drawn.scenes import FIRST_IMAGE_ID

REGIONS, REGION_MAKER, VOCABULARY = "regions.h5", "region_maker.npz", "vocabulary.txt"
PICTURES_AT_ONCE = 25  # projected in one matrix product
_log = logging.getLogger(__name__)
_SINGULAR = {kind.plural: kind.name for kind in KINDS}


@dataclasses.dataclass(frozen=True)
class SampleData:
    """A drawn data set.

    Attributes:
        folder: where everything lies; it is DATALOADER.ANNO_FOLDER.
        manifest: how it was drawn (`parameters`) and what came out: `vocabulary_size` (MODEL.VOCAB_SIZE),
            `num_classes` (MODEL.SS_ATTENTION.NUM_CLASSES, with the background), `top1` (share of val and test regions
            around objects whose class is right), `reach` (share of objects that a region overlaps by more than half).
        drawn: True when this call drew it, False when it was there already.
    """

    folder: Path
    manifest: Mapping[str, Any]
    drawn: bool

    @property
    def images(self) -> Path:
        return self.folder / official_writer.IMAGES

    @property
    def regions(self) -> Path:
        return self.folder / REGIONS

    @property
    def region_maker(self) -> Path:
        return self.folder / REGION_MAKER

    @property
    def vocabulary(self) -> Path:
        return self.folder / VOCABULARY

    @property
    def vocabulary_size(self) -> int:
        """MODEL.VOCAB_SIZE."""
        return self.manifest["vocabulary_size"]

    @property
    def num_classes(self) -> int:
        """MODEL.SS_ATTENTION.NUM_CLASSES, with the background."""
        return self.manifest["num_classes"]


def singular(word: str) -> str:
    """The lemma of a word of this world: the kind that a plural names, else the word itself."""
    return _SINGULAR.get(word, word)


def draw_sample(
    out_dir: str | os.PathLike,
    *,
    num_images: int = 1500,
    seed: int = 0,
    splits: Sequence[int] | None = None,
    feature_dim: int = 2048,
    num_regions: int = NUM_REGIONS,
    lemma: Callable[[str], str] = singular,
    workers: int | None = None,
    progress: Callable[..., Iterator] | None = None,
) -> SampleData:
    """Draw the sample data set into a folder, or find that it is there.

    The folder appears whole. One that was drawn with the same arguments by the same program is used as it is; one that
    is incomplete, or was drawn with others, is drawn again. The same arguments give the same pictures and sentences.

    Args:
        out_dir: folder to make.
        num_images: pictures.
        seed: of the whole world.
        splits: pictures for train, val and test; their sum is num_images. None: a tenth each for val and test.
        feature_dim: D.
        num_regions: K.
        lemma: word -> lemma; gives phrases their class.
        workers: processes; None takes the cores that this process may use. The result is the same.
        progress: called as progress(iterable, total=..., desc=...); None takes the project's own.

    Raises:
        UserError: sizes that do not fit, or a folder that holds other files.
    """
    out_dir = Path(out_dir)
    counts = _split_counts(num_images, splits)
    parameters = {
        "num_images": num_images,
        "seed": seed,
        "splits": counts,
        "feature_dim": feature_dim,
        "num_regions": num_regions,
    }
    wanted = {"parameters": parameters, "program": program_hash()}
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with _alone(out_dir.parent):
        reason = why_not_usable(out_dir, wanted)
        if reason is None:
            return SampleData(out_dir, read_json(out_dir / MANIFEST, "The sample scenes"), False)
        if reason:
            _log.warning("Drawing the sample scenes in %s again: %s.", out_dir, reason)
        temporary = out_dir.with_name(f".{out_dir.name}.drawing")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            manifest = {**wanted, **_draw_into(temporary, parameters, lemma, workers, progress)}
            manifest["files"] = sorted(os.listdir(temporary))
            write_json(temporary / MANIFEST, manifest, indent=1)
            if reason:
                shutil.rmtree(out_dir)
            os.rename(temporary, out_dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return SampleData(out_dir, manifest, True)


def _split_counts(num_images: int, splits: Sequence[int] | None) -> list[int]:
    if splits is None:
        tenth = max(1, num_images // 10)
        splits = (num_images - 2 * tenth, tenth, tenth)
    if len(splits) != 3 or min(splits) < 1 or sum(splits) != num_images:
        raise UserError(
            f"Sample scenes: {num_images} pictures cannot be split into train, val, test = {list(splits)}; "
            "each split needs at least one picture, and together they must be all."
        )
    return list(splits)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time draws into this folder; the others wait here and then find the finished scenes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _draw_into(
    folder: Path,
    parameters: Mapping[str, Any],
    lemma: Callable[[str], str],
    workers: int | None,
    progress: Callable[..., Iterator] | None,
) -> dict[str, Any]:
    for name in (official_writer.IMAGES, official_writer.SENTENCES, official_writer.ANNOTATIONS):
        (folder / name).mkdir(parents=True)
    count, (train, val, _) = parameters["num_images"], parameters["splits"]
    ids = list(range(FIRST_IMAGE_ID, FIRST_IMAGE_ID + count))
    splits = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
    official_writer.write_splits(folder, splits)
    report = progress or plain_progress
    drawing = draw_scenes(folder, parameters["seed"], count, parameters["num_regions"], workers)
    scenes = list(report(drawing, total=count, desc="drawing sample scenes"))

    prepared = prepare_annotations(
        folder,
        splits,
        lemma=lemma,
        sentences_dir=folder / official_writer.SENTENCES,
        annotations_dir=folder / official_writer.ANNOTATIONS,
        classes=list(CLASS_NAMES),
        source="sample",
        workers=1,
    )

    maker = SampleRegionMaker.fit(
        np.concatenate([scene.descriptors for scene in scenes[:train]]),
        np.concatenate([scene.labels for scene in scenes[:train]]),
        np.concatenate([scene.colours for scene in scenes[:train]]),
        parameters["feature_dim"],
        parameters["num_regions"],
    )
    maker.save(folder / REGION_MAKER)
    right = _write_regions(folder / REGIONS, scenes, maker)
    held_out = np.concatenate(right[train:])
    return {
        "classes": list(CLASS_NAMES),
        "num_classes": maker.num_classes,
        "vocabulary_size": prepared.vocabulary.model_size,
        "top1": round(float(held_out.mean()), 4) if len(held_out) else None,
        "reach": round(float(np.concatenate([scene.reached for scene in scenes]).mean()), 4),
    }


def _write_regions(path: Path, scenes: Sequence[DrawnScene], maker: SampleRegionMaker) -> list[np.ndarray]:
    """Writes all regions; returns for each scene which of its regions around objects have the right class on top."""
    right = []
    ids = [scene.image_id for scene in scenes]
    with RegionWriter(
        path,
        ids,
        maker.num_regions,
        maker.feature_dim,
        maker.num_classes,
        feature_dtype="float16",
        source="sample scenes: descriptors of drawn pictures",
    ) as writer:
        for start in range(0, len(scenes), PICTURES_AT_ONCE):
            batch = scenes[start : start + PICTURES_AT_ONCE]
            descriptors = np.concatenate([scene.descriptors for scene in batch])
            # float16 halves the file; what it rounds is far below the noise.
            probs = maker.class_probs(descriptors)
            features = maker.features(descriptors, probs).astype(np.float16)
            first = 0
            for scene in batch:
                here = slice(first, first + len(scene.labels))
                first = here.stop
                objects = scene.labels > 0
                right.append(probs[here][objects].argmax(axis=1) == scene.labels[objects])
                order = maker.order(probs[here])
                writer.write(
                    scene.image_id,
                    scene.width,
                    scene.height,
                    scene.boxes_px[order],
                    features[here][order],
                    probs[here][order],
                )
    return right
