"""Pictures -> one region file. A run can be stopped and resumed at any moment."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmodaler_ssattn.detectors.join import join_regions
from xmodaler_ssattn.detectors.pictures import READERS, PackedPicture, UnexpectedError, decode_ahead, picture_sides
from xmodaler_ssattn.detectors.sources import Chosen
from xmodaler_ssattn.errors import UserError, numbered, raise_all
from xmodaler_ssattn.packs.region_file import ORDER_BY_SCORE, differing_values, read_header
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter
from xmodaler_ssattn.progress import progress

MISTAKES_IN_A_ROW = 20  # after this number, the program or the GPU is broken, not the pictures
SECONDS_BETWEEN_SYNCS = 1.0  # a killed run loses the pictures since the last one


class NothingExtracted(UserError):
    """None of the pictures could be used; ``failed`` has the reasons, one sentence each."""

    def __init__(self, failed: list[str]) -> None:
        super().__init__(f"None of the {len(failed)} pictures could be used:\n{numbered(failed)}")
        self.failed = failed


@dataclasses.dataclass
class ExtractReport:
    """The result of an extraction."""

    path: Path  # of the region file
    images: int  # in the file
    resumed: int  # of these, extracted by earlier runs
    failed: list[str]  # one sentence per picture that is not in the file, with its name


def extract_regions(
    detector: Any,
    pictures: Chosen | Mapping[int, Path],
    out: str | os.PathLike,
    *,
    num_regions: int,
    batch: int = 1,
    float16: bool = False,
    vocabulary_sha256: str = "",
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ExtractReport:
    """Write the regions of pictures into ``out``.

    A stopped run leaves ``OUT.partial``, which the same call resumes; the file is then byte-identical to that of an
    uninterrupted run. A finished file is kept, and missing pictures, which failed before or are new, are added to it.

    Args:
        detector: see ``detected.Detector``.
        pictures: pictures of a source by image id, or image id -> path. They are read in the order of the source;
            the file's images are in ascending order of their ids.
        num_regions: K, the maximum number of regions per image.
        batch: number of pictures that the detector processes at once.
        float16: store features and class probabilities in half precision.
        vocabulary_sha256: of the detector's class list, if known.
        attributes: further values to record in the file.
        overwrite: replace an existing file, or an unfinished one with other settings.

    Raises:
        NothingExtracted: no picture could be used.
        Exception: the detector's exception, if it occurred for every picture or MISTAKES_IN_A_ROW times.
        UserError: the file was made with other weights or settings, or the disk is too small.
    """
    out = Path(out)
    if isinstance(pictures, Mapping):
        pictures = Chosen.of_files(pictures)
    dtype = "float16" if float16 else "float32"
    plan = {
        "num_regions": num_regions, "feature_dim": detector.feature_dim, "num_classes": detector.num_classes + 1,
        "feature_dtype": dtype, "probs_dtype": dtype, "source": detector.source, "order": ORDER_BY_SCORE,
        "vocabulary_sha256": vocabulary_sha256, "weights_sha256": detector.weights_sha256 or "",
        "attributes": dict(attributes or {}),
    }  # fmt: skip
    if overwrite or not out.exists():
        return _write(detector, pictures, pictures.ids, out, plan, batch, overwrite)
    more = out.with_name(out.name + ".more")
    _take_in(out, more)  # if an earlier run was stopped during this step
    store = RegionStore(out)
    _check_same_settings(store, plan)
    _check_same_pictures(out, {i: store.image_size(i) for i in pictures.ids if i in store}, pictures)
    missing = [image_id for image_id in pictures.ids if image_id not in store]
    if not missing:
        return ExtractReport(out, len(store), len(store), [])
    try:
        report = _write(detector, pictures, missing, more, plan, batch, False)
    except NothingExtracted as error:
        return ExtractReport(out, len(store), len(store), error.failed)
    _take_in(out, more)
    return ExtractReport(out, len(store) + report.images, len(store) + report.resumed, report.failed)


def _take_in(out: Path, more: Path) -> None:
    """Add the images of ``more`` to ``out`` and remove ``more``."""
    if more.exists():
        if not set(RegionStore(more).ids.tolist()) <= set(RegionStore(out).ids.tolist()):
            join_regions([out, more], out, overwrite=True)
        more.unlink()


def _check_same_settings(store: RegionStore, plan: Mapping[str, Any]) -> None:
    there = {name: getattr(store, name) for name in ("num_regions", "feature_dim", "num_classes")}
    there |= {"feature_dtype": read_header(store.path).fields["features"].dtype.name, **store.attributes}
    wanted = {**plan, **plan["attributes"]}
    del wanted["attributes"], wanted["probs_dtype"]
    raise_all(
        differing_values({name: there.get(name) for name in wanted}, wanted),
        f"{store.path} exists and was made with other settings (give another --out, or --overwrite to replace it)",
    )


def _check_same_pictures(path: Path, sizes: Mapping[int, tuple[int, int]], pictures: Chosen) -> None:
    """Refuse to mix two sets: the sizes of the images in the file must be those of the pictures."""
    for image_id, picture in pictures.read(sizes):
        width, height = sizes[image_id]
        sides = picture_sides(picture)
        if sides is not None and sides != (min(width, height), max(width, height)):
            raise UserError(
                f"{path} was made from other pictures: image {image_id} is {width} x {height} there, but "
                f"{picture} has sides of {sides[0]} and {sides[1]}. Were they other --images, or another list of "
                "--ids? Give another --out, or delete the file to start again."
            )


def _write(
    detector: Any, pictures: Chosen, ids: Sequence[int], out: Path, plan: Mapping[str, Any], batch: int, overwrite: bool
) -> ExtractReport:
    failed: list[str] = []
    unexpected: list[UnexpectedError] = []  # since the last picture that succeeded
    writer = RegionWriter(out, ids, resume=True, discard_other=overwrite, drop_missing=True, **plan)
    with writer:
        done = set(writer.written.tolist())
        _check_same_pictures(writer.partial, {image_id: writer.image_size(image_id) for image_id in done}, pictures)
        todo = [image_id for image_id in ids if image_id not in done]
        found = detect_all(detector, pictures.read(todo), batch)
        last_sync = time.monotonic()
        for image_id, path, detected in progress(found, len(todo), "regions"):
            try:
                if isinstance(detected, UserError):
                    raise detected
                arrays = detected.boxes_px, detected.features, detected.class_probs
                writer.write(image_id, detected.width, detected.height, *arrays, where=str(path))
            except OSError:  # while writing the region file: not because of this picture
                raise
            except Exception as error:
                if not isinstance(error, UserError):
                    error = UnexpectedError(path, error)
                failed.append(str(error))
                if isinstance(error, UnexpectedError):
                    unexpected.append(error)
                    if len(unexpected) == MISTAKES_IN_A_ROW:
                        raise unexpected[0].error from None
            else:
                unexpected.clear()
            if time.monotonic() - last_sync >= SECONDS_BETWEEN_SYNCS:
                writer.sync()
                last_sync = time.monotonic()
        if not len(writer.written):
            writer.partial.unlink()
            if unexpected:
                raise unexpected[0].error
            raise NothingExtracted(failed)
        images = len(writer.written)
    return ExtractReport(out, images, len(done), failed)


def detect_all(
    detector: Any, pictures: Iterable[tuple[int, Path | PackedPicture]], batch: int = 1
) -> Iterator[tuple[int, Path | PackedPicture, Any]]:
    """Each picture's (id, picture, Detected), in the order given; or a ``UserError`` if it failed or has no region."""
    decoded = decode_ahead(pictures, max(READERS, 2 * batch))
    while chunk := list(islice(decoded, batch)):
        good = [item for item in chunk if not isinstance(item[2], UserError)]
        results = dict(zip((item[0] for item in good), _detect(detector, good)))
        for image_id, path, pixels in chunk:
            found = results.get(image_id, pixels)
            if not isinstance(found, UserError) and np.shape(found.boxes_px)[:1] == (0,):
                found = UserError(f"{path}: the detector found no region in it.")
            yield image_id, path, found


def _detect(detector: Any, items: list[tuple[int, Path | PackedPicture, np.ndarray]]) -> list[Any]:
    problem: Any = None
    try:
        if len(items) > 1:
            try:
                found = list(detector.detect_many([pixels for _, _, pixels in items]))
                if len(found) == len(items):
                    return found
                problem = f"{len(found)} results"
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                problem = error
        # After a problem each picture is run singly, so that the error names the picture.
        found = [_detect_one(detector, path, pixels) for _, path, pixels in items]
        if problem is not None and not any(isinstance(each, (UserError, UnexpectedError)) for each in found):
            logging.getLogger(__name__).warning(
                "The detector failed for %d pictures at once (%s), but not for any of them singly, which is slower. "
                "Set --batch 1 if this is repeated.",
                len(items),
                problem,
            )
        return found
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"The GPU does not have enough memory for {len(items)} pictures at once; give a smaller --batch, or "
            "--device cpu."
        ) from error


def _detect_one(detector: Any, path: Path | PackedPicture, pixels: np.ndarray) -> Any:
    try:
        return detector.detect(pixels)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return UserError(f"{path}: {error}") if isinstance(error, UserError) else UnexpectedError(path, error)
