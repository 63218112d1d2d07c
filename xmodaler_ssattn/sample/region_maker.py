"""The sample world's detector: from a picture of a sample scene to regions, as Bottom-Up is for photographs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from xmodaler_ssattn.data.regions import Regions
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path
from xmodaler_ssattn.sample.classifier import fit_softmax, softmax
from xmodaler_ssattn.sample.descriptors import DESCRIPTOR_DIM, cut_crops, describe_crops
from xmodaler_ssattn.sample.kinds import CLASS_NAMES
from xmodaler_ssattn.sample.picture_proposals import propose_from_picture
from xmodaler_ssattn.sample.proposals import MIN_SIDE_PX, NUM_REGIONS

PROJECTION_SEED = 20230507
FEATURE_SPREAD = 1.0  # about the standard deviation of a feature before its ReLU
CLASS_SHARE = 0.7  # of a feature's variance that comes from the class scores
_SHAPES = {"mean": (DESCRIPTOR_DIM,), "projection": (DESCRIPTOR_DIM, -1), "weights": (DESCRIPTOR_DIM, -1), "bias": (-1,)}


class SampleRegionMaker:
    """Makes the regions of one picture.

    Letters: n regions, E descriptor size, D feature size, C classes (the fifteen kinds, after the background).

    V = ReLU((d - mean) P), with a fixed random P (E, D); c = softmax(d W + b). d is the descriptor of the region's pixels.

    Args:
        mean: (E,) the mean descriptor of the training scenes.
        projection: P, (E, D).
        weights, bias: W (E, C) and b (C,).
        class_names: C - 1 names, of the columns after the background.
        num_regions: regions a picture.
    """

    def __init__(self, mean: np.ndarray, projection: np.ndarray, weights: np.ndarray, bias: np.ndarray,
                 class_names: tuple[str, ...] = CLASS_NAMES, num_regions: int = NUM_REGIONS) -> None:
        self.mean, self.projection, self.weights, self.bias = mean, projection, weights, bias
        self.class_names, self.num_regions = tuple(class_names), num_regions

    @classmethod
    def fit(cls, descriptors: np.ndarray, labels: np.ndarray, feature_dim: int,
            num_regions: int = NUM_REGIONS) -> SampleRegionMaker:
        """Learn mean and class scores from the training scenes.

        Args:
            descriptors: (m, E) float32 of their regions.
            labels: (m,) integers: 0 background, else 1 + the place in CLASS_NAMES.
            feature_dim: D.
        """
        weights, bias = fit_softmax(descriptors, labels, len(CLASS_NAMES) + 1)
        rng = np.random.default_rng(PROJECTION_SEED)
        # A detector's features exist to tell its classes apart, so class scores make up most of their spread; the
        # rest is what the pixels say besides. Both parts are linear in d, hence one matrix.
        scores = weights / (descriptors @ weights).std(axis=0)
        share = CLASS_SHARE**0.5, (1 - CLASS_SHARE) ** 0.5
        parts = []
        for part, weight in zip((scores, np.eye(DESCRIPTOR_DIM, dtype=np.float32)), share, strict=True):
            projection = part @ rng.standard_normal((part.shape[1], feature_dim), dtype=np.float32)
            spread = float(np.sqrt((descriptors @ part).var(axis=0, dtype=np.float64).sum()))
            parts.append(projection * (weight * FEATURE_SPREAD / spread))
        projection = (parts[0] + parts[1]).astype(np.float32)
        return cls(descriptors.mean(axis=0, dtype=np.float64).astype(np.float32), projection, weights, bias,
                   num_regions=num_regions)

    @property
    def feature_dim(self) -> int:
        return self.projection.shape[1]

    @property
    def num_classes(self) -> int:
        """C, with the background."""
        return len(self.bias)

    def features(self, descriptors: np.ndarray) -> np.ndarray:
        """(n, E) -> V (n, D) float32, not negative."""
        values = (descriptors - self.mean) @ self.projection
        return np.maximum(values, 0.0, out=values)

    def class_probs(self, descriptors: np.ndarray) -> np.ndarray:
        """(n, E) -> c (n, C) float32, background first; each row sums to 1."""
        return softmax(descriptors @ self.weights + self.bias)

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
            raise UserError(f"Image {image_id} is {picture.width} x {picture.height} pixels; regions need at least "
                            f"{2 * MIN_SIDE_PX:g} on each side.")
        picture = picture.convert("RGB")
        boxes = self.propose(picture) if boxes_px is None else np.asarray(boxes_px, dtype=np.float32)
        descriptors = describe_crops(cut_crops(picture, boxes))
        probs = self.class_probs(descriptors)
        order = self.order(probs)
        return Regions(image_id, picture.width, picture.height, boxes[order], self.features(descriptors[order]),
                       probs[order])

    def save(self, path: str | os.PathLike) -> None:
        """Write all of it as npz; nothing in it is pickled."""
        with atomic_path(path) as temporary:
            np.savez(temporary, mean=self.mean, projection=self.projection, weights=self.weights, bias=self.bias,
                     class_names=np.asarray(self.class_names), num_regions=np.asarray(self.num_regions))

    @classmethod
    def load(cls, path: str | os.PathLike) -> SampleRegionMaker:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or is not a region maker of this version.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"The region maker {path} does not exist. It is drawn with the sample scenes: "
                            "`xmodaler train --config-file configs/sample/ss_attn.yaml` or `xmodaler demo`.")
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"The region maker {path} cannot be read: {error}.") from error
        missing = [name for name in (*_SHAPES, "class_names", "num_regions") if name not in found]
        if missing:
            raise UserError(f"The region maker {path} lacks {', '.join(missing)}; it has {', '.join(found) or 'nothing'}.")
        for name, shape in _SHAPES.items():
            if found[name].ndim != len(shape) or any(a not in (-1, b) for a, b in zip(shape, found[name].shape)):
                raise UserError(f"The region maker {path}: {name} has shape {found[name].shape}, expected {shape} "
                                "(-1: any). It was made by another version: draw the sample scenes again.")
        return cls(found["mean"], found["projection"], found["weights"], found["bias"],
                   tuple(found["class_names"].tolist()), int(found["num_regions"]))
