"""The manifest of a drawn data set: whether a folder can be used as it is."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data import official_writer
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.packs import region_file

MANIFEST = "sample.json"


@functools.cache
def program_hash() -> str:
    """Changes whenever the program that draws changes: a hash of its source files and of the region file's version."""
    digest = hashlib.sha256(str(region_file.VERSION).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def why_not_usable(folder: Path, wanted: Mapping[str, Any]) -> str | None:
    """None when the folder holds the wanted scenes, complete; "" when there is nothing; else the reason to draw again.

    Raises:
        UserError: the folder holds files that the program did not draw; it will not delete those.
    """
    if not folder.exists():
        return ""
    if not folder.is_dir():
        raise UserError(f"The sample scenes need a folder; {folder} is a file. Choose another place.")
    present = set(os.listdir(folder))
    if not present:
        return ""
    if MANIFEST not in present:
        raise UserError(
            f"{folder} is not empty and holds no {MANIFEST}, so it is no folder of sample scenes. "
            "Choose another folder, or remove this one."
        )
    manifest = read_json(folder / MANIFEST, "The sample scenes' manifest")
    found = manifest if isinstance(manifest, dict) else {}
    reasons = [
        f"{name} was {found.get('parameters', {}).get(name)}, now {value}"
        for name, value in wanted["parameters"].items()
        if found.get("parameters", {}).get(name) != value
    ]
    if found.get("program") != wanted["program"]:
        reasons.append("they were drawn by another version of the program")
    missing = sorted(set(found.get("files", ())) - present)
    if missing:
        reasons.append(f"{', '.join(missing)} is missing")
    for name in (official_writer.IMAGES, official_writer.SENTENCES, official_writer.ANNOTATIONS):
        count = len(os.listdir(folder / name)) if name in present else 0
        if name in present and count != wanted["parameters"]["num_images"]:
            reasons.append(f"{name} holds {count} files")
    if not reasons:
        return None
    foreign = sorted(present - set(found.get("files", ())) - {MANIFEST})
    if foreign:
        raise UserError(
            f"The sample scenes in {folder} cannot be used ({'; '.join(reasons)}), and drawing them again "
            f"would remove other files there: {', '.join(foreign)}. Move these, or choose another folder."
        )
    return "; ".join(reasons)
