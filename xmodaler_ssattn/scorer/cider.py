"""CIDEr-D of word ids, for many captions at once, with document frequencies counted beforehand. numpy only.

The arithmetic is that of pycocoevalcap's ``cider_scorer.py`` (Vedantam et al., CVPR 2015, section 4, the variant D),
up to float64 rounding. That file counts document frequencies over the captions that it scores; a reward needs those of
the training references, and a fast answer within the training step.

    vector of a caption: for each n-gram, count * (log N - log max(1, images with it)),         n = 1 .. 4
    sim_n = exp(-(l_c - l_r)^2 / (2 sigma^2)) * sum min(c, r) r / (|c| |r|)                     l: number of bigrams
    score = 10 * mean over n of the mean over the references of sim_n

An n-gram is one uint64: four places of 16 bits, each a word id + 1, the last word lowest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

LONGEST = 4
SIGMA = 6.0  # of the penalty for another length
BITS = np.uint64(16)
MAX_WORD = 2**16 - 2
IMAGES_AT_ONCE = 2000

WordIds = Sequence[int]


class NGrams(NamedTuple):
    """The n-grams of some captions, each once per caption, by caption and then by n-gram; all arrays (rows,)."""

    caption: np.ndarray  # int64, index of the caption
    gram: np.ndarray  # uint64, the packed words
    counts: np.ndarray  # int64, how often it occurs in the caption

    @property
    def order(self) -> np.ndarray:
        """(rows,) int64, n - 1 of each n-gram."""
        longer = [self.gram >= np.uint64(1) << BITS * np.uint64(n) for n in range(1, LONGEST)]
        return np.stack(longer).sum(axis=0, dtype=np.int64)


def ngrams(captions: Sequence[WordIds], owners: Sequence[int] | None = None) -> NGrams:
    """All n-grams, n = 1 .. 4, of the captions.

    Args:
        captions: word ids, 0 .. ``MAX_WORD``; a caption may be empty.
        owners: the owner for which each caption's n-grams are counted, e.g. its image; None: the caption itself.

    Raises:
        ValueError: a word id that does not fit 16 bits.
    """
    lengths = np.fromiter(map(len, captions), dtype=np.int64, count=len(captions))
    words = np.fromiter(chain.from_iterable(captions), dtype=np.int64, count=int(lengths.sum()))
    if len(words) and not 0 <= words.min() <= words.max() <= MAX_WORD:
        raise ValueError(f"ngrams: word ids must be 0 to {MAX_WORD}, got {words.min()} to {words.max()}.")
    caption = np.repeat(np.arange(len(lengths)), lengths)
    word = words.astype(np.uint64) + np.uint64(1)
    window = np.zeros_like(word)
    windows, places = [], []
    for n in range(min(LONGEST, len(word))):
        window = window[: len(word) - n] << BITS | word[n:]
        inside = caption[: len(word) - n] == caption[n:]
        windows.append(window[inside])
        places.append(caption[: len(word) - n][inside])
    gram = np.concatenate(windows) if windows else word
    owner = np.concatenate(places) if places else caption
    if owners is not None:
        owner = np.asarray(owners, dtype=np.int64)[owner]
    by_owner = np.lexsort((gram, owner))
    gram, owner = gram[by_owner], owner[by_owner]
    first = np.ones(len(gram), dtype=bool)
    first[1:] = (gram[1:] != gram[:-1]) | (owner[1:] != owner[:-1])
    starts = np.flatnonzero(first)
    return NGrams(owner[starts], gram[starts], np.diff(starts, append=len(gram)))


class DocumentFrequencies(NamedTuple):
    """For each n-gram, the number of images whose references contain it."""

    images: int  # N
    grams: np.ndarray  # (U,) uint64, ascending
    counts: np.ndarray  # (U,) int64

    @classmethod
    def of(cls, references: Iterable[Sequence[WordIds]]) -> DocumentFrequencies:
        """Count over the images' references; an n-gram counts once per image, even if several captions have it."""
        references = list(references)
        parts = [np.zeros(0, dtype=np.uint64)]
        for start in range(0, len(references), IMAGES_AT_ONCE):
            some = references[start : start + IMAGES_AT_ONCE]
            owners = [image for image, captions in enumerate(some) for _ in captions]
            parts.append(ngrams([caption for captions in some for caption in captions], owners).gram)
        grams, counts = np.unique(np.concatenate(parts), return_counts=True)
        return cls(len(references), grams, counts)

    def inverse(self, grams: np.ndarray) -> np.ndarray:
        """log N - log max(1, df): (rows,) float64; for an n-gram that no reference has, df is taken as 1."""
        if not len(self.grams):
            return np.full(len(grams), np.log(float(max(self.images, 1))))
        place = np.searchsorted(self.grams, grams).clip(max=len(self.grams) - 1)
        found = np.where(self.grams[place] == grams, self.counts[place], 1)
        return np.log(float(self.images)) - np.log(found.astype(np.float64))


