"""A caption metric over a corpus, kept as one row of counts or scores an image.

Corpus scores are not all means: BLEU and METEOR add counts up first. Keeping the rows lets any resample of the images
be scored without asking a scorer again, which is what an interval over images needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from xmodaler_ssattn.evaluation.meteor import Meteor, addends


class CorpusMetric(Protocol):
    """What each metric offers."""

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """name -> (m,) corpus scores for m rows of image weights, ``weights`` (m, images)."""


@dataclass(frozen=True)
class MeanMetric:
    """A metric whose corpus score is the mean over images: ROUGE-L, CIDEr, SPICE.

    CIDEr's document frequencies stay those of all evaluated images, whatever the weights: a replicate is the mean of
    the drawn images' scores. Counted anew, an image that is drawn twice would make its own phrases common.
    """

    name: str
    rows: np.ndarray  # (images,)

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        return {self.name: weights @ self.rows / weights.sum(axis=1)}


@dataclass(frozen=True)
class BleuMetric:
    """BLEU 1 to 4 from summed counts, with the arithmetic of pycocoevalcap's ``bleu_scorer.py``.

    Attributes:
        rows: (images, 10): length, closest reference length, 4 guesses, 4 correct.
    """

    rows: np.ndarray

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        sums = weights @ self.rows
        length, closest = sums[:, 0], sums[:, 1]
        precision = (sums[:, 6:10] + 1e-15) / (sums[:, 2:6] + 1e-9)
        ratio = (length + 1e-15) / (closest + 1e-9)
        penalty = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
        product = np.cumprod(precision, axis=1)
        return {f"Bleu_{n}": product[:, n - 1] ** (1.0 / n) * penalty for n in range(1, 5)}


@dataclass(frozen=True)
class MeteorMetric:
    """METEOR of summed counts.

    Attributes:
        rows: (images, 23) what each image adds to the corpus, from ``meteor.addends``.
        meteor: the process that turns a sum of counts into a score.
    """

    rows: np.ndarray
    meteor: Meteor

    def values(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"METEOR": self.meteor.scores(weights @ self.rows)}


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]], process: Meteor) -> MeteorMetric:
    """Count with METEOR's process. Raises JavaError."""
    return MeteorMetric(addends(process.counts(captions, references)), process)


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> BleuMetric:
    """Count with pycocoevalcap's BLEU scorer; token strings."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for caption, refs in zip(captions, references, strict=True):
        scorer += (caption, list(refs))
    rows = [
        [c["testlen"], scorer._single_reflen(c["reflen"], "closest", c["testlen"]), *c["guess"], *c["correct"]]
        for c in scorer.ctest
    ]
    return BleuMetric(np.array(rows, dtype=np.float64).reshape(-1, 10))


def rouge_l(
    captions: Sequence[str], references: Sequence[Sequence[str]], known: dict[tuple[str, ...], float] | None = None
) -> MeanMetric:
    """pycocoevalcap's ROUGE-L; ``known`` keeps scores between calls, since they depend on one image's text alone."""
    from pycocoevalcap.rouge.rouge import Rouge

    scorer = Rouge()
    known = {} if known is None else known
    rows = []
    for caption, refs in zip(captions, references, strict=True):
        key = (caption, *refs)
        if key not in known:
            known[key] = float(scorer.calc_score([caption], list(refs)))
        rows.append(known[key])
    return MeanMetric("ROUGE_L", np.array(rows, dtype=np.float64))


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> MeanMetric:
    """pycocoevalcap's CIDEr (CIDEr-D), document frequencies from the references of these captions."""
    if not any(ref.split() for refs in references for ref in refs):
        # pycocoevalcap fails on a corpus without a single reference word; nothing can match there.
        return MeanMetric("CIDEr", np.zeros(len(captions)))
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    scorer = CiderScorer(n=4, sigma=6.0)
    for caption, refs in zip(captions, references, strict=True):
        scorer += (caption, list(refs))
    return MeanMetric("CIDEr", np.asarray(scorer.compute_score()[1], dtype=np.float64))


def corpus_scores(metrics: Mapping[str, CorpusMetric], num_images: int) -> dict[str, float]:
    """Each metric's score with every image counted once; NaN when there is no image."""
    once = np.ones((1, num_images))
    scores: dict[str, float] = {}
    for metric in metrics.values():
        values = metric.values(once) if num_images else {}
        scores |= {name: float(value[0]) if len(value) else math.nan for name, value in values.items()}
    return scores
