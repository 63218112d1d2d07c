"""CIDEr-D of word ids: checked on paper, and against pycocoevalcap's scorer, which counts frequencies as it scores."""

import math

import numpy as np
import pytest

from xmodaler_ssattn.scorer.cider import MAX_WORD, DocumentFrequencies, cider_d, ngrams

# Two images: N = 2, every n-gram is in one of them, so each weighs log 2 - log 1 = log 2. "1 2" and "3".
REFERENCES = [[[1, 2]], [[3]]]
FREQUENCIES = DocumentFrequencies.of(REFERENCES)


def score(caption, image=0, references=REFERENCES, frequencies=FREQUENCIES):
    return cider_d([caption], [image], references, frequencies)[0]


def test_the_reference_itself_scores_ten_times_the_share_of_n_that_it_has():
    assert score([1, 2]) == pytest.approx(5.0)  # n = 1 and 2 agree fully, 3 and 4 do not exist: 10 (1 + 1 + 0 + 0) / 4
    assert score([3], image=1) == pytest.approx(2.5)  # n = 1 alone


def test_a_part_of_the_reference_is_a_cosine_with_a_penalty_for_its_length():
    # n = 1: (L, 0) . (L, L) / (L sqrt(2) L) = 1 / sqrt(2). Bigrams: 0 against 1, penalty exp(-1 / 72).
    assert score([1]) == pytest.approx(10 * math.exp(-1 / 72) / math.sqrt(2) / 4)


def test_a_repeated_word_counts_no_more_than_in_the_reference():
    # n = 1: min(2, 1) 1 / (2 sqrt(2)); n = 2: "1 1" is not there; both captions have one bigram, so no penalty.
    assert score([1, 1]) == pytest.approx(10 / (2 * math.sqrt(2)) / 4)


def test_the_score_is_the_mean_over_the_references():
    references = [[[1, 2], [4]], [[3]]]
    frequencies = DocumentFrequencies.of(references)
    assert score([1, 2], references=references, frequencies=frequencies) == pytest.approx(5.0 / 2)


@pytest.mark.parametrize("caption", [[], [0], [7, 8], [3]])
def test_what_shares_nothing_with_the_references_has_score_0_and_never_nan(caption):
    assert score(caption) == 0.0


def test_a_word_of_every_image_weighs_nothing_so_only_the_end_scores_0():
    references = [[[1, 2, 0]], [[3, 0]]]
    frequencies = DocumentFrequencies.of(references)
    assert frequencies.inverse(np.array([1], dtype=np.uint64)).tolist() == [0.0]  # the end's id 0, packed as 0 + 1
    assert score([0], references=references, frequencies=frequencies) == 0.0
    # "1 2 0" beats "1 2": the bigram "2 0" and the trigram tell that it ended there.
    ended, cut = (score(c, references=references, frequencies=frequencies) for c in ([1, 2, 0], [1, 2]))
    assert ended == pytest.approx(7.5) and cut < ended


def test_an_n_gram_counts_once_an_image_however_many_captions_have_it():
    frequencies = DocumentFrequencies.of([[[1, 1], [1]], [[1, 2]], [[2]]])
    packed = ngrams([[1, 2]])
    # images that have "1": 2, "2": 2, "1 2": 1
    assert dict(zip(packed.gram.tolist(), frequencies.inverse(packed.gram).tolist())) == pytest.approx(
        {2: math.log(3 / 2), 3: math.log(3 / 2), (2 << 16) + 3: math.log(3)}
    )


def test_an_n_gram_that_no_reference_has_weighs_as_much_as_one_of_a_single_image():
    assert FREQUENCIES.inverse(np.array([9], dtype=np.uint64)).tolist() == [math.log(2)]


def test_n_grams_end_with_their_caption():
    found = ngrams([[1, 2], [], [3]])
    assert found.caption.tolist() == [0, 0, 0, 2]
    assert found.gram.tolist() == [2, 3, (2 << 16) + 3, 4] and found.counts.tolist() == [1, 1, 1, 1]
    assert found.order.tolist() == [0, 0, 1, 0]


def test_no_caption_at_all_is_no_error():
    assert len(cider_d([], [], REFERENCES, FREQUENCIES)) == 0
    assert DocumentFrequencies.of([]).inverse(np.array([2], dtype=np.uint64)).tolist() == [0.0]


def test_ids_that_do_not_fit_and_images_without_references_are_refused():
    assert len(ngrams([[MAX_WORD] * 4]).gram) == 4
    for word in (-1, MAX_WORD + 1):
        with pytest.raises(ValueError, match=f"got {word} to {word}"):
            ngrams([[word]])
    with pytest.raises(ValueError, match="at least one reference"):
        cider_d([[1]], [0], [[]], FREQUENCIES)


def random_captions(rng, count):
    # Few words, so that n-grams repeat within and between captions; some captions are empty, some one word long.
    return [rng.integers(0, 6, size=rng.integers(0, 12)).tolist() for _ in range(count)]


def test_every_score_equals_pycocoevalcaps_on_the_same_frequencies():
    from pycocoevalcap.cider.cider_scorer import CiderScorer

    rng = np.random.default_rng(0)
    references = [random_captions(rng, rng.integers(1, 6)) for _ in range(30)]
    frequencies = DocumentFrequencies.of(references)
    drawn = [random_captions(rng, 30) for _ in range(3)]  # three captions for every image
    captions = [caption for image in zip(*drawn) for caption in image]
    ours = cider_d(captions, np.repeat(np.arange(30), 3), references, frequencies).reshape(30, 3)
    for number, one_an_image in enumerate(drawn):
        scorer = CiderScorer(n=4, sigma=6.0)
        for caption, refs in zip(one_an_image, references):
            scorer += (" ".join(map(str, caption)), [" ".join(map(str, ref)) for ref in refs])
        np.testing.assert_allclose(ours[:, number], scorer.compute_score()[1], atol=1e-12)
    assert (ours > 0).mean() > 0.5


def test_frequencies_counted_in_parts_are_those_of_the_whole(monkeypatch):
    rng = np.random.default_rng(1)
    references = [random_captions(rng, 2) for _ in range(7)]
    whole = DocumentFrequencies.of(references)
    monkeypatch.setattr("xmodaler_ssattn.scorer.cider.IMAGES_AT_ONCE", 3)
    parts = DocumentFrequencies.of(references)
    assert parts.images == whole.images == 7
    np.testing.assert_array_equal(parts.grams, whole.grams)
    np.testing.assert_array_equal(parts.counts, whole.counts)
