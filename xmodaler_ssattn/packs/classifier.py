"""Compute class probabilities from features with the last layer of the detector, which is a small file.

In the Bottom-Up network the class score is a linear layer on the 2048-d feature that the packs contain,
so c = softmax(W v + b) with the detector's ``cls_score`` recomputes the probabilities, which most packs lack.
"""

from __future__ import annotations

import os

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.packs.safe_arrays import read_npz, single_value, unlike_measurements

BACKGROUNDS = ("first", "last", "none")


class Classifier:
    """W (C, D), b (C,) read from an npz file with the keys ``weight`` and ``bias``, and possibly ``background``.

    Attributes:
        num_classes, feature_dim: C, D.
        background: its column, "first" (default, as in the Caffe network), "last" or "none".
        sha256: the digest of the file.

    Raises:
        UserError: keys are missing, shapes do not fit, or numbers are not finite.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path
        arrays = read_npz(path, ("weight", "bias"), ("background",))
        for key in ("weight", "bias"):
            if arrays[key].dtype.kind != "f":
                raise UserError(f"{path}: {key} is of type {arrays[key].dtype}, expected floating-point numbers.")
            if other := unlike_measurements(arrays[key]):
                raise UserError(f"{path}: {key} looks wrong: {other}")
        self._weight, self._bias = (arrays[key].astype(np.float32) for key in ("weight", "bias"))
        if self._weight.ndim != 2 or self._bias.shape != self._weight.shape[:1]:
            raise UserError(
                f"{path}: weight has shape {self._weight.shape} and bias {self._bias.shape}, "
                "expected (C, D) and (C,), e.g. (1601, 2048) and (1601,)."
            )
        if not (np.isfinite(self._weight).all() and np.isfinite(self._bias).all()):
            raise UserError(f"{path}: weight or bias has numbers that are not finite.")
        self.background = str(single_value(arrays["background"])) if "background" in arrays else "first"
        if self.background not in BACKGROUNDS:
            raise UserError(f"{path}: background is {self.background!r}, expected one of {', '.join(BACKGROUNDS)}.")
        self.num_classes, self.feature_dim = self._weight.shape
        self.sha256 = sha256_of(path)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, D) -> (n, C) float32 probabilities, columns as the classifier has them."""
        with np.errstate(invalid="ignore", over="ignore"):  # the writer reports features that are not finite
            scores = np.asarray(features, dtype=np.float32) @ self._weight.T + self._bias
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            return scores / scores.sum(axis=1, keepdims=True)
