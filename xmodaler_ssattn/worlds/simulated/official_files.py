"""Writes a simulated image in the layout of Flickr30k Entities: Sentences/ID.txt, Annotations/ID.xml, no picture."""

from __future__ import annotations

from pathlib import Path

from xmodaler_ssattn.data.official_writer import ANNOTATIONS, SENTENCES, ObjectBox, annotation_xml, marked
from xmodaler_ssattn.worlds.simulated.captions import Talk
from xmodaler_ssattn.worlds.simulated.kinds import kind_of
from xmodaler_ssattn.worlds.simulated.scene import Scene


def write_official(folder: Path, image_id: int, talk: Talk, scene: Scene) -> None:
    """Writes the two files of an image into the folders that stand in `folder` already."""
    (folder / SENTENCES / f"{image_id}.txt").write_text(sentences(talk), encoding="utf-8", newline="\n")
    (folder / ANNOTATIONS / f"{image_id}.xml").write_text(annotations(image_id, scene), encoding="utf-8", newline="\n")


def sentences(talk: Talk) -> str:
    """The captions with markup, one a line; an object's chain is its place in ``Talk.objects``, counted from 1."""
    lines = []
    for words, phrases, chains in zip(talk.words, talk.phrases, talk.chains):
        parts, position = [], 0
        for phrase, chain in zip(phrases, chains):
            kind = kind_of(phrase.name)
            parts += words[position : phrase.start]
            parts.append(
                marked(" ".join(words[phrase.start : phrase.end]), chain + 1, kind.entity_type if kind else "other")
            )
            position = phrase.end
        lines.append(" ".join([*parts, *words[position:]]) + "\n")
    return "".join(lines)


def annotations(image_id: int, scene: Scene) -> str:
    """The image's XML: the boxes of what is mentioned, and nothing of what is not."""
    boxes: list[ObjectBox] = []
    scenes: list[int] = []
    for number, boxed in enumerate(scene.boxed):
        if boxed:
            boxes.append(ObjectBox(tuple(scene.boxes_px[number].tolist()), (number + 1,)))
        else:
            scenes.append(number + 1)
    return annotation_xml(image_id, scene.width, scene.height, boxes, scenes=scenes)
