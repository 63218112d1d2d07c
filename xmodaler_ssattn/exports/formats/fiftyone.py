"""A FiftyOne data set: pictures with captions, the boxes of object words, and the ground truth.

The layout is the version-independent form of FiftyOne's own format, which its importer
(``fiftyone.utils.data.importers.LegacyFiftyOneDatasetImporter``, https://github.com/voxel51/fiftyone) reads when
``metadata.json`` has no "version"; the other form repeats the documents of one version of its database::

    metadata.json    {"name", "media_type": "image", "info", ...}
    samples.json     {"samples": [{"filepath": "data/17.jpg", "image_id": 17, "caption": "...",
                                   "words": {"_cls": "Detections", "detections": [DETECTION, ...]}, ...}]}
    data/            the pictures

    DETECTION        {"_cls": "Detection", "label", "bounding_box": [x, y, w, h], "confidence", "word"}

Boxes are fractions of the picture's width and height: left, top, width, height.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.exports.export import (
    Export,
    Written,
    add_annotations,
    add_images,
    add_out_folder,
    check_new_folder,
    no_boxes,
)
from xmodaler_ssattn.files import atomic_directory, write_json

if TYPE_CHECKING:
    from xmodaler_ssattn.evaluation.results import Results
    from xmodaler_ssattn.exports.grounded import ExportedImage

GREEDY = "greedy_"  # prefix of the fields of greedy captions, where an image has another main caption


class FiftyOne(Export):
    """One sample per image; its fields are ``caption``, ``words``, ``greedy_caption``, ``greedy_words``,
    ``ground_truth`` and ``references``."""

    name = "fiftyone"
    summary = "pictures, captions, boxes and ground truth as a FiftyOne data set"
    description = (
        "Write a folder that FiftyOne opens: fiftyone.Dataset.from_dir(OUT, "
        "dataset_type=fiftyone.types.FiftyOneDataset). Each picture has its captions, the box of each object word with "
        "its class as label and its attention as confidence, and with --annotations the ground-truth boxes and the "
        "reference captions."
    )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_out_folder(parser, "fiftyone")
        add_images(parser, required=True, default="; linked into the folder, or copied")
        add_annotations(parser, "adds the ground-truth boxes and the reference captions")

    @classmethod
    def write(cls, results: Results, args: argparse.Namespace) -> Written:
        from xmodaler_ssattn.exports.grounded import captions_of, exported_images, object_words, outside_doubt
        from xmodaler_ssattn.report.pictures import link_or_copy
        from xmodaler_ssattn.report.source import read_truths, versions

        check_new_folder(args.out)
        captions_of(results, greedy=False)  # an empty results file is an error
        truths, _, notices = read_truths(results, args.annotations)
        images = exported_images(results, args.images, truths)
        samples, found, outside = [], 0, 0
        for image in images:
            sample = _sample(image, results.header.get("split"))
            for kind, caption in versions(image.result).items():
                words, lost = object_words(caption, results.object_words, image.width, image.height)
                prefix = GREEDY if kind == "greedy" else ""
                boxes = [
                    _detection(image, word.label, word.box_px, confidence=round(word.weight, 4), word=word.text)
                    for word in words
                ]
                sample |= {f"{prefix}caption": str(caption), f"{prefix}words": _detections(boxes)}
                found, outside = found + len(words), outside + lost
            if (truth := truths.get(image.result.image_id)) is not None:
                boxes = [_detection(image, name, box) for name, places in truth.boxes.items() for box in places]
                references = [caption["raw"] for caption in truth.captions]
                sample |= {"ground_truth": _detections(boxes), "references": references}
            samples.append(sample)
        told = [key for key in ("split", "epoch", "ground_by", "scores") if key in results.header]
        info = {"source": "xmodaler_ssattn", **{key: results.header[key] for key in told}}
        metadata = {"name": "grounded captions", "media_type": "image", "info": info}
        with atomic_directory(args.out) as folder:
            for image in images:
                assert image.path is not None  # --images is required
                link_or_copy(image.path, folder / "data" / image.file_name)
            write_json(folder / "samples.json", {"samples": samples})
            write_json(folder / "metadata.json", metadata)
        why = outside_doubt(outside) if found else (f"{no_boxes(outside)}, so there are no boxes",)
        return Written(f"{len(samples)} pictures with {found} boxes written to {args.out}", (*notices, *why))


def _sample(image: ExportedImage, split: Any) -> dict[str, Any]:
    return {
        "filepath": f"data/{image.file_name}",
        "tags": [split] if isinstance(split, str) else [],
        "metadata": {"_cls": "ImageMetadata", "width": image.width, "height": image.height},
        "image_id": image.result.image_id,
    }


def _detections(boxes: list[dict[str, Any]]) -> dict[str, Any]:
    return {"_cls": "Detections", "detections": boxes}


def _detection(image: ExportedImage, label: str, box_px: Any, **more: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = box_px
    x, y = x1 / image.width, y1 / image.height
    box = [x, y, (x2 - x1) / image.width, (y2 - y1) / image.height]
    return {"_cls": "Detection", "label": label, "bounding_box": [round(side, 6) for side in box], **more}
