"""The data set of drawn scenes: pictures, annotations in the official layout, prepared annotations, regions.

folder/Images/ID.jpg and the files of ``worlds.making``   official layout, prepared annotations
folder/regions.h5  region_maker.npz  sample.json                   regions, their maker, manifest
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.data.official_writer import ANNOTATIONS, IMAGES, SENTENCES, ObjectBox, annotation_xml
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import write_json
from xmodaler_ssattn.packs import region_file
from xmodaler_ssattn.packs.store import RegionWriter
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.worlds import making
from xmodaler_ssattn.worlds.drawn.descriptors import cut_crops, describe_crops
from xmodaler_ssattn.worlds.drawn.grammar import Description, describe, markup
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES, COLOUR_NAMES, KINDS
from xmodaler_ssattn.worlds.drawn.proposals import NUM_REGIONS, propose_from_scene
from xmodaler_ssattn.worlds.drawn.region_maker import SceneRegionMaker
from xmodaler_ssattn.worlds.drawn.scenes import FIRST_IMAGE_ID, Scene, make_scene
from xmodaler_ssattn.worlds.making import differences, map_in_processes, read_manifest

MANIFEST, REGIONS, REGION_MAKER = "sample.json", "regions.h5", "region_maker.npz"
JPEG_QUALITY = 92
OBJECT_IOU = 0.5  # a region belongs to an object above this overlap, else to the background
PICTURES_AT_ONCE = 25  # projected in one matrix product
_log = logging.getLogger(__name__)
_SINGULAR = {kind.plural: kind.name for kind in KINDS}


def singular(word: str) -> str:
    """The lemma of a word of this world: the kind that a plural names, else the word itself."""
    return _SINGULAR.get(word, word)


def draw_dataset(
    out_dir: str | os.PathLike,
    *,
    num_images: int = 1500,
    seed: int = 0,
    feature_dim: int = 2048,
    workers: int | None = None,
) -> tuple[dict[str, Any], bool]:
    """Draw the sample scenes into a folder, unless they exist there.

    The folder is written atomically. A folder that was drawn with the same arguments by the same program is used
    unchanged; an incomplete one, or one with other arguments, is drawn again.

    Args:
        out_dir: folder to make; it is DATALOADER.ANNO_FOLDER.
        num_images: pictures; a tenth each for val and test.
        workers: processes; None: the cores that this process may use. The result is the same.

    Returns:
        the manifest, and whether the folder was drawn by this call. The manifest has the arguments (`parameters`)
        and the results: `vocabulary_size` (MODEL.VOCAB_SIZE), `num_classes` (MODEL.SS_ATTENTION.NUM_CLASSES, with the
        background), `top1` (share of val and test regions around objects whose class is right), `reach` (share of
        objects that a region overlaps by more than half).

    Raises:
        UserError: fewer than three pictures were requested, or the folder contains other files.
    """
    out_dir = Path(out_dir)
    if num_images < 3:
        raise UserError(f"Sample scenes: expected 3 pictures or more, for train, val and test; got {num_images}.")
    tenth = max(1, num_images // 10)
    parameters = {
        "num_images": num_images,
        "seed": seed,
        "splits": [num_images - 2 * tenth, tenth, tenth],
        "feature_dim": feature_dim,
        "num_regions": NUM_REGIONS,
    }
    wanted = {"parameters": parameters, "program": _program_hash()}
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out_dir.parent):
        reason = _why_not_usable(out_dir, wanted)
        if reason is None:
            return read_manifest(out_dir / MANIFEST), False
        if reason:
            _log.warning("Drawing the sample scenes in %s again: %s.", out_dir, reason)
        temporary = out_dir.with_name(f".{out_dir.name}.drawing")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            manifest = {**wanted, **_draw_into(temporary, parameters, workers)}
            manifest["files"] = sorted(os.listdir(temporary))
            write_json(temporary / MANIFEST, manifest, indent=1)
            if reason:
                shutil.rmtree(out_dir)
            os.rename(temporary, out_dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return manifest, True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time draw into this folder; the others wait and then find the finished scenes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# --- is the folder usable? ------------------------------------------------------------------------------
@functools.cache
def _program_hash() -> str:
    """The identity of the drawing program: a hash of its source files and of the region file's version."""
    digest = hashlib.sha256(str(region_file.VERSION).encode())
    for path in [*sorted(Path(__file__).parent.glob("*.py")), Path(making.__file__)]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _why_not_usable(folder: Path, wanted: Mapping[str, Any]) -> str | None:
    """None when the folder has the wanted scenes completely; "" when it is empty; else the reason to draw again.

    Raises:
        UserError: the folder has files that the program did not draw, which are not deleted.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The sample scenes need a folder; {folder} is a file. Choose another path.")
    present = set(os.listdir(folder)) if folder.exists() else set()
    if not present:
        return ""
    if MANIFEST not in present:
        raise UserError(
            f"{folder} is not empty and has no {MANIFEST}, so it is not a folder of sample scenes. Choose another "
            "folder, or remove this one."
        )
    found = read_manifest(folder / MANIFEST)
    reasons = list(differences(found.get("parameters"), wanted["parameters"]))
    if found.get("program") != wanted["program"]:
        reasons.append("they were drawn by another version of the program")
    reasons += [f"{name} is missing" for name in sorted(set(found.get("files", ())) - present)]
    for name in (IMAGES, SENTENCES, ANNOTATIONS):
        if name in present and (count := len(os.listdir(folder / name))) != wanted["parameters"]["num_images"]:
            reasons.append(f"{name} holds {count} files")
    if not reasons:
        return None
    foreign = sorted(present - set(found.get("files", ())) - {MANIFEST})
    if foreign:
        raise UserError(
            f"The sample scenes in {folder} cannot be used ({'; '.join(reasons)}), and drawing them again would remove "
            f"other files there: {', '.join(foreign)}. Move these, or choose another folder."
        )
    return "; ".join(reasons)


# --- drawing --------------------------------------------------------------------------------------------
@dataclasses.dataclass
class WrittenScene:
    """The data of a scene that are needed after its files are written."""

    image_id: int
    width: int
    height: int
    boxes_px: np.ndarray  # (K, 4) float32
    descriptors: np.ndarray  # (K, E) float32
    labels: np.ndarray  # (K,) int64, 0 background, else 1 + the index in CLASS_NAMES
    colours: np.ndarray  # (K,) int64, the index in COLOUR_NAMES, -1 for background
    reached: np.ndarray  # for each object, whether a region overlaps it by more than OBJECT_IOU


def _draw_into(folder: Path, parameters: Mapping[str, Any], workers: int | None) -> dict[str, Any]:
    count, (train, val, _) = parameters["num_images"], parameters["splits"]
    ids = range(FIRST_IMAGE_ID, FIRST_IMAGE_ID + count)
    splits = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
    (folder / IMAGES).mkdir(parents=True)
    making.make_folders(folder, splits)
    draw = functools.partial(_draw_scene, folder, parameters["seed"])
    drawing = map_in_processes(draw, range(count), _cores() if workers is None else workers)
    scenes = list(progress(drawing, count, "drawing sample scenes"))
    report = making.prepare(folder, splits, CLASS_NAMES, singular, "sample")
    known = zip(*((scene.descriptors, scene.labels, scene.colours) for scene in scenes[:train]))
    maker = SceneRegionMaker.fit(*map(np.concatenate, known), parameters["feature_dim"])
    maker.save(folder / REGION_MAKER)
    right = np.concatenate(_write_regions(folder / REGIONS, scenes, maker)[train:])
    return {
        "classes": list(CLASS_NAMES),
        "num_classes": maker.num_classes,
        "vocabulary_size": report.vocabulary.model_size,
        "top1": round(float(right.mean()), 4) if len(right) else None,
        "reach": round(float(np.concatenate([scene.reached for scene in scenes]).mean()), 4),
    }


def _cores() -> int:
    """Cores that this process may use: a container or a batch system often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _draw_scene(folder: Path, seed: int, index: int) -> WrittenScene:
    scene = make_scene(seed, index)
    description = describe(scene)
    sentences = map(markup, description.captions)
    making.write_image(folder, scene.image_id, sentences, scene_xml(scene, description))
    jpeg = io.BytesIO()
    # 4:4:4: the usual halving of the colour planes smears the edges of small bright objects.
    scene.draw().save(jpeg, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    (folder / IMAGES / f"{scene.image_id}.jpg").write_bytes(jpeg.getvalue())
    # Regions are computed from the pixels of the JPEG file, as for any reader of the file.
    boxes = propose_from_scene(scene)
    descriptors = describe_crops(cut_crops(Image.open(jpeg).convert("RGB"), boxes))
    return WrittenScene(scene.image_id, scene.width, scene.height, boxes, descriptors, *label_regions(boxes, scene))


def scene_xml(scene: Scene, description: Description) -> str:
    """The official XML of a scene."""
    chains_of: dict[int, list[int]] = {}
    for chain, numbers in description.boxes.items():
        for number in numbers:
            chains_of.setdefault(number, []).append(chain)
    boxes = []
    for number, chains in sorted(chains_of.items()):
        x1, y1, x2, y2 = scene.objects[number].box_px  # x2 and y2 are exclusive here, inclusive in the XML
        boxes.append(ObjectBox((x1, y1, x2 - 1, y2 - 1), tuple(chains)))
    unboxed = {"without_box": description.without_box, "scenes": description.scenes}
    return annotation_xml(scene.image_id, scene.width, scene.height, boxes, **unboxed)


def label_regions(boxes_px: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels, colours and reached of ``WrittenScene``, by each region's largest overlap with an object."""
    kinds = np.asarray([1 + CLASS_NAMES.index(item.kind.name) for item in scene.objects], dtype=np.int64)
    colours = np.asarray([COLOUR_NAMES.index(item.colour) for item in scene.objects], dtype=np.int64)
    overlaps = iou(boxes_px, np.asarray([item.box_px for item in scene.objects]))
    nearest, is_object = overlaps.argmax(axis=1), overlaps.max(axis=1) > OBJECT_IOU
    return (
        np.where(is_object, kinds[nearest], 0),
        np.where(is_object, colours[nearest], -1),
        overlaps.max(axis=0) > OBJECT_IOU,
    )


def _write_regions(path: Path, scenes: Sequence[WrittenScene], maker: SceneRegionMaker) -> list[np.ndarray]:
    """Write all regions; returns for each scene which of its regions around objects have the right class on top."""
    right = []
    ids, sizes = [scene.image_id for scene in scenes], (maker.num_regions, maker.feature_dim, maker.num_classes)
    source = "sample scenes: descriptors of drawn pictures"
    with RegionWriter(path, ids, *sizes, feature_dtype="float16", source=source) as writer:
        for start in range(0, len(scenes), PICTURES_AT_ONCE):
            batch = scenes[start : start + PICTURES_AT_ONCE]
            descriptors = np.concatenate([scene.descriptors for scene in batch])
            probs = maker.class_probs(descriptors)
            # float16 halves the file; its rounding error is far below the noise.
            features = maker.features(descriptors, probs).astype(np.float16)
            each = (len(batch), maker.num_regions, -1)
            for scene, v, c in zip(batch, features.reshape(each), probs.reshape(each)):
                objects, order = scene.labels > 0, maker.order(c)
                right.append(c[objects].argmax(axis=1) == scene.labels[objects])
                writer.write(scene.image_id, scene.width, scene.height, scene.boxes_px[order], v[order], c[order])
    return right
