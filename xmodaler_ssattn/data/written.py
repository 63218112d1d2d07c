"""Write the files of an annotation folder, count their contents, and select a part of such a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import Image, coco_reference, file_name, gvd_reference, open_annotations
from xmodaler_ssattn.data.checksums import write_checksums
from xmodaler_ssattn.data.json_list import json_list
from xmodaler_ssattn.data.official import Problem
from xmodaler_ssattn.data.vocabulary import UNK, Vocabulary, build_vocabulary, write_vocabulary
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path, read_json, write_json

LONG_CAPTION = 20  # words; GVD cuts longer captions for training


@dataclasses.dataclass
class PrepareReport:
    """What was written into ``out_dir``.

    ``counts[split]`` has images, captions, long_captions, phrases, grounded_words and boxes; each box is counted once,
    even if it belongs to several chains.
    """

    out_dir: Path
    counts: dict[str, Counter[str]]
    vocabulary: Vocabulary = dataclasses.field(default_factory=lambda: Vocabulary([UNK]))
    boxed_phrases: int = 0  # phrases whose chain has a box
    classes_used: int = 0  # classes that have an object word with a box
    rest_images: int = 0  # images outside all splits whose words were counted
    clipped_boxes: int = 0  # boxes that exceeded the border by one pixel
    unrelated: int = 0  # captions left out of the training split because they were listed as unrelated
    gvd_identical: bool = False  # GVD's own file was used
    given_vocabulary: bool = False  # the words are those of GVD's dictionary
    planned: int = 0  # images in all splits
    left_out: list[Problem] = dataclasses.field(default_factory=list)  # empty unless ``skip_bad``

    def total(self, name: str) -> int:
        """A count summed over the splits."""
        return sum(counts[name] for counts in self.counts.values())

    def add_totals(self, outputs: Collection[SplitOutput]) -> None:
        """Add the counts over all splits."""
        self.boxed_phrases = sum(output.boxed_phrases for output in outputs)
        self.classes_used = len(set().union(*(output.classes_used for output in outputs)))

    def write_side_files(self, lemmas: Mapping[str, str] | None) -> None:
        """Write the small files, which describe the others, and remove older ones of which there is none now."""
        write_vocabulary(self.out_dir / "vocabulary.txt", self.vocabulary)
        fields = ("image_id", "message", "left_out")
        left_out = [{key: getattr(problem, key) for key in fields} for problem in self.left_out]
        for name, content in (("lemmas.json", lemmas), ("left_out.json", left_out or None)):
            if content is not None:
                write_json(self.out_dir / name, content, indent=1)
            else:
                (self.out_dir / name).unlink(missing_ok=True)
        write_checksums(self.out_dir)


class SplitOutput:
    """The files of one split while they are written.

    Args:
        stack: closes the files; they get their final names when it succeeds.
        header: the header of the annotation file; its classes are those of the grounding references.
    """

    def __init__(self, stack: contextlib.ExitStack, out_dir: Path, split: str, header: Mapping[str, Any]) -> None:
        self._images = stack.enter_context(json_list(out_dir / file_name(split), header, "images"))
        self._captions = stack.enter_context(atomic_path(out_dir / f"captions_{split}.json"))
        self._coco: dict[str, Any] = {"info": {}, "licenses": [], "type": "captions", "images": [], "annotations": []}
        self._grounding = None
        self.boxed_phrases = 0
        self.classes_used: set[str] = set()
        if split != "train":
            of_references = {key: header[key] for key in ("gvd_identical", "rule")} | {"vocab": header["classes"]}
            path = out_dir / f"grounding_{split}.json"
            self._grounding = stack.enter_context(json_list(path, of_references, "annotations"))

    def add(self, record: Image, boxes: int, reference: Mapping[str, Any] | None, counts: Counter[str]) -> None:
        """Write one image and count it.

        Args:
            boxes: the number of its boxes in the official file.
            reference: its published grounding reference, if there is one.
        """
        self._images.add(record)
        entry, annotations = coco_reference(record, len(self._coco["annotations"]))
        self._coco["images"].append(entry)
        self._coco["annotations"] += annotations
        if self._grounding is not None:
            self._grounding.add(gvd_reference(record) if reference is None else reference)
        counts["images"] += 1
        counts["boxes"] += boxes
        for caption in record["captions"]:
            counts["captions"] += 1
            counts["long_captions"] += len(caption["tokens"]) > LONG_CAPTION
            counts["phrases"] += len(caption["phrases"])
            boxed = [phrase["class"] for phrase in caption["phrases"] if phrase["boxes"]]
            named = [name for name in boxed if name is not None]
            self.boxed_phrases += len(boxed)
            counts["grounded_words"] += len(named)
            self.classes_used.update(named)

    def write_references(self) -> None:
        """Write the caption references, which are kept in memory until all images are known."""
        write_json(self._captions, self._coco)


def select_annotations(
    source_dir: str | os.PathLike, out_dir: str | os.PathLike, chosen: Mapping[str, Sequence[int]]
) -> PrepareReport:
    """Write the part of an annotation folder for some of its images, with the vocabulary of these images.

    Args:
        source_dir: a folder that ``prepare_annotations`` wrote.
        out_dir: folder to write; files of the same name are replaced.
        chosen: split -> image ids, in the order of the new files.

    Raises:
        UserError: a file is missing or bad, or lacks an image.
    """
    source_dir, out_dir = Path(source_dir), Path(out_dir)
    report = PrepareReport(out_dir, {split: Counter() for split in chosen}, planned=sum(map(len, chosen.values())))
    counted: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        outputs = []
        for split, ids in chosen.items():
            header, images = open_annotations(source_dir / file_name(split), split)
            report.gvd_identical = header["gvd_identical"]
            wanted = set(ids)
            records = {image["image_id"]: image for image in images if image["image_id"] in wanted}
            references = {}
            if header["gvd_identical"] and split != "train":  # as published
                content = read_json(source_dir / f"grounding_{split}.json", "The grounding references")
                references = {entry["image_id"]: entry for entry in content["annotations"]}
            if absent := sorted(wanted - records.keys()):
                raise UserError(f"{source_dir / file_name(split)} lacks {len(absent)} images, e.g. {absent[:5]}.")
            output = SplitOutput(stack, out_dir, split, header)
            for image_id in ids:
                captions = records[image_id]["captions"]
                counted.update(token for caption in captions for token in caption["tokens"])
                phrases = (phrase for caption in captions for phrase in caption["phrases"])
                boxes = {tuple(box) for phrase in phrases for box in phrase["boxes"]}
                output.add(records[image_id], len(boxes), references.get(image_id), report.counts[split])
            outputs.append(output)
        report.add_totals(outputs)
        report.vocabulary = build_vocabulary(counted)
        for output in outputs:
            output.write_references()
    lemmas = source_dir / "lemmas.json"
    report.write_side_files(read_json(lemmas, "The table of lemmas") if lemmas.is_file() else None)
    return report
