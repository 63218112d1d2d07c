"""The sample world's detector: from a picture of a sample scene to regions, as Bottom-Up is for photographs."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path
from xmodaler_ssattn.packs.store import Regions
from xmodaler_ssattn.worlds.drawn.classifier import fit_softmax, softmax
from xmodaler_ssattn.worlds.drawn.descriptors import DESCRIPTOR_DIM, cut_crops, describe_crops
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES, COLOUR_NAMES
from xmodaler_ssattn.worlds.drawn.picture_proposals import propose_from_picture
from xmodaler_ssattn.worlds.drawn.proposals import MIN_SIDE_PX, NUM_REGIONS

PROJECTION_SEED = 20230507
FEATURE_SPREAD = 1.5  # gives features of about the mean and spread of Bottom-Up's
DESCRIPTOR_SHARE = 0.3  # spread of the raw descriptor within a feature; the detector's own findings have 1
# Array names of a saved maker: E descriptor size, C classes, A colours, F what is projected, D feature size.
_SHAPES = {
    "mean": "E",
    "kind_weights": "EC",
    "kind_bias": "C",
    "colour_weights": "EA",
    "colour_bias": "A",
    "projection": "FD",
}


class SampleRegionMaker:
    """Makes the regions of one picture.

    Letters: n regions, E descriptor size, D feature size, C classes (background, then the fifteen kinds), A colours.

        c = softmax(d W_kind + b_kind)                                  the class probabilities
        a = softmax(d W_colour + b_colour)
        V = ReLU([s (d - mean), c_1.., (1 - c_0) a] P)                  the features

    d is the descriptor of the region's pixels, c_0 the background's probability, P a fixed random matrix. As in
    Bottom-Up, whose network was trained to tell objects and their attributes, V holds what the detector makes of the
    pixels beside the pixels themselves.

    Args:
        arrays: mean (E,), kind_weights (E, C), kind_bias (C,), colour_weights (E, A), colour_bias (A,),
            projection P (E + C - 1 + A, D) with s multiplied into its first E rows; all float32.
        class_names: C - 1 names, of the columns after the background.
        num_regions: regions a picture.
    """

    def __init__(
        self, arrays: dict[str, np.ndarray], class_names: tuple[str, ...] = CLASS_NAMES, num_regions: int = NUM_REGIONS
    ) -> None:
        self._arrays = arrays
        self.class_names, self.num_regions = tuple(class_names), num_regions

    @classmethod
    def fit(
        cls,
        descriptors: np.ndarray,
        labels: np.ndarray,
        colours: np.ndarray,
        feature_dim: int,
        num_regions: int = NUM_REGIONS,
    ) -> SampleRegionMaker:
        """Learn mean, kinds and colours from the regions of the training scenes.

        Args:
            descriptors: (m, E) float32.
            labels: (m,) integers: 0 background, else 1 + the place in CLASS_NAMES.
            colours: (m,) integers: the place in COLOUR_NAMES; not read where the label is 0.
            feature_dim: D.
        """
        objects = labels > 0
        kind_weights, kind_bias = fit_softmax(descriptors, labels, len(CLASS_NAMES) + 1)
        colour_weights, colour_bias = fit_softmax(descriptors[objects], colours[objects], len(COLOUR_NAMES))
        rng = np.random.default_rng(PROJECTION_SEED)
        inputs = DESCRIPTOR_DIM + len(CLASS_NAMES) + len(COLOUR_NAMES)
        projection = FEATURE_SPREAD * rng.standard_normal((inputs, feature_dim), dtype=np.float32)
        spread = np.sqrt(descriptors.var(axis=0, dtype=np.float64).sum())
        projection[:DESCRIPTOR_DIM] *= np.float32(DESCRIPTOR_SHARE / spread)
        arrays = {
            "mean": descriptors.mean(axis=0, dtype=np.float64).astype(np.float32),
            "projection": projection,
            "kind_weights": kind_weights,
            "kind_bias": kind_bias,
            "colour_weights": colour_weights,
            "colour_bias": colour_bias,
        }
        return cls(arrays, num_regions=num_regions)

    @property
    def feature_dim(self) -> int:
        return self._arrays["projection"].shape[1]

    @property
    def num_classes(self) -> int:
        """C, with the background."""
        return len(self._arrays["kind_bias"])

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
        """(n,) row numbers, descending by the largest probability of a kind; equal ones keep their order."""
        return np.argsort(-class_probs[:, 1:].max(axis=1), kind="stable")

    def propose(self, picture: Image.Image) -> np.ndarray:
        """(num_regions, 4) float32 xyxy pixels, from the picture alone."""
        picture = picture.convert("RGB")

        def class_probs(boxes_px: np.ndarray) -> np.ndarray:
            return self.class_probs(describe_crops(cut_crops(picture, boxes_px)))

        return propose_from_picture(picture, class_probs, self.num_regions)

    def __call__(self, picture: Image.Image, image_id: int = 0, boxes_px: np.ndarray | None = None) -> Regions:
        """The regions of one picture.

        Args:
            picture: any mode; read as RGB.
            boxes_px: (n, 4) xyxy pixels to use instead of own proposals.

        Raises:
            UserError: the picture is too small to have regions.
        """
        if min(picture.size) < 2 * MIN_SIDE_PX:
            raise UserError(
                f"Image {image_id} is {picture.width} x {picture.height} pixels; regions need at least "
                f"{2 * MIN_SIDE_PX:g} on each side."
            )
        picture = picture.convert("RGB")
        boxes = self.propose(picture) if boxes_px is None else np.asarray(boxes_px, dtype=np.float32)
        descriptors = describe_crops(cut_crops(picture, boxes))
        probs = self.class_probs(descriptors)
        order = self.order(probs)
        return Regions(
            image_id,
            picture.width,
            picture.height,
            boxes[order],
            self.features(descriptors, probs)[order],
            probs[order],
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write all of it as npz; nothing in it is pickled."""
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                **self._arrays,
                class_names=np.asarray(self.class_names),
                num_regions=np.asarray(self.num_regions),
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> SampleRegionMaker:
        """Read what `save` wrote.

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
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            message = f"The region maker {path} cannot be read: {error}. Draw the sample scenes again."
            raise UserError(message) from error
        missing = [name for name in (*_SHAPES, "class_names", "num_regions") if name not in found]
        if missing:
            raise UserError(
                f"The region maker {path} lacks {', '.join(missing)}; it has "
                f"{', '.join(found) or 'nothing'}. Draw the sample scenes again."
            )
        names = found["class_names"].tolist()
        sizes = {"E": DESCRIPTOR_DIM, "C": len(names) + 1, "A": len(COLOUR_NAMES)}
        sizes["F"] = sizes["E"] + sizes["C"] - 1 + sizes["A"]
        for name, letters in _SHAPES.items():
            wanted = tuple(sizes.get(letter, "any") for letter in letters)
            shape = found[name].shape
            if len(shape) != len(wanted) or any(a != "any" and a != b for a, b in zip(wanted, shape)):
                raise UserError(
                    f"The region maker {path}: {name} has shape {shape}, expected {wanted}. It was made by "
                    "another version: draw the sample scenes again."
                )
        return cls({name: found[name] for name in _SHAPES}, tuple(names), int(found["num_regions"]))
