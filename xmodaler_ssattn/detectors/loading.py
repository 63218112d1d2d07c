"""From a weights file in any of the published formats to a detector, with either backend, or to its classifier."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from xmodaler_ssattn.detectors.detectron2_backend import Detectron2Missing, build_detectron2_network
from xmodaler_ssattn.detectors.dialects import (
    CELL_ANCHORS,
    Dialect,
    Weights,
    check_finite,
    dialect_of,
    to_network_state,
)
from xmodaler_ssattn.detectors.network import BottomUpNetwork
from xmodaler_ssattn.detectors.proposals import cell_anchors
from xmodaler_ssattn.detectors.selection import SelectionRule
from xmodaler_ssattn.detectors.spec import BACKENDS, DetectorSpec
from xmodaler_ssattn.detectors.torch_backend import TorchDetector
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import atomic_path, sha256_of
from xmodaler_ssattn.safe_load import safe_load

logger = logging.getLogger(__name__)

WHAT = "Detector weights"
WRAPPERS = ("model", "state_dict")  # keys under which a file may have the weights
PARALLEL = "module."  # before all names, in a network that was trained on several GPUs
INSTALL_PAGE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
# Anchors in a file that differ more than this from ours belong to another network.
ANCHOR_TOLERANCE_PX = 2.0


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Every named tensor of a weights file, on the CPU, in the file's dtype; nothing in the file is run.

    ``module.`` before every name is dropped.

    Args:
        path: a ``.pth`` or ``.bin`` by torch.save, or a ``.pkl`` of numpy arrays as detectron2 reads. Training state
            beside the weights (optimizer, iteration) is not read.

    Raises:
        UserError: the file is missing, damaged or incomplete, asks for code, or contains something other than named
            tensors; the message names the file and the refused name.
    """
    if os.fspath(path).endswith(".caffemodel"):
        raise UserError(f"{WHAT}: {path} is a model of Caffe; give a converted .pth or .pkl file (see the README).")
    weights = safe_load(path, WHAT, part=lambda content: _named(path, content), checksums=True)
    problems: list[str] = []
    tensors: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if not isinstance(name, str):
            problems.append(f"a {type(name).__name__} is not a name")
        elif isinstance(value, (torch.Tensor, np.ndarray, np.generic, int, float)):
            tensors[name] = torch.as_tensor(value)
        else:
            problems.append(f"{name!r} is {_kind(value)}, expected a tensor")
    raise_all(problems, f"{WHAT}: {path} cannot be used")
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return tensors


def _named(path: str | os.PathLike, content: Any) -> Mapping:
    """The dictionary of weights in a file's content."""
    wrapped = [content[wrapper] for wrapper in WRAPPERS if isinstance(content, Mapping) and wrapper in content]
    named = next((weights for weights in wrapped if isinstance(weights, Mapping)), content)
    if not isinstance(named, Mapping) or not named:
        raise UserError(
            f"{WHAT}: {path} holds {_kind(content)}, expected tensors by name, directly or under "
            f"{' or '.join(repr(wrapper) for wrapper in WRAPPERS)}."
        )
    return named


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        names = [key for key in value if isinstance(key, str)]
        return f"a dictionary with the keys {', '.join(names[:6]) or '(none)'}"
    return "nothing" if value is None else f"a {type(value).__name__}"


@dataclasses.dataclass(frozen=True)
class DetectorFile:
    """A weights file of a known detector."""

    path: str
    sha256: str
    weights: Weights  # by the file's own names
    dialect: Dialect  # with the file's pixel mean, if it has one
    anchors_px: np.ndarray  # (A, 4) float32, the file's, or computed when it has none

    @property
    def spec(self) -> DetectorSpec:
        return self.dialect.spec


def open_weights(path: str | os.PathLike) -> DetectorFile:
    """Read a weights file and recognise its detector.

    Raises:
        UserError: see ``read_weights`` and ``dialect_of``; or the anchors or the pixel mean are of another network.
    """
    path = os.fspath(path)
    weights = read_weights(path)
    dialect = dialect_of({name: tuple(tensor.shape) for name, tensor in weights.items()}, path)
    check_finite(weights, path)
    spec = dataclasses.replace(dialect.spec, pixel_mean=pixel_mean_of(weights, dialect.spec, path))
    anchors_px = anchors_of(weights, spec, path)
    return DetectorFile(path, sha256_of(path), weights, dataclasses.replace(dialect, spec=spec), anchors_px)


def pixel_mean_of(weights: Weights, spec: DetectorSpec, where: str) -> tuple[float, float, float]:
    """The file's pixel mean, else the dialect's."""
    if not torch.all(weights.get("pixel_std", torch.ones(3)) == 1):
        divisors = weights["pixel_std"].flatten().tolist()
        raise UserError(f"{WHAT}: {where} divides pixels by {divisors}; the published detectors do not.")
    if "pixel_mean" not in weights:
        return spec.pixel_mean
    mean = tuple(round(float(value), 4) for value in weights["pixel_mean"].flatten())
    if len(mean) != 3 or not all(0 <= value <= 255 for value in mean):
        raise UserError(f"{WHAT}: {where} has the pixel mean {mean}, expected blue, green and red in 0..255.")
    return mean


