"""Object detectors of Hugging Face transformers, from a local folder, as region detectors.

The folder has ``config.json``, ``model.safetensors`` (or its shards) and ``preprocessor_config.json``. Nothing is
downloaded, no code of the folder is run, and no pickle is read. Models of the DETR family and YOLOS can be used: they
have a fixed set of queries, each with a box, class scores and a state of the decoder.

Letters: Q queries, D size of a state, C classes without background.

    V = the last decoder state of a query, (Q, D); the layer of the class scores reads it (D-FINE adds a number for the
      quality of the box to these scores)
    box = centre and size as fractions of the picture -> x1, y1, x2, y2 in its pixels, cut at its borders
    c, background first, from the scores z:
      C + 1 scores, the last one for "no object" (DETR, YOLOS):       c = softmax(z), the last column moved to the front
      C scores, a sigmoid each (Conditional and Deformable DETR, RT-DETR, RF-DETR):    c = softmax([0, z])
    confidence = the largest class probability as the model itself reports it: of softmax(z), or sigmoid(z)

A sigmoid model gives each class its own probability s_k = sigmoid(z_k), and they do not sum to 1. c is the distribution
of these independent events, given that at most one of them happens: P(class k) is proportional to s_k / (1 - s_k) =
exp(z_k), and P(none) to 1.

Regions are the most confident queries. There is no non-maximum suppression: the models are trained to report each
object once.

Pictures are resized by Pillow, as by the library's own processors without torchvision, which is not needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xmodaler_ssattn.detectors.detected import Detected
from xmodaler_ssattn.detectors.selection import SelectionRule
from xmodaler_ssattn.detectors.torch_backend import full_precision
from xmodaler_ssattn.errors import UserError, raise_all, require
from xmodaler_ssattn.files import read_json, sha256_of

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
BLANK = (64, 64)  # pixels of the blank picture that the model's widths are read from
# YOLOS cuts a picture into patches; its processor rounds both sides down to whole ones.
MULTIPLES = {"yolos": 16}
UNUSED = ("num_batches_tracked", "denoising_class_embed.weight")  # ends of weights that only training reads


class PictureRule:
    """From a picture to the model's input, by ``preprocessor_config.json``.

    Args:
        settings: the content of the file; ``size`` is required, the other defaults are those of DETR's processor.
        multiple: both sides of the input are rounded down to a multiple of this.
        where: the file, for messages.

    Raises:
        UserError: a setting is missing or not supported.
    """

    def __init__(self, settings: Mapping[str, Any], multiple: int, where: str | os.PathLike) -> None:
        size = settings.get("size")
        if isinstance(size, int):  # before the year 2023
            size = {"shortest_edge": size, "longest_edge": settings.get("max_size", 1333)}
        self._size: dict[str, int] = dict(size) if isinstance(size, dict) else {}
        self._multiple = multiple
        self._resample = settings.get("resample", Image.Resampling.BILINEAR)
        self._scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
        normalize = settings.get("do_normalize", True)
        mean = settings.get("image_mean", [0.485, 0.456, 0.406]) if normalize else [0.0] * 3
        std = settings.get("image_std", [0.229, 0.224, 0.225]) if normalize else [1.0] * 3
        problems = []
        if set(self._size) not in ({"height", "width"}, {"shortest_edge", "longest_edge"}) or not all(
            isinstance(side, int) and 1 <= side <= 4096 for side in self._size.values()
        ):
            problems.append(
                f"size is {size!r}, expected height and width, or shortest_edge and longest_edge, 1 to 4096"
            )
        if not settings.get("do_resize", True):
            problems.append("do_resize is false, so pictures of any size would go into the model")
        problems += [f"{key} is not supported" for key in ("do_center_crop", "pad_size") if settings.get(key)]
        if not isinstance(self._resample, int) or self._resample not in list(Image.Resampling):
            problems.append(f"resample is {self._resample!r}, expected one of {[int(r) for r in Image.Resampling]}")
        numbers = {"image_mean": (mean, 3), "image_std": (std, 3), "rescale_factor": ([self._scale], 1)}
        problems += [
            f"{key} is {value!r}, expected {count} numbers"
            for key, (value, count) in numbers.items()
            if not isinstance(value, list) or len(value) != count or not all(isinstance(v, (int, float)) for v in value)
        ]
        raise_all(problems, f"Detector: {where} cannot be used")
        self._mean, self._std = np.float32(mean), np.float32(std)
        if (self._std == 0).any():
            raise UserError(f"Detector: {where}: image_std is {std}, which divides by 0.")

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the input for a picture of this size."""
        if "height" in self._size:
            return self._size["width"], self._size["height"]
        short, longest = self._size["shortest_edge"], self._size["longest_edge"]
        exact = float(short)
        if max(width, height) / min(width, height) * short > longest:
            exact = longest * min(width, height) / max(width, height)
            short = round(exact)
        long = int(exact * max(width, height) / min(width, height))
        if min(width, height) == short:
            long = max(width, height)
        sides = [side - side % self._multiple for side in ((short, long) if width <= height else (long, short))]
        if min(sides) < 1:
            raise UserError(f"a picture of {width} x {height} pixels is too narrow for the detector. Crop it.")
        return sides[0], sides[1]

    def __call__(self, image_bgr: np.ndarray) -> torch.Tensor:
        """(H, W, 3) uint8, blue first -> (3, h, w) float32, red first."""
        height, width = image_bgr.shape[:2]
        picture = Image.fromarray(np.ascontiguousarray(image_bgr[:, :, ::-1]))
        resized = np.asarray(picture.resize(self.size_of(width, height), Image.Resampling(self._resample)))
        values = (resized.astype(np.float32) * np.float32(self._scale) - self._mean) / self._std
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


