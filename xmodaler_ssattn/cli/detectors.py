"""Open a detector: a Bottom-Up network, a model of transformers, or the region maker of the sample scenes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmodaler_ssattn.cli.options import check_device
from xmodaler_ssattn.detectors.detected import Detected, Detector
from xmodaler_ssattn.detectors.spec import BACKENDS
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import sha256_of

MIN_MAX = (36, 36)
TRANSFORMERS = "transformers"


class SampleDetector:
    """``SceneRegionMaker`` as a ``Detector``."""

    def __init__(self, path: str | os.PathLike) -> None:
        from xmodaler_ssattn.worlds.drawn.region_maker import CLASS_NAMES, SceneRegionMaker

        self._maker = SceneRegionMaker.load(path)
        self.class_names = CLASS_NAMES
        self.feature_dim = self._maker.feature_dim
        self.num_classes = self._maker.num_classes - 1
        self.max_boxes = self._maker.num_regions  # per picture
        self.source = "sample scenes: region maker, from pictures alone"
        self.weights_sha256 = sha256_of(path)
        self.strangers = 0  # pictures so far that are not drawn scenes; their regions are meaningless

    def detect(self, image_bgr: np.ndarray) -> Detected:
        from PIL import Image

        from xmodaler_ssattn.worlds.drawn.scenes import looks_drawn

        picture = Image.fromarray(np.ascontiguousarray(image_bgr[:, :, ::-1]))
        self.strangers += not looks_drawn(picture)
        found = self._maker(picture)
        kinds = found.class_probs[:, 1:]
        confidence, objects = kinds.max(axis=1), kinds.argmax(axis=1)
        return Detected(
            found.width, found.height, found.boxes_px, found.features, found.class_probs, confidence, objects
        )

    def detect_many(self, images_bgr: Sequence[np.ndarray]) -> list[Detected]:
        return [self.detect(image) for image in images_bgr]


def add_detector_arguments(parser: argparse.ArgumentParser, *, several: bool = True) -> None:
    """--backend, --device, --min-max-boxes and, for ``several`` pictures at once, --batch."""
    parser.add_argument(
        "--backend",
        choices=(*BACKENDS, TRANSFORMERS),
        default="auto",
        help="what runs the detector. A weights file of a Bottom-Up network: torch or detectron2 (default: detectron2 "
        "where it is installed). A folder with an object detector of Hugging Face transformers: transformers (default "
        "for a folder)",
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda when there is one")
    parser.add_argument(
        "--min-max-boxes",
        metavar="MIN,MAX",
        help="regions per picture: 36,36 (default) is always 36; 10,100 depends on their confidence",
    )
    if several:
        parser.add_argument(
            "--batch", type=int, default=1, metavar="N", help="pictures at once, for a GPU (default: 1)"
        )
    else:
        parser.set_defaults(batch=1)


def add_captioner_arguments(parser: argparse.ArgumentParser, *, several: bool = True) -> None:
    """The options of ``load_captioner`` and of its detector; ``several`` as in ``add_detector_arguments``."""
    add = parser.add_argument
    add("--weights", required=True, metavar="FILE", help="the captioner: a checkpoint, or the folder of a run")
    add(
        "--detector",
        metavar="FILE",
        help="the detector's weights, from their authors (default: region_maker.npz of the sample scenes, when the "
        "captioner was trained on them)",
    )
    add_detector_arguments(parser, several=several)
    add("--config-file", metavar="FILE", help="the captioner's config (default: config.yaml beside the checkpoint)")
    add("--vocabulary", metavar="FILE", help="the captioner's vocabulary (default: as in its config)")
    add("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config options, e.g. DECODE_STRATEGY.BEAM_SIZE 5")


def open_detector(path: str | os.PathLike, args: argparse.Namespace) -> tuple[Detector, int]:
    """The detector of a weights file or folder, and the maximum number of regions that it returns per picture.

    Args:
        args: see ``add_detector_arguments``.
    """
    if args.batch < 1:
        raise UserError(f"--batch: expected 1 or more, got {args.batch}.")
    boxes = MIN_MAX if args.min_max_boxes is None else parse_min_max(args.min_max_boxes)
    if Path(path).suffix == ".npz":
        if args.min_max_boxes is not None or args.backend != "auto":
            raise UserError(
                f"{path} is a region maker of the sample scenes; --backend and --min-max-boxes apply only to other "
                "detectors."
            )
        sample = SampleDetector(path)
        return sample, sample.max_boxes
    check_device("cpu" if args.device is None else args.device, "--device")
    if args.backend == TRANSFORMERS or (args.backend == "auto" and Path(path).is_dir()):
        from xmodaler_ssattn.detectors.transformers_backend import load_transformers

        if not Path(path).is_dir():
            raise UserError(
                f"--backend transformers: {path} is not a folder; expected the folder of a model, with config.json, "
                "model.safetensors and preprocessor_config.json. Nothing is downloaded."
            )
        model = load_transformers(path, device=args.device, min_max_boxes=boxes)
        return model, min(boxes[1], model.num_queries)
    from xmodaler_ssattn.detectors.loading import load_detector

    return load_detector(path, backend=args.backend, device=args.device, min_max_boxes=boxes), boxes[1]


def parse_min_max(text: str) -> tuple[int, int]:
    """``"10,100"`` -> (10, 100)."""
    low, comma, high = text.partition(",")
    if not (comma and low.strip().isdecimal() and high.strip().isdecimal() and 1 <= int(low) <= int(high)):
        raise UserError(f"--min-max-boxes: expected MIN,MAX with 1 <= MIN <= MAX, such as 36,36; got {text!r}.")
    return int(low), int(high)
