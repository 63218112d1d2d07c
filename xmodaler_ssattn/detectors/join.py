"""Join several region files of one detector, in the order of the image ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import h5py

from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.packs.region_file import Header, differing_values, read_header
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter
from xmodaler_ssattn.progress import progress

_GIVEN_BY_NAME = ("source", "order", "background", "vocabulary_sha256", "weights_sha256")
_OF_THE_FILE = ("schema", "version")


def join_regions(
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    expected: Sequence[int] = (),
) -> int:
    """Write the images of all files into one, in ascending order of their ids; returns their number.

    Joined shards have the same bytes as a run without shards.

    Args:
        paths: region files; ``out`` may be one of them.
        overwrite: replace ``out``.
        expected: ids of images that must be in one of the files.

    Raises:
        UserError: the files are of different detectors or shapes, an image is in two of them, an expected
            one is in none, or ``out`` exists.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists; give another name, or --overwrite to replace it.")
    headers = [read_header(path) for path in paths]
    # Compare with the file that agrees with most others, so that the differing one is named.
    first = max(headers, key=lambda one: sum(not _differences(one, other) for other in headers))
    problems = [f"{header.path}: {difference}" for header in headers for difference in _differences(first, header)]
    raise_all(problems, f"These files cannot be joined; 'there' is {first.path}")
    stores = [RegionStore(path) for path in paths]
    owner: dict[int, RegionStore] = {}
    twice = []
    for store in stores:
        for image_id in store.ids.tolist():
            if image_id in owner:
                twice.append(f"image {image_id} is in {owner[image_id].path} and in {store.path}")
            owner[image_id] = store
    raise_all(twice, "These files cannot be joined")
    if missing := [image_id for image_id in expected if image_id not in owner]:
        names = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UserError(
            f"{len(missing):,} of {len(expected):,} pictures are in none of the {len(paths)} files: {names}. Extract "
            "their shard again (the same command resumes it), or join without --images."
        )
    given = {name: first.attributes[name] for name in _GIVEN_BY_NAME if name in first.attributes}
    more = {k: v for k, v in first.attributes.items() if k not in (*_GIVEN_BY_NAME, *_OF_THE_FILE)}
    writer = RegionWriter(
        out,
        sorted(owner),
        max(store.num_regions for store in stores),
        stores[0].feature_dim,
        stores[0].num_classes,
        feature_dtype=first.fields["features"].dtype.name,
        probs_dtype=_kind(first, "class_probs") or "float32",
        attributes=more,
        **given,
    )
    counts = {store.path: _source_boxes(store) for store in stores}
    bad: list[str] = []
    with writer:
        for image_id in progress(sorted(owner), desc="joining"):
            store = owner[image_id]
            try:
                regions = store.read(image_id)
                arrays = regions.boxes_px, regions.features, regions.class_probs
                source = {"source_boxes": counts[store.path].get(image_id), "where": f"{store.path}, image {image_id}"}
                writer.write(image_id, regions.width, regions.height, *arrays, **source)
            except UserError as error:
                bad.append(str(error))
        raise_all(bad, f"{out} was not made")
    return len(owner)


def _kind(header: Header, name: str) -> str | None:
    """The dtype of a data set; None when the file does not have it."""
    return header.fields[name].dtype.name if name in header.fields else None


def _differences(first: Header, other: Header) -> list[str]:
    differences = differing_values(first.attributes, other.attributes)
    for name in ("features", "class_probs"):
        one, two = (
            f"{header.fields[name].shape[2]} x {_kind(header, name)}" if name in header.fields else "none"
            for header in (first, other)
        )
        if one != two:
            differences.append(f"{name}: {one} there, {two} now")
    return differences


def _source_boxes(store: RegionStore) -> dict[int, int]:
    with h5py.File(store.path, "r", locking=False) as file:
        counts = file["source_boxes"][...].tolist() if "source_boxes" in file else ()
        return dict(zip(store.ids.tolist(), counts))
