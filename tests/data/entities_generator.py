"""Make folders in the official Flickr30k Entities layout out of plain captions, for tests and measurements.

Words of the class list become phrases (with the word before them); each class of an image is one
chain, with one to three boxes, or without a box (scene, nobox) now and then.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from pathlib import Path

WORD = re.compile(r"\w+(?:[-'&]\w+)*|[^\w\s]")


def shared_data() -> Path:
    """The folder with real captions: SSATTN_TEST_DATA, else ../shared/data beside the project."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("SSATTN_TEST_DATA", default))


def real_captions() -> dict[str, dict]:
    """image id -> {"split", "captions"} of the real data set."""
    with gzip.open(shared_data() / "flickr30k" / "captions.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


def markup(caption: str, classes: set[str], chains: dict[str, str]) -> str:
    """Tokenise a caption and mark its class words."""
    words = WORD.findall(caption)
    out: list[str] = []
    for word in words:
        name = word.lower() if word.lower() in classes else word.lower().rstrip("s")
        if name in classes:
            chain = chains.setdefault(name, str(1000 + len(chains)))
            before = [out.pop()] if out and out[-1].isalpha() else []
            out.append(f"[/EN#{chain}/other {' '.join([*before, word])}]")
        else:
            out.append(word)
    return " ".join(out)


def xml_of(image_id: str, chains: dict[str, str], width: int, height: int, rng: random.Random) -> str:
    """The image's XML; coordinates count from 1 as the official files do."""
    parts = []
    parts.append(
        f"<annotation>\n\t<filename>{image_id}.jpg</filename>\n\t<size>\n\t\t<width>{width}</width>\n"
        f"\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
    )
    for number, chain in enumerate(chains.values()):
        if number % 7 == 6:
            scene = rng.randrange(2)
            parts.append(
                f"\t<object>\n\t\t<name>{chain}</name>\n\t\t<scene>{scene}</scene>\n"
                f"\t\t<nobndbox>{1 - scene}</nobndbox>\n\t</object>\n"
            )
            continue
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            x1, x2 = sorted(rng.sample(range(1, width + 1), 2))
            y1, y2 = sorted(rng.sample(range(1, height + 1), 2))
            parts.append(
                f"\t<object>\n\t\t<name>{chain}</name>\n\t\t<bndbox>\n\t\t\t<xmin>{x1}</xmin>\n"
                f"\t\t\t<ymin>{y1}</ymin>\n\t\t\t<xmax>{x2}</xmax>\n\t\t\t<ymax>{y2}</ymax>\n\t\t</bndbox>\n"
                "\t</object>\n"
            )
    return "".join(parts) + "</annotation>\n"


def write_entities(folder: Path, captions: dict[str, dict], classes: set[str], seed: int = 0) -> dict[str, list[int]]:
    """Write ``Sentences`` and ``Annotations`` for all given captions; return split -> ids."""
    rng = random.Random(seed)
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for image_id, entry in captions.items():
        chains: dict[str, str] = {}
        lines = [markup(caption, classes, chains) for caption in entry["captions"]]
        (folder / "Sentences" / f"{image_id}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        xml = xml_of(image_id, chains, rng.choice([500, 333, 375]), rng.choice([375, 500, 333]), rng)
        (folder / "Annotations" / f"{image_id}.xml").write_text(xml, encoding="utf-8")
        splits[entry["split"]].append(int(image_id))
    return splits


def phrase(start, end, head, name, chain, *boxes):
    """A phrase of an annotation file."""
    boxes = [list(box) for box in boxes]
    return {"start": start, "end": end, "head": head, "class": name, "chain": chain, "boxes": boxes}
