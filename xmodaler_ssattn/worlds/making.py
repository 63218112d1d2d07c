"""What both kinds of generated data sets need: the official layout, the manifest of a folder, several processes.

folder/Sentences/ID.txt  Annotations/ID.xml  split_ids_flickr30k_entities.json    the layout of Flickr30k Entities
folder/{train,val,test}.json  vocabulary.txt  captions_*.json  grounding_*.json   the annotations prepared from it

The manifest has the parameters, by which an existing folder is used again or refused.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from xmodaler_ssattn.data.official_writer import ANNOTATIONS, SENTENCES, write_splits
from xmodaler_ssattn.data.prepare import PrepareReport, prepare_annotations
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.stopping import ended_by_its_pool, starting_a_pool

T = TypeVar("T")
_make: Callable[[Any], Any] | None = None  # set in a worker


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


def read_manifest(path: str | os.PathLike) -> dict[str, Any]:
    """The entries; empty when the file has other content. Raises a ``UserError`` if it is not JSON."""
    manifest = read_json(path, "The manifest")
    return manifest if isinstance(manifest, dict) else {}


def differences(found: Any, wanted: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A phrase for each entry of `wanted` whose value in `found`, usually a dict, differs.

    >>> list(differences({"seed": 1, "sizes": {"K": 36}}, {"seed": 2, "sizes": {"K": 10}}))
    ['seed was 1, now 2', 'sizes.K was 36, now 10']
    """
    for name, value in wanted.items():
        there = found.get(name) if isinstance(found, dict) else None
        if isinstance(value, dict) and isinstance(there, dict):
            yield from differences(there, value, f"{prefix}{name}.")
        elif there != value:
            short = isinstance(value, (str, int, float)) or len(str(value)) < 60
            yield f"{prefix}{name} was {there}, now {value}" if short else f"other {prefix}{name}"


def map_in_processes(make: Callable[[Any], T], items: Sequence[Any], workers: int) -> Iterator[T]:
    """``make(item)`` for each item, in order, in so many processes; 1: only this one.

    ``make`` must be picklable, for systems without fork: a function of a module, or a partial of one.
    """
    if min(workers, len(items)) <= 1:
        yield from map(make, items)
        return
    # A fork starts quickly and shares the data of `make`; it is safe only on Linux.
    method = "fork" if sys.platform == "linux" else "spawn"
    with starting_a_pool():
        pool = multiprocessing.get_context(method).Pool(min(workers, len(items)), _set_make, (make,))
    with pool:
        yield from pool.imap(_call_make, items, chunksize=4)


def _set_make(make: Callable[[Any], Any]) -> None:
    global _make
    ended_by_its_pool()
    _make = make


def _call_make(item: Any) -> Any:
    assert _make is not None
    return _make(item)
