"""Corpus scores from the rows of single images: what the reference programs give on the whole, and on a resample."""

import gzip
import json

import numpy as np
import pytest

from xmodaler_ssattn.evaluation.bootstrap import image_weights
from xmodaler_ssattn.evaluation.grounding import generated_replicates, generated_scores, match_generated
from xmodaler_ssattn.evaluation.java import JavaError
from xmodaler_ssattn.evaluation.metrics.bleu import Bleu
from xmodaler_ssattn.evaluation.metrics.cider import Cider
from xmodaler_ssattn.evaluation.metrics.meteor import MeteorMetric, addends, shared_meteor
from xmodaler_ssattn.evaluation.metrics.rouge_l import RougeL
from xmodaler_ssattn.evaluation.ptb import PtbTokenizer
from xmodaler_ssattn.scorer.cider import DocumentFrequencies, cider_d

# "a dog" against "a dog": 2 words each, 1 of them a function word; 1 content and 1 function word matched exactly; 1
# chunk; 2 words matched in both.
PERFECT = [2, 2, 1, 1] + [1, 1, 1, 1] + [0] * 12 + [1, 2, 2]
# "a dog" against "a dog runs": one word of the reference is left over.
SHORT = [2, 3, 1, 1] + [1, 1, 1, 1] + [0] * 12 + [1, 2, 2]
# "dog a" against "a dog": all words matched, in two chunks.
SWAPPED = [2, 2, 1, 1] + [1, 1, 1, 1] + [0] * 12 + [2, 2, 2]


def chunks_of(*rows):
    return addends(np.array(rows))[:, 20].tolist()


def test_only_a_perfect_match_in_one_chunk_adds_no_chunk():
    assert chunks_of(PERFECT, SHORT, SWAPPED, [0] * 23) == [0, 1, 2, 0]
    # Words that the stemmer or a synonym matched count as matched too, whichever of the four matchers it was.
    by_synonym = [2, 2, 0, 0] + [1, 1, 0, 0] + [0] * 4 + [1, 1, 0, 0] + [0] * 4 + [1, 2, 2]
    assert chunks_of(by_synonym) == [0]
    # A paraphrase of two words by one: the caption's words are matched, one of the reference is not.
    by_paraphrase = [2, 2, 0, 0] + [0] * 12 + [2, 1, 0, 0] + [1, 2, 1]
    assert chunks_of(by_paraphrase) == [1]


def test_all_other_counts_are_added_as_they_are_and_the_counts_stay_as_they_were():
    counts = np.array([PERFECT, SHORT], dtype=np.float64)
    added = addends(counts)
    assert counts[0, 20] == 1 and np.delete(added, 20, axis=1).tolist() == np.delete(counts, 20, axis=1).tolist()


def test_another_number_of_counts_is_refused():
    with pytest.raises(JavaError, match="METEOR answered 3 counts per caption where 23 were expected"):
        addends(np.ones((2, 3)))


# --- against the programs themselves ---------------------------------------------------------------------------------

PLAIN = [
    ("a dog runs", ["a dog runs", "the dog is running"]),  # a perfect match
    ("two children play in the snow", ["two kids are playing in snow", "children in the snow"]),
    ("dog a runs", ["a dog runs"]),
    ("", ["a man"]),
    ("man", ["a man"]),
    ("zzz qqq", ["a man on a horse"]),
    ("a boy 's red ball", ["a red ball of a boy", "the ball"]),
]


def changed(pairs):
    """The same pairs, with every corner among them: of each ten some become a corner case."""

    def change(number, caption, refs):
        corner = number % 10
        if corner == 0:
            return caption, [*refs, caption]  # matched whole, in one chunk
        if corner == 1:
            return "", refs
        if corner == 2:
            return " ".join(caption.split()[-1:]), refs
        if corner == 3:
            return "zzz qqq xxx", refs
        if corner == 4:
            return " ".join(reversed(caption.split())), refs
        if corner == 5:
            return caption, [""]
        return caption, refs

    return [change(number, *pair) for number, pair in enumerate(pairs)]


@pytest.fixture(scope="module")
def real_pairs(shared_data, with_java):
    """Tokens of 5,400 real images, the first caption as the candidate; a tenth of them each a corner case."""
    with gzip.open(shared_data / "flickr30k" / "captions.json.gz") as file:
        images = json.load(file)
    texts = [image["captions"] for image in images.values() if len(image["captions"]) == 5][:5400]
    tokens = iter(PtbTokenizer().tokenize(text for captions in texts for text in captions))
    return changed([(next(tokens), [next(tokens) for _ in range(4)]) for _ in texts])


def meteors_own_total(captions, references):
    """METEOR's answer to one EVAL over all counts, as pycocoevalcap asks for it."""
    process = shared_meteor()
    process.counts(captions, references)
    counts = [" ".join(map(repr, row)) for row in process.counts(captions, references).tolist()]
    answers = process._server.ask([f"EVAL ||| {' ||| '.join(counts)}"], len(counts) + 1, 300)
    return float(answers[-1])


def drawn(row):
    return [image for image, times in enumerate(row.astype(int)) for _ in range(times)]


