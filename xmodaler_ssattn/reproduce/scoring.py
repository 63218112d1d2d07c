"""Score one results file completely, and keep what a paired comparison needs: the scores of resampled test images.

``replicates.npz`` beside an evaluation: for every score its ``REPLICATES`` bootstrap values (the same draws of images
in every file of the same images, so that files can be paired), under ``score:NAME``; the scored images under
``images:captions`` and ``images:grounding``; and each caption metric's rows, one an image, under ``rows:NAME``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation import bootstrap
from xmodaler_ssattn.evaluation.captions import CaptionScorer
from xmodaler_ssattn.evaluation.forced import match_forced
from xmodaler_ssattn.evaluation.grounding import GENERATED_SCORES, match_generated
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.places import accuracy_by_place
from xmodaler_ssattn.evaluation.results import Results, gvd_predictions, read_results, write_results
from xmodaler_ssattn.files import atomic_path

REPLICATES = 1000
REPLICATES_FILE = "replicates.npz"
FORCED_SCORE = "attention_accuracy"
GROUNDING_SCORES = (*GENERATED_SCORES, FORCED_SCORE)
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
        places: of an evaluation that forced the reference captions, where its attention accuracy sits, see
            ``accuracy_by_place``.
    """

    scores: dict[str, float] = field(default_factory=dict)
    not_computed: dict[str, str] = field(default_factory=dict)
    replicates: dict[str, np.ndarray] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    places: dict[str, dict[str, float]] = field(default_factory=dict)


def score_captions(results: Results, scorer: CaptionScorer, metrics: Sequence[str]) -> Scored:
    """Main and greedy captions of a results file; ``scorer``'s images are the file's ids as strings."""
    sets = {"": {str(image.image_id): str(image.caption) for image in results.images}}
    greedy = {
        str(image.image_id): str(image.caption.greedy)
        for image in results.images
        if getattr(image.caption, "greedy", None) is not None
    }
    if greedy:
        sets["greedy_"] = greedy
    found = Scored()
    for prefix, result in scorer.score_many(sets, metrics).items():
        found.scores |= {prefix + name: float(value) for name, value in result.scores.items()}
        found.not_computed |= result.failed
        found.images.setdefault(CAPTIONS, np.array([int(i) for i in result.image_ids], dtype=np.int64))
        weights = bootstrap.image_weights(len(result.image_ids), REPLICATES)
        values = bootstrap.caption_replicates(result.metrics, weights)
        found.replicates |= {prefix + name: value for name, value in values.items()}
        found.rows |= {prefix + name: np.asarray(metric.rows) for name, metric in result.metrics.items()}
    return found


def score_grounding(results: Results, annotations: Path, split: str = "test") -> Scored:
    """The bootstrap of F1, and of the attention accuracy of an evaluation that forced the reference captions; where the
    latter sits.

    The scores themselves are the evaluator's, already in the results file.
    """
    path = annotations / f"grounding_{split}.json"
    known = results.header.get("scores") or {}
    if not path.is_file() or known.get("F1_all") is None:
        reason = f"there is no {path.name} in the data" if not path.is_file() else "the captions carry no boxes"
        return Scored(not_computed={"F1": reason})
    reference = read_reference(path)
    predictions, lemmas = gvd_predictions(results.images, results.object_words), Lemmas.of_folder(annotations)
    matches = match_generated(reference.images, predictions, lemmas)
    weights = bootstrap.image_weights(len(matches.image_ids), REPLICATES)
    values = bootstrap.grounding_replicates(matches, weights)
    # A resample without any object word is 0/0, which the evaluator counts as 0.
    replicates = {name: np.nan_to_num(values[name], nan=0.0) for name in GENERATED_SCORES}
    forced, places = [result for result in results.images if result.forced], {}
    if forced:
        forced_matches = match_forced(reference.images, gvd_predictions(forced, results.object_words, mode="gt"))
        places = accuracy_by_place(forced_matches)
        (accuracy,) = bootstrap.forced_replicates(forced_matches, weights).values()
        replicates[FORCED_SCORE] = np.nan_to_num(accuracy, nan=0.0)
    return Scored(
        scores={name: float(value) for name, value in known.items() if value is not None},
        replicates=replicates,
        images={GROUNDING: np.array(matches.image_ids, dtype=np.int64)},
        places=places,
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
    """Write ``replicates.npz``; it appears whole."""
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
        with np.load(path) as file:  # plain arrays alone: numpy refuses objects by default
            arrays = {name: file[name] for name in file.files if not name.startswith("rows:")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run again with --resume.") from error

    def of(kind: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(kind): value for name, value in arrays.items() if name.startswith(kind)}

    return of("score:"), of("images:")


def same_images(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], score: str) -> bool:
    """Whether two evaluations resampled the same images for this score."""
    kind = GROUNDING if score in GROUNDING_SCORES else CAPTIONS
    return kind in a and kind in b and np.array_equal(a[kind], b[kind])
