"""CIDEr."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from xmodaler_ssattn.evaluation.metrics import Metric, register

ORDERS = range(4)  # n-grams of 1 to 4 words
SIGMA = 6.0  # of the penalty for another length


@register
class Cider(Metric):
    """pycocoevalcap's CIDEr (CIDEr-D), with document frequencies from the references of these captions.

    It has the same n-gram counts and the same order of arithmetic, so that scores are equal to the last bit.
    Logarithms, which take most of the original's time, are computed once per frequency instead of once per n-gram.

    The document frequencies are those of all evaluated images, whatever the weights: a replicate is the mean of the
    scores of the sampled images. If they were counted again, the phrases of an image sampled twice would become common.
    """

    name, titles = "CIDEr", {"CIDEr": "C"}

    def rows(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        from pycocoevalcap.cider.cider_scorer import cook_refs, cook_test

        cooked = [cook_refs(refs) for refs in references]
        images_with = Counter(chain.from_iterable(set(chain.from_iterable(refs)) for refs in cooked))
        log_images = np.log(float(max(len(cooked), 1)))
        idf = {count: float(log_images - np.log(max(1.0, count))) for count in {0, *images_with.values()}}

        def vector(counts: Mapping[tuple, int]) -> tuple[list[dict], list[float], int]:
            """Weights of the n-grams and their norm, for each n, and the number of bigrams."""
            weights: list[dict[tuple, float]] = [{} for _ in ORDERS]
            squares, bigrams = [0.0 for _ in ORDERS], 0
            for ngram, count in counts.items():
                n = len(ngram) - 1
                weights[n][ngram] = weight = count * idf[images_with[ngram]]
                squares[n] += weight**2
                bigrams += count if n == 1 else 0
            return weights, [math.sqrt(square) for square in squares], bigrams

        rows = []
        for caption, refs in zip(captions, cooked, strict=True):
            weights, norms, bigrams = vector(cook_test(caption))
            total = [0.0 for _ in ORDERS]
            for ref_weights, ref_norms, ref_bigrams in map(vector, refs):
                penalty = math.e ** (-(float(bigrams - ref_bigrams) ** 2) / (2 * SIGMA**2))
                for n in ORDERS:
                    similarity = 0.0
                    for ngram, weight in weights[n].items():
                        if (other := ref_weights[n].get(ngram)) is not None:
                            similarity += min(weight, other) * other
                    if norms[n] != 0 and ref_norms[n] != 0:
                        similarity /= norms[n] * ref_norms[n]
                    total[n] += similarity * penalty
            rows.append(sum(total) / len(ORDERS) / len(refs) * 10.0)
        return np.array(rows, dtype=np.float64)
