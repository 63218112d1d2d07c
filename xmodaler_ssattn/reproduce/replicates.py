"""Score one results file completely, and store the scores of resampled test images for paired comparisons.

``replicates.npz`` of an evaluation has under ``score:NAME`` the ``REPLICATES`` bootstrap values of each score (with the
same resamples for the same images, so that files can be paired); under ``images:captions`` and ``images:grounding`` the
scored images; and under ``rows:NAME`` the rows of each caption metric, one per image.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.grounding import GENERATED_SCORES
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.places import accuracy_by_place
from xmodaler_ssattn.evaluation.results import Results, read_results, write_results
from xmodaler_ssattn.evaluation.scoring import ACCURACY, CaptionScorer, GroundingScorer, caption_sets, joined
from xmodaler_ssattn.files import atomic_path

REPLICATES = 1000
NO_BOXES = "the captions have no boxes"  # of a model without attention
REPLICATES_FILE = "replicates.npz"
CAPTIONS, GROUNDING = "captions", "grounding"


@dataclass
class Scored:
    """Scores of one evaluation.

    Attributes:
        scores: name -> fraction; ``greedy_NAME`` for the greedy captions.
        not_computed: metric -> reason.
        replicates: name -> (REPLICATES,) scores of the same resampled images; only of names in ``scores``.
        images: "captions" and "grounding" -> image ids in the order of the resampling.
        rows: name -> (images, ...) counts or scores.
        places: ``accuracy_by_place``, of an evaluation that forced the reference captions.
    """

    scores: dict[str, float] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)
    replicates: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[str, dict[str, float]] = field(default_factory=dict)


def score_captions(results: Results, scorer: CaptionScorer, metrics: Sequence[str]) -> Scored:
    """Score the main and greedy captions of a results file; the images of ``scorer`` are the file's ids as strings."""
    sets = caption_sets({str(image.image_id): image.caption for image in results.images})
    found = joined(scorer.score_many(sets, metrics, replicates=REPLICATES))
    return Scored(
        found.values,
        found.failed,
        found.replicates,
        {CAPTIONS: np.array([int(image) for image in found.images], dtype=np.int64)},
        {name: counted.rows for name, counted in found.counted.items()},
    )


def score_grounding(results: Results, annotations: Path, split: str = "test") -> Scored:
    """The bootstrap of F1 and, if the reference captions were forced, of the attention accuracy, with the latter by
    place.

    The scores themselves were computed by the evaluator and are in the results file.
    """
    path = annotations / f"grounding_{split}.json"
    known = results.header.get("scores") or {}
    if not path.is_file() or known.get("F1_all") is None:
        reason = f"there is no {path.name} in the data" if not path.is_file() else NO_BOXES
        return Scored(not_computed={"F1": reason})
    scorer = GroundingScorer(read_reference(path).images, Lemmas.of_folder(annotations))
    found = scorer.score_results(results.images, results.object_words, replicates=REPLICATES)
    return Scored(
        {name: float(value) for name, value in known.items() if value is not None},
        found.failed,
        # A resample without any object word is 0/0, which is 0 in the evaluator.
        {name: np.nan_to_num(values, nan=0.0) for name, values in found.replicates.items()},
        {GROUNDING: np.array(found.images, dtype=np.int64)},
        places=accuracy_by_place(found.forced) if found.forced is not None else {},
    )


def score_results(path: Path, scorer: CaptionScorer, metrics: Sequence[str], annotations: Path) -> Scored:
    """Score a results file, add the caption scores to it, and write ``replicates.npz`` beside its folder."""
    results = read_results(path)
    grounding, captions = score_grounding(results, annotations), score_captions(results, scorer, metrics)
    scored = Scored(
        captions.scores | grounding.scores,
        captions.not_computed | grounding.not_computed,
        captions.replicates | grounding.replicates,
        captions.images | grounding.images,
        captions.rows,
        grounding.places,
    )
    header = {**results.header, "scores": scored.scores}
    write_results(path, replace(results, header=header))
    write_replicates(path.parent.parent / REPLICATES_FILE, scored)
    return scored


def write_replicates(path: Path, scored: Scored) -> None:
    """Write ``replicates.npz`` atomically."""
    arrays = {f"score:{name}": value for name, value in scored.replicates.items()}
    arrays |= {f"images:{name}": value for name, value in scored.images.items()}
    arrays |= {f"rows:{name}": value for name, value in scored.rows.items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def read_replicates(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(score name -> replicates, "captions" and "grounding" -> image ids) of ``replicates.npz``.

    Raises:
        UserError: the file is missing or damaged.
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