def cider_d(
    captions: Sequence[WordIds],
    images: Sequence[int],
    references: Sequence[Sequence[WordIds]],
    frequencies: DocumentFrequencies,
) -> np.ndarray:
    """The CIDEr-D of each caption against its image's references.

    Args:
        captions: n captions of word ids.
        images: n indices into ``references``; several captions may share an image.
        references: the reference captions of each image, at least one.

    Returns:
        (n,) float64, 0 to 10; 0 for an empty caption or one without a common n-gram.

    Raises:
        ValueError: an image without references.

    Two images, each with its own caption; a caption that repeats its only reference has the full score:

    >>> references = [[[1, 2, 3, 4, 0]], [[5, 6, 7, 8, 0]]]
    >>> frequencies = DocumentFrequencies.of(references)
    >>> cider_d([[1, 2, 3, 4, 0], [1, 2, 3, 4, 0]], [0, 1], references, frequencies).round(6).tolist()
    [10.0, 0.0]
    """
    if any(not captions_of for captions_of in references):
        raise ValueError("cider_d: every image needs at least one reference caption.")
    flat = [reference for captions_of in references for reference in captions_of]
    counts = np.array([len(captions_of) for captions_of in references], dtype=np.int64)
    firsts = np.cumsum(counts) - counts
    image_of = np.asarray(images, dtype=np.int64).reshape(-1)
    hyp, ref = _Vectors.of(captions, frequencies), _Vectors.of(flat, frequencies)
    # One pair for each caption and reference of its image.
    pair_hyp = np.repeat(np.arange(len(captions)), counts[image_of])
    pair_ref = firsts[image_of].repeat(counts[image_of]) + _within(counts[image_of])
    similarity = _products(hyp, ref, pair_hyp, pair_ref)
    norms = hyp.norms[pair_hyp] * ref.norms[pair_ref]
    similarity = np.divide(similarity, norms, out=np.zeros_like(similarity), where=norms > 0)
    apart = (hyp.bigrams[pair_hyp] - ref.bigrams[pair_ref]).astype(np.float64)
    per_pair = similarity.mean(axis=1) * np.exp(-(apart**2) / (2 * SIGMA**2))
    return 10.0 * np.bincount(pair_hyp, per_pair, minlength=len(captions)) / counts[image_of]


class _Vectors(NamedTuple):
    """Captions as sparse vectors: n-grams with weights, and the norms (n, 4) and bigram counts (n,) of the captions."""

    grams: NGrams
    weights: np.ndarray
    norms: np.ndarray
    bigrams: np.ndarray

    @classmethod
    def of(cls, captions: Sequence[WordIds], frequencies: DocumentFrequencies) -> _Vectors:
        grams = ngrams(captions)
        weights = grams.counts * frequencies.inverse(grams.gram)
        cells = grams.caption * LONGEST + grams.order
        squares = np.bincount(cells, weights**2, minlength=len(captions) * LONGEST)
        bigrams = np.array([max(len(caption) - 1, 0) for caption in captions], dtype=np.int64)
        return cls(grams, weights, np.sqrt(squares).reshape(-1, LONGEST), bigrams)


def _products(hyp: _Vectors, ref: _Vectors, pair_hyp: np.ndarray, pair_ref: np.ndarray) -> np.ndarray:
    """sum over the n-grams of min(c, r) r for each pair and each n: (pairs, 4)."""
    # The rows of a pair are those of its caption; each is matched to the same n-gram in the reference.
    starts = np.searchsorted(hyp.grams.caption, np.arange(len(hyp.bigrams)))
    sizes = np.diff(starts, append=len(hyp.grams.caption))[pair_hyp]
    pair = np.repeat(np.arange(len(pair_hyp)), sizes)
    row = starts[pair_hyp].repeat(sizes) + _within(sizes)
    known, dense = np.unique(np.concatenate([hyp.grams.gram, ref.grams.gram]), return_inverse=True)
    hyp_dense, ref_dense = dense[: len(hyp.grams.gram)], dense[len(hyp.grams.gram) :]
    there = ref.grams.caption * len(known) + ref_dense  # ascending
    wanted = pair_ref[pair] * len(known) + hyp_dense[row]
    if not len(there) or not len(wanted):
        return np.zeros((len(pair_hyp), LONGEST))
    place = np.searchsorted(there, wanted).clip(max=len(there) - 1)
    both = there[place] == wanted
    c, r = hyp.weights[row[both]], ref.weights[place[both]]
    cells = pair[both] * LONGEST + hyp.grams.order[row[both]]
    sums = np.bincount(cells, np.minimum(c, r) * r, minlength=len(pair_hyp) * LONGEST)
    return sums.reshape(-1, LONGEST).astype(np.float64)  # without any common n-gram, bincount returns integers


def _within(sizes: np.ndarray) -> np.ndarray:
    """[3, 2] -> [0, 1, 2, 0, 1]."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)