def anchors_of(weights: Weights, spec: DetectorSpec, where: str) -> np.ndarray:
    """(A, 4) float32 xyxy: the anchors that the network was trained with.

    Files of detectron2 before 0.6 contain them; detectron2 since 0.6 silently ignores them. They are taken from the
    file, in its order, if each equals one of the dialect's up to rounding.

    Raises:
        UserError: they are anchors of another network.
    """
    computed = cell_anchors(spec.anchors, spec.anchor_sizes)
    if CELL_ANCHORS not in weights:
        return computed
    stored = weights[CELL_ANCHORS].float().numpy()
    if stored.shape == computed.shape:
        distance = np.abs(stored[:, None] - computed).max(axis=2)  # NaN is not near to any number
        nearest = distance.argmin(axis=1)
        if len(set(nearest)) == len(computed) and (distance.min(axis=1) <= ANCHOR_TOLERANCE_PX).all():
            difference = float(np.abs(stored - computed).max())
            if difference > 0.01:
                logger.warning(
                    "%s: its anchors differ from those of %s by up to %.2f pixels, or in their order; the file's are "
                    "used.", where, spec.name, difference,
                )  # fmt: skip
            return stored
    in_file, expected = (
        f"{np.round(boxes.reshape(-1)[:8], 2).tolist()} of {' x '.join(map(str, boxes.shape))}"
        for boxes in (stored, computed)
    )
    raise UserError(
        f"{WHAT}: {where} has other anchors than {spec.name}. First of the file: {in_file}; expected {expected}."
    )


def build_network(file: DetectorFile) -> BottomUpNetwork:
    """The ``torch`` backend's network."""
    with torch.device("meta"):
        network = BottomUpNetwork(file.spec)
    network.load_state_dict(to_network_state(file.weights, file.dialect), strict=True, assign=True)
    network.cell_anchors_px = file.anchors_px
    return network.eval()


def load_detector(
    path: str | os.PathLike,
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
    min_max_boxes: tuple[int, int] = (36, 36),
) -> TorchDetector:
    """A detector with the weights of a file; the file's sha256 is logged and kept.

    Args:
        path: a published weights file, see ``dialects``.
        backend: "torch", "detectron2", or "auto": detectron2 where it can be imported, else torch.
        device: "cpu", "cuda", ...; None: a GPU when there is one.
        min_max_boxes: the minimum (if there are enough proposals) and maximum number of regions per picture.

    Raises:
        UserError: the file is not of a known detector, or the backend is missing.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}.")
    rule = SelectionRule(*min_max_boxes)
    file = open_weights(path)
    network: Any = None  # with the steps of BottomUpNetwork
    logger.info("%s: %s, sha256 %s", file.path, file.dialect.name, file.sha256)
    if backend != "torch":
        try:
            network = build_detectron2_network(file.weights, file.dialect, file.anchors_px)
        except Detectron2Missing as error:
            if backend == "detectron2":
                raise UserError(
                    f"backend detectron2: {error} Install it by its own instructions, {INSTALL_PAGE}, or "
                    "use the backend torch, which needs nothing more."
                ) from error
            logger.info("Backend: torch. %s", error)
    if network is None:
        network = build_network(file)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return TorchDetector(network, device=device, rule=rule, weights_sha256=file.sha256)


class Exported(NamedTuple):
    """A written classifier: the detector's dialect, C + 1 rows, D columns, and the sha256 of the weights file."""

    dialect: str
    num_classes: int
    feature_dim: int
    weights_sha256: str


def export_classifier(weights: str | os.PathLike, out: str | os.PathLike) -> Exported:
    """Write a detector's ``cls_score`` as npz: ``weight`` (C + 1, D) and ``bias`` (C + 1,), background first.

    ``packs.classifier.Classifier`` reads it, to recompute the class probabilities of a feature pack.

    Args:
        weights: a weights file of any of the published dialects.
        out: ends in .npz.

    Raises:
        UserError: another suffix; weights that are missing, damaged or of another network; numbers that are not finite.
    """
    if not os.fspath(out).endswith(".npz"):
        raise UserError(f"--out: {out} will be an npz file; give it a name that ends in .npz.")
    file = open_weights(weights)
    shift = 1 if file.spec.background == "last" else 0
    weight, bias = (
        file.weights[file.dialect.theirs(f"head.cls_score.{name}")].float().roll(shift, 0).numpy()
        for name in ("weight", "bias")
    )
    with atomic_path(out) as temporary:
        np.savez(temporary, weight=weight, bias=bias, background="first", weights_sha256=file.sha256)
    return Exported(file.dialect.name, weight.shape[0], weight.shape[1], file.sha256)
