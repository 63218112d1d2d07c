"""A generated data set in the layout of Flickr30k Entities, and the annotations that are prepared from it.

folder/Sentences/ID.txt  Annotations/ID.xml  split_ids_flickr30k_entities.json    the official layout
folder/{train,val,test}.json  vocabulary.txt  captions_*.json  grounding_*.json   prepared from it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from xmodaler_ssattn.data.official_writer import ANNOTATIONS, SENTENCES, write_splits
from xmodaler_ssattn.data.prepare import PrepareReport, prepare_annotations


def make_folders(folder: Path, splits: Mapping[str, Sequence[int]]) -> None:
    """Make the folders of the official layout, and write the split ids."""
    for name in (SENTENCES, ANNOTATIONS):
        (folder / name).mkdir(parents=True)
    write_splits(folder, splits)


def write_image(folder: Path, image_id: int, sentences: Iterable[str], xml: str) -> None:
    """Write an image's marked sentences and its boxes."""
    text = "".join(f"{sentence}\n" for sentence in sentences)
    for path, content in ((f"{SENTENCES}/{image_id}.txt", text), (f"{ANNOTATIONS}/{image_id}.xml", xml)):
        (folder / path).write_text(content, encoding="utf-8", newline="\n")


def prepare(
    folder: Path,
    splits: Mapping[str, Sequence[int]],
    classes: Sequence[str],
    lemma: Callable[[str], str],
    source: str,
    workers: int = 1,
) -> PrepareReport:
    """Write the annotations of the official files in the folder, as ``xmodaler prepare annotations`` does."""
    return prepare_annotations(
        folder,
        splits,
        lemma=lemma,
        sentences_dir=folder / SENTENCES,
        annotations_dir=folder / ANNOTATIONS,
        classes=list(classes),
        source=source,
        workers=workers,
    )
