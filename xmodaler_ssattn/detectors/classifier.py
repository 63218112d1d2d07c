"""The detector's last layer as a small file, with which feature packs get their class probabilities back."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from xmodaler_ssattn.detectors.loading import classifier_of, open_weights
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path


class Exported(NamedTuple):
    """What was written: the detector's dialect, C + 1 rows, D columns, and the sha256 of the weights file."""

    dialect: str
    num_classes: int
    feature_dim: int
    weights_sha256: str


def export_classifier(weights: str | os.PathLike, out: str | os.PathLike) -> Exported:
    """Write ``weight`` (C + 1, D) and ``bias`` (C + 1,) of a detector's ``cls_score`` as npz, background first.

    Args:
        weights: a weights file of any of the published dialects.
        out: ends in .npz; ``data.convert.classifier.Classifier`` reads it.

    Raises:
        UserError: another suffix; weights that are missing, damaged or of another network; numbers that are not finite.
    """
    if not os.fspath(out).endswith(".npz"):
        raise UserError(f"--out: {out} will be an npz file; give it a name that ends in .npz.")
    file = open_weights(weights)
    weight, bias = classifier_of(file.weights, file.path)
    with atomic_path(out) as temporary:
        np.savez(
            temporary, weight=weight, bias=bias, background=np.asarray("first"), weights_sha256=np.asarray(file.sha256)
        )
    return Exported(file.dialect.name, *weight.shape, file.sha256)
