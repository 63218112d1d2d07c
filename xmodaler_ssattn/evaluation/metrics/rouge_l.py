"""ROUGE-L."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmodaler_ssattn.evaluation.metrics import Metric, register


@register
class RougeL(Metric):
    """pycocoevalcap's ROUGE-L; scores are kept between calls, since each depends on the text of one image only."""

    name, titles = "ROUGE_L", {"ROUGE_L": "R"}

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], float] = {}

    def rows(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        from pycocoevalcap.rouge.rouge import Rouge

        scorer = Rouge()
        keys = [(caption, *refs) for caption, refs in zip(captions, references, strict=True)]
        for key in keys:
            if key not in self._known:
                self._known[key] = float(scorer.calc_score([key[0]], list(key[1:])))
        return np.array([self._known[key] for key in keys], dtype=np.float64)
