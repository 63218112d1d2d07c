"""CIDEr."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmodaler_ssattn.evaluation.metrics import Metric, register


@register
class Cider(Metric):
    """pycocoevalcap's CIDEr (CIDEr-D), with document frequencies from the references of these captions.

    The document frequencies stay those of all evaluated images, whatever the weights: a replicate is the mean of the
    scores of the sampled images. Counted again, an image that is sampled twice would make its own phrases common.
    """

    name, titles = "CIDEr", {"CIDEr": "C"}

    def rows(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        if not any(ref.split() for refs in references for ref in refs):
            # pycocoevalcap fails on a corpus without a single reference word; nothing can match there.
            return np.zeros(len(captions))
        from pycocoevalcap.cider.cider_scorer import CiderScorer

        scorer = CiderScorer(n=4, sigma=6.0)
        for caption, refs in zip(captions, references, strict=True):
            scorer += (caption, list(refs))
        return np.asarray(scorer.compute_score()[1], dtype=np.float64)
