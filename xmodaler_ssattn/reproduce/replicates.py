"""Score one results file completely, and store the scores of resampled test images for paired comparisons.

``replicates.npz`` of an evaluation has under ``score:NAME`` the ``REPLICATES`` bootstrap values of each score (with the
same resamples for the same images, so that files can be paired); under ``images:captions`` and ``images:grounding`` the
scored images; and under ``rows:NAME`` the rows of each caption metric, one per image.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.forced import accuracy_by_place
from xmodaler_ssattn.evaluation.grounding import GENERATED_SCORES
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.metrics import metric_names
from xmodaler_ssattn.evaluation.results import Results, read_results, write_results
from xmodaler_ssattn.evaluation.scoring import ACCURACY, CaptionScorer, GroundingScorer, Scores, caption_sets, joined
from xmodaler_ssattn.files import atomic_path

REPLICATES = 1000
NO_BOXES = "the captions have no boxes"  # of a model without attention
REPLICATES_FILE = "replicates.npz"
CAPTIONS, GROUNDING = "captions", "grounding"


def score_captions(results: Results, scorer: CaptionScorer, metrics: Sequence[str]) -> Scores:
    """Score the main and greedy captions of a results file; the images of ``scorer`` are the file's ids as strings."""
    sets = caption_sets({str(image.image_id): image.caption for image in results.images})
    return joined(scorer.score_many(sets, metrics, replicates=REPLICATES))


def score_grounding(results: Results, annotations: Path, split: str = "test") -> Scores:
    """The evaluator's scores in the results file, with the bootstrap of F1 and, of forced captions, of the accuracy."""
    path = annotations / f"grounding_{split}.json"
    known = results.header.get("scores") or {}
    if not path.is_file() or known.get("F1_all") is None:
        return Scores({}, failed={"F1": NO_BOXES if path.is_file() else f"there is no {path.name} in the data"})
    scorer = GroundingScorer(read_reference(path).images, Lemmas.of_folder(annotations))
    found = scorer.score_results(results.images, results.object_words, replicates=REPLICATES)
    values = {name: float(value) for name, value in known.items() if value is not None}
    # A resample without any object word is 0/0, which is 0 in the evaluator.
    replicates = {name: np.nan_to_num(array, nan=0.0) for name, array in found.replicates.items()}
    return replace(found, values=values, replicates=replicates)


def score_results(path: Path, scorer: CaptionScorer, metrics: Sequence[str], annotations: Path) -> dict[str, Any]:
    """Score a results file, add the caption scores to it, and write ``replicates.npz`` beside its folder.

    Returns:
        plain JSON: ``scores``, name -> fraction or None; ``not_computed``, metric -> reason; ``images``, the numbers of
        scored images; and ``places``, see ``accuracy_by_place``, if the reference captions were forced.
    """
    results = read_results(path)
    captions, grounding = score_captions(results, scorer, metrics), score_grounding(results, annotations)
    scores = captions.values | grounding.values
    write_results(path, replace(results, header={**results.header, "scores": scores}))
    scored = {kind: part.images for kind, part in ((CAPTIONS, captions), (GROUNDING, grounding)) if part.images}
    images = {kind: np.array([int(image) for image in ids], dtype=np.int64) for kind, ids in scored.items()}
    replicates = captions.replicates | grounding.replicates
    write_replicates(path.parent.parent / REPLICATES_FILE, replicates, images, captions.rows)
    places = {} if grounding.forced is None else accuracy_by_place(grounding.forced)
    not_requested = {metric: "it was not requested" for metric in metric_names() if metric not in metrics}
    return {
        "scores": {name: None if math.isnan(value) else value for name, value in scores.items()},
        "not_computed": captions.failed | grounding.failed | not_requested,
        "images": {kind: len(ids) for kind, ids in images.items()},
        **({"places": places} if places else {}),
    }


def write_replicates(
    path: Path,
    replicates: Mapping[str, np.ndarray],
    images: Mapping[str, np.ndarray],
    rows: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> None:
    """Write ``replicates.npz`` atomically; see the module's docstring."""
    kinds = {"score": replicates, "images": images, "rows": rows}
    with atomic_path(path) as temporary:
        np.savez(temporary, **{f"{kind}:{name}": array for kind, part in kinds.items() for name, array in part.items()})


def read_replicates(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(score name -> replicates, "captions" and "grounding" -> image ids) of ``replicates.npz``.

    Raises UserError: the file is missing or damaged.
    """
    try:
        with np.load(path) as file:  # only plain arrays: numpy refuses objects by default
            arrays = {name: file[name] for name in file.files if not name.startswith("rows:")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run again with --resume.") from error

    def of(kind: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(kind): value for name, value in arrays.items() if name.startswith(kind)}

    return of("score:"), of("images:")


def same_images(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], score: str) -> bool:
    """Whether two evaluations resampled the same images for this score."""
    kind = GROUNDING if score in (*GENERATED_SCORES, ACCURACY) else CAPTIONS
    return kind in a and kind in b and np.array_equal(a[kind], b[kind])
