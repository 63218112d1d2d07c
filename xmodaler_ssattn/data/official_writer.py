"""Write the layout of Flickr30k Entities: marked sentences, annotation XML, split ids. ``entities`` reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from xmodaler_ssattn.files import write_json

IMAGES, SENTENCES, ANNOTATIONS = "Images", "Sentences", "Annotations"
SPLIT_FILE = "split_ids_flickr30k_entities.json"


@dataclasses.dataclass(frozen=True)
class ObjectBox:
    """One box and its chains. box_px: x1, y1, x2, y2, its first and last columns and rows, counted from 0."""

    box_px: tuple[int, int, int, int]
    chains: tuple[int, ...]


def marked(words: str, chain: int, entity_type: str) -> str:
    """A phrase in the sentences' markup: ``[/EN#3/other A red ball]``."""
    return f"[/EN#{chain}/{entity_type} {words}]"


def annotation_xml(
    image_id: int,
    width: int,
    height: int,
    boxes: Sequence[ObjectBox],
    *,
    without_box: Sequence[int] = (),
    scenes: Sequence[int] = (),
) -> str:
    """The official XML: one <object> per box, with all its chains; pixels are counted from 1.

    ``without_box`` are the chains of things that have no box, ``scenes`` those of places.
    """
    objects = []
    for box in boxes:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box.box_px)
        lines = "".join(f"\t\t\t<{tag}>{value + 1}</{tag}>\n" for tag, value in corners)
        objects.append(_names(box.chains) + f"\t\t<bndbox>\n{lines}\t\t</bndbox>\n")
    for is_scene, chains in ((0, without_box), (1, scenes)):
        no_box = f"\t\t<scene>{is_scene}</scene>\n\t\t<nobndbox>1</nobndbox>\n"
        objects += [_names([chain]) + no_box for chain in chains]
    size = f"\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>3</depth>\n"
    body = "".join(f"\t<object>\n{item}\t</object>\n" for item in objects)
    return f"<annotation>\n\t<filename>{image_id}.jpg</filename>\n\t<size>\n{size}\t</size>\n{body}</annotation>\n"


def _names(chains: Sequence[int]) -> str:
    return "".join(f"\t\t<name>{chain}</name>\n" for chain in chains)


def write_splits(folder: Path, splits: Mapping[str, Sequence[int]]) -> None:
    """Write the split ids as text, as in the official file."""
    write_json(folder / SPLIT_FILE, {split: [str(image_id) for image_id in ids] for split, ids in splits.items()})
