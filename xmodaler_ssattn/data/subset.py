"""Select a part of an annotation folder as a new folder."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodaler_ssattn.data.annotations import file_name, open_annotations
from xmodaler_ssattn.data.vocabulary import build_vocabulary
from xmodaler_ssattn.data.written import PrepareReport, SplitOutput
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json


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
            references = _references(source_dir, split, wanted) if header["gvd_identical"] and split != "train" else {}
            absent = sorted(wanted - records.keys())
            if absent:
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


def _references(folder: Path, split: str, wanted: Collection[int]) -> dict[int, Mapping[str, Any]]:
    """image id -> its entry of the grounding references as published."""
    content = read_json(folder / f"grounding_{split}.json", "The grounding references")
    return {entry["image_id"]: entry for entry in content["annotations"] if entry["image_id"] in wanted}
