"""What a data folder holds: splits with counts and hashes, regions with their source. For model cards."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import SPLITS, file_name, open_annotations
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.packs.region_file import read_header

REGIONS = "regions.h5"
# Manifest of a data folder -> what it says about the data.
LIMITS = {
    "simulated.json": "The region features and class probabilities are **simulated**: no picture was seen. The scores "
    "compare models with each other and say nothing about photographs.",
    "sample.json": "The pictures are **drawn** scenes of a few simple objects, with captions of a small grammar. The "
    "scores compare models with each other and say nothing about photographs.",
}
REGION_FACTS = ("source", "order", "vocabulary_sha256", "weights_sha256")


def facts_of(folder: Path) -> dict[str, Any]:
    """Facts about a data folder, as plain JSON; what the folder lacks is left out.

    Returns:
        ``limits``: sentences; ``splits``: split -> images, captions, phrases with boxes, source and sha256 of its file;
        ``regions``: images, regions, features and classes, and the file's description.

    Raises:
        UserError: a file is damaged.
    """
    names = [name for name in (*map(file_name, SPLITS), REGIONS) if (folder / name).is_file()]
    states = tuple((name, (folder / name).stat().st_mtime_ns, (folder / name).stat().st_size) for name in names)
    return _facts(folder, states)


@functools.lru_cache(maxsize=2)
def _facts(folder: Path, states: tuple[tuple[str, int, int], ...]) -> dict[str, Any]:
    names = {name for name, _, _ in states}
    facts: dict[str, Any] = {
        "limits": [text for name, text in LIMITS.items() if (folder / name).is_file()],
        "splits": {split: _split(folder / name, split) for split in SPLITS if (name := file_name(split)) in names},
    }
    if REGIONS in names:
        header = read_header(folder / REGIONS)
        shapes = {name: field.shape for name, field in header.fields.items()}
        images, regions, width = shapes["features"]
        facts["regions"] = {
            "images": images, "regions": regions, "features": width, "classes": shapes.get("class_probs", [0])[-1],
            **{name: str(header.attributes[name]) for name in REGION_FACTS if header.attributes.get(name)},
        }  # fmt: skip
    return facts


def _split(path: Path, split: str) -> dict[str, Any]:
    header, images = open_annotations(path, split)
    counts = {"images": 0, "captions": 0, "phrases": 0}
    for image in images:
        counts["images"] += 1
        counts["captions"] += len(image["captions"])
        counts["phrases"] += sum(bool(phrase["boxes"]) for text in image["captions"] for phrase in text["phrases"])
    source = {"source": header.get("source"), "gvd_identical": header.get("gvd_identical")}
    return {**counts, **source, "sha256": sha256_of(path)}
