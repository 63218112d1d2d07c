"""Writes a scene as Flickr30k Entities is laid out: Images/ID.jpg, Sentences/ID.txt, Annotations/ID.xml, split ids."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from xmodaler_ssattn.data.official_writer import ANNOTATIONS, IMAGES, SENTENCES, ObjectBox
from xmodaler_ssattn.data.official_writer import annotation_xml as official_xml
from xmodaler_ssattn.worlds.drawn.grammar import Description
from xmodaler_ssattn.worlds.drawn.scenes import Scene

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
    """The official XML of a scene."""
    chains_of: dict[int, list[int]] = {}
    for chain, numbers in description.boxes.items():
        for number in numbers:
            chains_of.setdefault(number, []).append(chain)
    boxes = []
    for number, chains in sorted(chains_of.items()):
        x1, y1, x2, y2 = scene.objects[number].box_px  # it ends beyond the last column and row
        boxes.append(ObjectBox((x1, y1, x2 - 1, y2 - 1), tuple(chains)))
    return official_xml(
        scene.image_id, scene.width, scene.height, boxes, without_box=description.without_box, scenes=description.scenes
    )
