"""The boxes of object words as COCO detection results, with the data set that they belong to.

The layouts are those of https://cocodataset.org/#format-results (Object Detection) and #format-data; boxes are x, y,
width, height in pixels. ``COCO("OUT/dataset.json").loadRes("OUT/detections.json")`` reads them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.exports.export import (
    Export,
    Written,
    add_annotations,
    add_greedy,
    add_images,
    add_out_folder,
    check_new_folder,
    no_boxes,
)
from xmodaler_ssattn.files import atomic_directory, write_json

if TYPE_CHECKING:
    from xmodaler_ssattn.evaluation.results import Results


class CocoBoxes(Export):
    """``detections.json``: image_id, category_id, bbox, score. ``dataset.json``: images, categories, annotations."""

    name = "coco-boxes"
    summary = "boxes of object words as COCO detection results, for pycocotools"
    description = (
        "Write a folder with detections.json, the box of each object word with its attention as score, and "
        "dataset.json, the images and categories (the object classes), with the ground-truth boxes if --annotations "
        'is given: COCO("OUT/dataset.json").loadRes("OUT/detections.json").'
    )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_out_folder(parser, "coco_boxes")
        add_greedy(parser)
        add_annotations(parser, "adds the ground-truth boxes; categories are then numbered in its order")
        add_images(parser, default="; for their file names (default: ID.jpg)")

    @classmethod
    def write(cls, results: Results, args: argparse.Namespace) -> Written:
        from xmodaler_ssattn.exports.grounded import captions_of, exported_images, object_words, outside_doubt
        from xmodaler_ssattn.report.source import read_truths

        check_new_folder(args.out)
        captions = captions_of(results, args.greedy, boxes=True)
        truths, classes, notices = read_truths(results, args.annotations)
        images = exported_images(results, args.images, truths)
        named = {*results.object_words.values(), *(name for truth in truths.values() for name in truth.boxes)}
        numbers = {name: at for at, name in enumerate(dict.fromkeys((*classes, *sorted(named))), 1)}
        detections: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        outside = 0
        for image in images:
            image_id = image.result.image_id
            words, lost = object_words(captions[image_id], results.object_words, image.width, image.height)
            outside += lost
            for word in words:
                place = {"image_id": image_id, "category_id": numbers[word.label], "bbox": xywh(word.box_px)}
                detections.append({**place, "score": round(word.weight, 4), "word": word.text})
            for name, boxes in (truths[image_id].boxes if image_id in truths else {}).items():
                for box in boxes:
                    bbox = xywh(box)
                    record = {"id": len(annotations) + 1, "image_id": image_id, "category_id": numbers[name]}
                    annotations.append({**record, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0})
        if not detections:
            raise UserError(f"{args.results}: {no_boxes(outside)}, so there is no box to write.")
        dataset = {
            "info": {"description": "Images and object classes of grounded captions"},
            "images": [
                {"id": i.result.image_id, "file_name": i.file_name, "width": i.width, "height": i.height}
                for i in images
            ],
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
            "annotations": annotations,
        }
        with atomic_directory(args.out) as folder:
            write_json(folder / "detections.json", detections)
            write_json(folder / "dataset.json", dataset)
        done = f"{len(detections)} boxes of {len(images)} images written to {args.out}"
        return Written(done, (*notices, *outside_doubt(outside)))


def xywh(box_px: Any) -> list[float]:
    """A box of xyxy pixels as x, y, width, height.

    >>> xywh((10, 20, 50.5, 60))
    [10, 20, 40.5, 40]
    """
    x1, y1, x2, y2 = box_px
    return [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
