"""BLEU 1 to 4."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmodaler_ssattn.evaluation.metrics import Metric, register


@register
class Bleu(Metric):
    """BLEU 1 to 4 from summed counts, with the counts and the arithmetic of pycocoevalcap's ``bleu_scorer.py``."""

    name, titles = "Bleu", {f"Bleu_{n}": f"B@{n}" for n in range(1, 5)}

    def rows(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(images, 10): length, closest reference length, 4 guesses, 4 correct."""
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer

        scorer = BleuScorer(n=4)
        for caption, refs in zip(captions, references, strict=True):
            scorer += (caption, list(refs))
        rows = [
            [c["testlen"], scorer._single_reflen(c["reflen"], "closest", c["testlen"]), *c["guess"], *c["correct"]]
            for c in scorer.ctest
        ]
        return np.array(rows, dtype=np.float64).reshape(-1, 10)

    def values(self, rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        sums = weights @ rows
        length, closest = sums[:, 0], sums[:, 1]
        precision = (sums[:, 6:10] + 1e-15) / (sums[:, 2:6] + 1e-9)
        ratio = (length + 1e-15) / (closest + 1e-9)
        penalty = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
        product = np.cumprod(precision, axis=1)
        return {f"Bleu_{n}": product[:, n - 1] ** (1.0 / n) * penalty for n in range(1, 5)}