class TransformersDetector:
    """See ``detected.Detector``.

    Args:
        model: an object detection model of transformers, with float32 weights; it is moved to ``device``.
        pictures: the model's ``PictureRule``.
        where: the folder, for messages.
        device: "cpu", "cuda", ...
        rule: the number of regions; its suppression is not used.
        weights_sha256: of the weights, for the record.

    Attributes:
        class_names: C names, in the order of the class probabilities after the background.
        num_queries: Q.

    Raises:
        UserError: the model's outputs are not those of a detector with queries.
    """

    def __init__(
        self,
        model: Any,
        pictures: PictureRule,
        *,
        where: str | os.PathLike,
        device: str | torch.device = "cpu",
        rule: SelectionRule | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        self._model, self._pictures = model.to(device).eval(), pictures
        self.device, self.rule, self.weights_sha256 = torch.device(device), rule or SelectionRule(), weights_sha256
        self.source = f"Hugging Face transformers: {type(model).__name__}"
        labels = model.config.id2label
        self.num_classes = len(labels)
        self.class_names = [" ".join(str(labels.get(k, f"class {k}")).split()) for k in range(self.num_classes)]
        if getattr(model.config, "use_focal_loss", True) is False:
            raise UserError(f"Detector: {where}: use_focal_loss false is not supported; its classes lack a background.")
        try:
            states, scores, boxes = self._run(torch.stack([pictures(np.zeros((*BLANK, 3), dtype=np.uint8))]))
        except (AttributeError, TypeError, IndexError) as error:
            raise UserError(
                f"Detector: {where}: {type(model).__name__} does not return the states, class scores and boxes of "
                f"queries ({error}); use a model of the DETR family, or YOLOS."
            ) from error
        (_, self.num_queries, self.feature_dim), width = states.shape, scores.shape[2]
        if width not in (self.num_classes, self.num_classes + 1) or boxes.shape != (1, self.num_queries, 4):
            raise UserError(
                f"Detector: {where}: {self.num_queries} queries have {width} class scores and boxes of shape "
                f"{tuple(boxes.shape)}; expected {self.num_classes} or {self.num_classes + 1} scores for the "
                f"{self.num_classes} names in id2label of {CONFIG}, and 4 numbers per box."
            )
        self._no_object_last = width == self.num_classes + 1

    def detect(self, image_bgr: np.ndarray) -> Detected:
        """See ``Detector.detect``."""
        return self.detect_many([image_bgr])[0]

    def detect_many(self, images_bgr: Sequence[np.ndarray]) -> list[Detected]:
        """See ``Detector.detect_many``.

        Only pictures whose inputs have the same size go through the model together: next to a larger picture, a smaller
        one would be padded, and its regions would change.
        """
        inputs = [self._pictures(image) for image in images_bgr]
        found: dict[int, Detected] = {}
        for shape in dict.fromkeys(one.shape for one in inputs):
            rows = [row for row, one in enumerate(inputs) if one.shape == shape]
            outputs = self._run(torch.stack([inputs[row] for row in rows]))
            for row, states, scores, boxes in zip(rows, *(part.cpu().float() for part in outputs)):
                height, width = images_bgr[row].shape[:2]
                found[row] = self._select(width, height, states, scores, boxes)
        return [found[row] for row in range(len(images_bgr))]

    @torch.inference_mode()
    def _run(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, 3, h, w) -> states (B, Q, D), class scores (B, Q, C or C + 1), boxes (B, Q, 4), fractions."""
        with full_precision(self.device):
            outputs = self._model(pixel_values=pixels.to(self.device))
        queries = outputs.logits.shape[1]
        return outputs.last_hidden_state[:, -queries:], outputs.logits, outputs.pred_boxes  # YOLOS: patches come first

    def _select(
        self, width: int, height: int, states: torch.Tensor, scores: torch.Tensor, boxes: torch.Tensor
    ) -> Detected:
        if self._no_object_last:
            probs = scores.softmax(dim=1).roll(1, dims=1)
            confidence = probs[:, 1:].amax(dim=1)
        else:
            probs = torch.cat([scores.new_zeros(len(scores), 1), scores], dim=1).softmax(dim=1)
            confidence = scores.sigmoid().amax(dim=1)
        order = confidence.sort(descending=True, stable=True).indices
        sure = int((confidence >= self.rule.threshold).sum())
        rows = order[: min(max(sure, self.rule.min_regions), self.rule.max_regions)]
        size = torch.tensor([width, height], dtype=torch.float32)
        centres, halves = boxes[rows, :2] * size, boxes[rows, 2:] * size / 2
        corners = torch.cat([(centres - halves).minimum(size), (centres + halves).minimum(size)], dim=1).clamp(min=0)
        objects = probs[rows, 1:].argmax(dim=1)
        arrays = corners, states[rows], probs[rows], confidence[rows], objects
        return Detected(width, height, *(array.numpy() for array in arrays))


def load_transformers(
    folder: str | os.PathLike, *, device: str | torch.device | None = None, min_max_boxes: tuple[int, int] = (36, 36)
) -> TransformersDetector:
    """The detector in a folder of transformers.

    Args:
        device: "cpu", "cuda", ...; None: a GPU when there is one.
        min_max_boxes: the minimum and maximum number of regions per picture.

    Raises:
        UserError: transformers is missing, a file is missing or damaged, weights do not fit the config, or the model is
            not an object detector with queries.
    """
    folder = Path(folder).absolute()
    config, settings = _read_folder(folder)
    library = require("transformers", "transformers", f"Detector: {folder}")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    try:
        arguments = {"local_files_only": True, "trust_remote_code": False}
        configuration = library.AutoConfig.from_pretrained(folder, **arguments)
        # Older versions: the backbone's own weights, and operators that are compiled on the spot.
        for name, value in (("use_pretrained_backbone", False), ("disable_custom_kernels", True)):
            if hasattr(configuration, name):
                setattr(configuration, name, value)
        model, report = library.AutoModelForObjectDetection.from_pretrained(
            folder,
            config=configuration,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed below, all of them
            **arguments,
        )
    except ImportError as error:
        reason = str(error).strip().partition(". ")[0]
        raise UserError(
            f"Detector: {folder}: {reason}. Install it; or, for DETR, take the revision no_timm from the hub, the same "
            "model without this library."
        ) from error
    except Exception as error:  # of many kinds; all are about the folder or the installation
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"Detector: {folder}: transformers {library.__version__} cannot load it as an object detector of the type "
            f"{config.get('model_type')!r} ({type(error).__name__}: {reason})."
        ) from error
    missing = [name for name in sorted(report["missing_keys"]) if not name.endswith(UNUSED)]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{found[0]} has another shape than in the config" for found in sorted(report["mismatched_keys"])]
    raise_all(problems, f"Detector: the weights in {folder} do not fit {CONFIG}, and would be random")
    state = model.float().state_dict()
    raise_all(
        [f"{name} has numbers that are not finite" for name, value in state.items() if not value.isfinite().all()],
        f"Detector: the weights in {folder} cannot be used",
    )
    return TransformersDetector(
        model,
        PictureRule(settings, MULTIPLES.get(str(config.get("model_type")), 1), folder / PREPROCESSOR),
        where=folder,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        rule=SelectionRule(*min_max_boxes),
        weights_sha256=_sha256_of_weights(folder),
    )


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of ``config.json`` and of ``preprocessor_config.json``."""
    problems = [f"{name} is missing" for name in (CONFIG, PREPROCESSOR) if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in (WEIGHTS, SHARDS)):
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; {pickles[0]} is a pickle, which could run code: convert it to safetensors" if pickles else ""
        problems.append(f"{WEIGHTS} is missing{hint}")
    if (folder / "adapter_config.json").exists():
        problems.append("adapter_config.json names another model; merge the adapter into the weights first")
    raise_all(problems, f"Detector: {folder} is not a folder of a model of transformers")
    config, settings = (read_json(folder / name, "Detector") for name in (CONFIG, PREPROCESSOR))
    for name, content in ((CONFIG, config), (PREPROCESSOR, settings)):
        if not isinstance(content, dict):
            raise UserError(f"Detector: {folder / name} contains a {type(content).__name__}, expected an object.")
    if "auto_map" in config:
        raise UserError(
            f"Detector: {folder / CONFIG} asks for code from its own folder (auto_map), which is never run; use a "
            "model that is part of transformers."
        )
    return config, settings


def _sha256_of_weights(folder: Path) -> str:
    """Of the weights file; of several files, the sha256 of their digests in the order of their names."""
    if (folder / WEIGHTS).is_file():
        return sha256_of(folder / WEIGHTS)
    digests = [sha256_of(path) for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
