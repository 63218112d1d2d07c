"""Writes a scene as Flickr30k Entities is laid out: Images/ID.jpg, Sentences/ID.txt, Annotations/ID.xml, split ids."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from xmodaler_ssattn.files import write_json
from xmodaler_ssattn.sample.grammar import Description
from xmodaler_ssattn.sample.scenes import Scene

IMAGES, SENTENCES, ANNOTATIONS = "Images", "Sentences", "Annotations"
SPLIT_FILE = "split_ids_flickr30k_entities.json"
JPEG_QUALITY = 92


def write_scene(folder: Path, scene: Scene, description: Description) -> Image.Image:
    """Writes the scene's three files into the folders that stand in `folder` already.

    Returns:
        The picture as anybody who opens the JPEG file sees it, RGB: regions are computed from these pixels.
    """
    buffer = io.BytesIO()
    # 4:4:4: the usual halving of the colour planes smears the edges of small bright objects.
    scene.draw().save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    (folder / IMAGES / f"{scene.image_id}.jpg").write_bytes(buffer.getvalue())
    sentences = "".join(caption.markup() + "\n" for caption in description.captions)
    (folder / SENTENCES / f"{scene.image_id}.txt").write_text(sentences, encoding="utf-8")
    (folder / ANNOTATIONS / f"{scene.image_id}.xml").write_text(annotation_xml(scene, description), encoding="utf-8")
    return Image.open(buffer).convert("RGB")


def annotation_xml(scene: Scene, description: Description) -> str:
    """The official XML: one <object> a box, with all chains that it belongs to; pixels are counted from 1."""
    chains_of: dict[int, list[int]] = {}
    for chain, numbers in description.boxes.items():
        for number in numbers:
            chains_of.setdefault(number, []).append(chain)
    objects = []
    for number, chains in sorted(chains_of.items()):
        x1, y1, x2, y2 = scene.objects[number].box_px
        # box_px ends beyond the last column and row; the last one itself, counted from 1, has the same number.
        corners = (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", x2), ("ymax", y2))
        box = "".join(f"\t\t\t<{tag}>{value}</{tag}>\n" for tag, value in corners)
        objects.append(_names(chains) + f"\t\t<bndbox>\n{box}\t\t</bndbox>\n")
    for is_scene, chains in ((0, description.without_box), (1, description.scenes)):
        no_box = f"\t\t<scene>{is_scene}</scene>\n\t\t<nobndbox>1</nobndbox>\n"
        objects += [_names([chain]) + no_box for chain in chains]
    size = f"\t\t<width>{scene.width}</width>\n\t\t<height>{scene.height}</height>\n\t\t<depth>3</depth>\n"
    body = "".join(f"\t<object>\n{item}\t</object>\n" for item in objects)
    return (f"<annotation>\n\t<filename>{scene.image_id}.jpg</filename>\n\t<size>\n{size}\t</size>\n{body}"
            "</annotation>\n")


def _names(chains: Sequence[int]) -> str:
    return "".join(f"\t\t<name>{chain}</name>\n" for chain in chains)


def write_splits(folder: Path, splits: Mapping[str, Sequence[int]]) -> None:
    """Writes the split ids as text, as the official file has them."""
    write_json(folder / SPLIT_FILE, {split: [str(image_id) for image_id in ids] for split, ids in splits.items()})
