"""The detector of the sample scenes: it makes regions from a picture of a scene, as Bottom-Up does for photographs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path
from xmodaler_ssattn.packs.safe_arrays import read_npz
from xmodaler_ssattn.packs.store import Regions
from xmodaler_ssattn.worlds.drawn.descriptors import DESCRIPTOR_DIM, cut_crops, describe_crops
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES, COLOUR_NAMES
from xmodaler_ssattn.worlds.drawn.proposals import MIN_SIDE_PX, NUM_REGIONS, propose_from_picture

PROJECTION_SEED = 20230507
STEPS, STEP_SIZE = 25, 4.0  # of the softmax regression
SHRINKAGE = 2e-3  # its weight decay in the whitened space
FEATURE_SPREAD = 1.5  # gives features of about the mean and spread of Bottom-Up's
DESCRIPTOR_SHARE = 0.3  # spread of the raw descriptor within a feature; that of the class probabilities is 1
# Array names of a saved maker: E descriptor size, C classes, A colours, F size of the projected input, D feature size.
_SHAPES = {
    "mean": "E",
    "kind_weights": "EC",
    "kind_bias": "C",
    "colour_weights": "EA",
    "colour_bias": "A",
    "projection": "FD",
}


def softmax(scores: np.ndarray) -> np.ndarray:
    """(n, C) -> (n, C), each row sums to 1; the dtype stays."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_softmax(inputs: np.ndarray, labels: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit p(class | x) = softmax(x W + b) by maximum likelihood with a little shrinkage.

    The inputs are whitened first: gradient descent with momentum then needs few steps, and no random start.

    Returns:
        W (D, C) and b (C,), float32, for inputs (n, D) float32 and labels (n,), integers in 0..C - 1.
    """
    mean = inputs.mean(axis=0, dtype=np.float64)
    centred = (inputs - mean).astype(np.float32)
    covariance = centred.T @ centred / len(inputs)
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    whitening = (vectors / np.sqrt(np.maximum(values, 1e-4 * values.max()))).astype(np.float32)
    white = centred @ whitening

    targets = np.zeros((len(inputs), num_classes), dtype=np.float32)
    targets[np.arange(len(inputs)), labels] = 1.0
    weights, bias = np.zeros((white.shape[1], num_classes), np.float32), np.zeros(num_classes, np.float32)
    speed_w, speed_b = np.zeros_like(weights), np.zeros_like(bias)
    for _ in range(STEPS):
        error = (softmax(white @ weights + bias) - targets) / len(inputs)
        speed_w = 0.8 * speed_w - STEP_SIZE * (white.T @ error + SHRINKAGE * weights)
        speed_b = 0.8 * speed_b - STEP_SIZE * error.sum(axis=0)
        weights, bias = weights + speed_w, bias + speed_b
    weights = whitening @ weights
    return weights, (bias - mean.astype(np.float32) @ weights).astype(np.float32)


class SceneRegionMaker:
    """Makes the regions of one picture.

    Letters: n regions, E descriptor size, D feature size, C classes (background, then the fifteen kinds), A colours.

        c = softmax(d W_kind + b_kind)                                  the class probabilities
        a = softmax(d W_colour + b_colour)
        V = ReLU([s (d - mean), c_1.., (1 - c_0) a] P)                  the features

    d is the descriptor of the region's pixels, c_0 the background's probability, P a fixed random matrix. As in
    Bottom-Up, whose network was trained on objects and their attributes, V contains the detector's classes as well as
    the pixels themselves.

    Args:
        arrays: mean (E,), kind_weights (E, C), kind_bias (C,), colour_weights (E, A), colour_bias (A,),
            projection P (E + C - 1 + A, D) with s multiplied into its first E rows; all float32.
    """

    num_regions = NUM_REGIONS  # per picture
    num_classes = len(CLASS_NAMES) + 1  # C, with the background

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays

    @classmethod
    def fit(
        cls, descriptors: np.ndarray, labels: np.ndarray, colours: np.ndarray, feature_dim: int
    ) -> SceneRegionMaker:
        """Learn mean, kinds and colours from the regions of the training scenes.

        Args:
            descriptors: (m, E) float32.
            labels: (m,) integers: 0 background, else 1 + the index in CLASS_NAMES.
            colours: (m,) integers: the index in COLOUR_NAMES; not read where the label is 0.
        """
        objects = labels > 0
        kind_weights, kind_bias = fit_softmax(descriptors, labels, cls.num_classes)
        colour_weights, colour_bias = fit_softmax(descriptors[objects], colours[objects], len(COLOUR_NAMES))
        rng = np.random.default_rng(PROJECTION_SEED)
        inputs = DESCRIPTOR_DIM + len(CLASS_NAMES) + len(COLOUR_NAMES)
        projection = FEATURE_SPREAD * rng.standard_normal((inputs, feature_dim), dtype=np.float32)
        spread = np.sqrt(descriptors.var(axis=0, dtype=np.float64).sum())
        projection[:DESCRIPTOR_DIM] *= np.float32(DESCRIPTOR_SHARE / spread)
        mean = descriptors.mean(axis=0, dtype=np.float64).astype(np.float32)
        arrays = (mean, kind_weights, kind_bias, colour_weights, colour_bias, projection)
        return cls(dict(zip(_SHAPES, arrays)))

    @property
    def feature_dim(self) -> int:
        return self._arrays["projection"].shape[1]

    def class_probs(self, descriptors: np.ndarray) -> np.ndarray:
        """(n, E) -> c (n, C) float32, background first; each row sums to 1."""
        return softmax(descriptors @ self._arrays["kind_weights"] + self._arrays["kind_bias"])

    def features(self, descriptors: np.ndarray, class_probs: np.ndarray) -> np.ndarray:
        """(n, E) and their c (n, C) -> V (n, D) float32, not negative."""
        colours = softmax(descriptors @ self._arrays["colour_weights"] + self._arrays["colour_bias"])
        parts = [descriptors - self._arrays["mean"], class_probs[:, 1:], (1 - class_probs[:, :1]) * colours]
        values = np.concatenate(parts, axis=1) @ self._arrays["projection"]
        return np.maximum(values, 0.0, out=values)

    def order(self, class_probs: np.ndarray) -> np.ndarray:
        """(n,) row numbers, descending by the largest probability of a kind; ties keep their order."""
        return np.argsort(-class_probs[:, 1:].max(axis=1), kind="stable")

    def __call__(self, picture: Image.Image, image_id: int = 0, boxes_px: np.ndarray | None = None) -> Regions:
        """The regions of one picture.

        Args:
            picture: any mode; read as RGB.
            boxes_px: (n, 4) xyxy pixels to use instead of own proposals.

        Raises:
            UserError: the picture is too small to have regions.
        """
        if min(picture.size) < 2 * MIN_SIDE_PX:
            size, least = f"{picture.width} x {picture.height}", f"{2 * MIN_SIDE_PX:g}"
            raise UserError(f"Image {image_id} is {size} pixels; regions need at least {least} on each side.")
        picture = picture.convert("RGB")

        def described(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            descriptors = describe_crops(cut_crops(picture, boxes))
            return descriptors, self.class_probs(descriptors)

        if boxes_px is None:
            boxes_px = propose_from_picture(picture, lambda boxes: described(boxes)[1])
        boxes = np.asarray(boxes_px, dtype=np.float32)
        descriptors, probs = described(boxes)
        order, features = self.order(probs), self.features(descriptors, probs)
        return Regions(image_id, picture.width, picture.height, boxes[order], features[order], probs[order])

    def save(self, path: str | os.PathLike) -> None:
        """Write everything as npz, without pickles."""
        with atomic_path(path) as temporary:
            np.savez(temporary, **self._arrays, class_names=CLASS_NAMES, num_regions=NUM_REGIONS)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike) -> SceneRegionMaker:
        """Read a file written by `save`.

        Raises:
            UserError: the file is missing or is not a region maker of this version.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"The region maker {path} does not exist. It is drawn with the sample scenes: "
                "`xmodaler train --config-file configs/sample/ss_attn.yaml` or `xmodaler demo`."
            )
        try:
            found = read_npz(path, (*_SHAPES, "class_names", "num_regions"))
        except UserError as error:
            raise UserError(f"The region maker {error} Draw the sample scenes again.") from error
        sizes = {"E": DESCRIPTOR_DIM, "C": cls.num_classes, "A": len(COLOUR_NAMES)}
        sizes["F"] = sizes["E"] + sizes["C"] - 1 + sizes["A"]
        sizes["D"] = found["projection"].size // sizes["F"]
        for name, letters in _SHAPES.items():
            shape, wanted = found[name].shape, tuple(sizes[letter] for letter in letters)
            if shape != wanted:
                raise UserError(
                    f"The region maker {path}: {name} has shape {shape}, expected {wanted}; another version made it. "
                    "Draw the sample scenes again."
                )
        return cls({name: found[name] for name in _SHAPES})