def compare_meteor(pairs, replicates):
    captions, references = zip(*pairs)
    metric = MeteorMetric()
    counts = metric.rows(captions, references)
    expected = meteors_own_total(captions, references)
    assert metric.values(counts, np.ones((1, len(pairs))))["METEOR"][0] == pytest.approx(expected, abs=1e-9)
    weights = image_weights(len(pairs), replicates, seed=1)
    for row, value in zip(weights, metric.values(counts, weights)["METEOR"]):
        again = drawn(row)
        expected = meteors_own_total([captions[i] for i in again], [references[i] for i in again])
        assert value == pytest.approx(expected, abs=1e-9)
    return counts


def test_meteor_equals_the_programs_own_total(with_java):
    counts = compare_meteor(PLAIN, 5)
    assert (counts[:, 20] == 0).sum() >= 2  # the perfect match, and the caption without words


def test_meteor_of_5400_real_pairs_equals_the_programs_own_total_and_so_do_replicates(real_pairs):
    assert len(real_pairs) >= 5000
    counts = compare_meteor(real_pairs, 2)
    # The sum of the counts themselves, with the chunk of a perfect match, is another score.
    naive = shared_meteor().scores(shared_meteor().counts(*zip(*real_pairs)).sum(axis=0, keepdims=True))[0]
    assert abs(naive - MeteorMetric().values(counts, np.ones((1, len(real_pairs))))["METEOR"][0]) > 1e-5


def official(pairs):
    from pycocoevalcap.bleu.bleu import Bleu as OfficialBleu
    from pycocoevalcap.cider.cider import Cider as OfficialCider
    from pycocoevalcap.rouge.rouge import Rouge

    gts, res = {i: refs for i, (_, refs) in enumerate(pairs)}, {i: [c] for i, (c, _) in enumerate(pairs)}
    scores = dict(zip(("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"), OfficialBleu(4).compute_score(gts, res, verbose=0)[0]))
    scores["ROUGE_L"] = Rouge().compute_score(gts, res)[0]
    scores["CIDEr"], each = OfficialCider().compute_score(gts, res)
    return scores, each


def compare_others(pairs):
    captions, references = zip(*pairs)
    counted = [(metric, metric.rows(captions, references)) for metric in (Bleu(), RougeL(), Cider())]

    def values(weights):
        found = [metric.values(rows, weights) for metric, rows in counted]
        return {name: value for scores in found for name, value in scores.items()}

    expected, ciders = official(pairs)
    once = {name: value[0] for name, value in values(np.ones((1, len(pairs)))).items()}
    assert once == pytest.approx(expected, abs=1e-12)
    weights = image_weights(len(pairs), 2, seed=1)
    for number, row in enumerate(weights):
        again = drawn(row)
        expected, _ = official([pairs[i] for i in again])
        # CIDEr's document frequencies stay those of all images: a replicate is the mean of the drawn images' scores.
        expected["CIDEr"] = np.mean([ciders[i] for i in again])
        got = {name: value[number] for name, value in values(weights).items()}
        assert got == pytest.approx(expected, abs=1e-12)


def test_bleu_rouge_and_cider_equal_pycocoevalcaps_on_the_whole_and_on_resamples():
    compare_others(PLAIN)


def test_bleu_rouge_and_cider_of_real_pairs_equal_pycocoevalcaps(real_pairs):
    compare_others(real_pairs[:600])


def test_the_rewards_cider_of_real_pairs_equals_pycocoevalcaps(real_pairs):
    pairs = real_pairs[:600]
    ids = {}
    captions = [[ids.setdefault(word, len(ids)) for word in caption.split()] for caption, _ in pairs]
    references = [[[ids.setdefault(w, len(ids)) for w in ref.split()] for ref in refs] for _, refs in pairs]
    scores = cider_d(captions, range(len(pairs)), references, DocumentFrequencies.of(references))
    assert scores == pytest.approx(official(pairs)[1], abs=1e-9)


def test_replicates_of_grounding_equal_the_metric_on_an_image_list_with_repeats():
    rng = np.random.default_rng(0)
    names, reference, predictions = ["man", "dog", "hat", "ball"], [], {}

    def box():
        x, y = rng.integers(0, 20, 2)
        return [int(x), int(y), int(x + 20), int(y + 20)]

    for image in range(9):
        captions = []
        for _ in range(5):
            said = [str(name) for name in rng.choice(names, 2, replace=False)]
            captions.append(
                {
                    "tokens": ["a", *said, str(rng.choice(names))],
                    "process_idx": [1, 2],
                    "process_clss": said,
                    "process_bnd_box": [box(), box()],
                }
            )
        reference.append({"image_id": image, "captions": captions})
        if image:  # the first image has no prediction
            said = [str(name) for name in rng.choice(names, 3)]
            predictions[str(image)] = [{"clss": said, "idx_in_sent": [0, 1, 2], "bbox": [box() for _ in said]}]
    weights = image_weights(9, 20, seed=3)
    values = generated_replicates(match_generated(reference, predictions, str), weights)
    for number, row in enumerate(weights):
        again = [(new, reference[old]) for new, old in enumerate(drawn(row))]
        repeated = [{**record, "image_id": new} for new, record in again]
        said = {str(new): predictions.get(str(record["image_id"])) for new, record in again}
        said = {image: sentence for image, sentence in said.items() if sentence is not None}
        expected = generated_scores(match_generated(repeated, said, str))
        assert {name: v[number] for name, v in values.items()} == pytest.approx(expected, abs=1e-12, nan_ok=True)
