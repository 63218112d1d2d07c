"""The grounding metric against cases by hand, a slow obvious version, and numbers of the published script."""

import json
import math
import random
import time
from collections import defaultdict

import numpy as np
import pytest

from xmodaler_ssattn.boxes import iou_gvd
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.forced import (
    attention_accuracy,
    match_forced,
    reachable_share,
)
from xmodaler_ssattn.evaluation.grounding import (
    class_table,
    generated_replicates,
    generated_scores,
    match_generated,
)

LEMMA = {"men": "man", "dogs": "dog", "hats": "hat", "runs": "run"}


def lemma(word):
    return LEMMA.get(word, word)


# --- the slow, obvious version: lists a class, one comparison at a time --------------------------------------------


def slow_iou(p, g):
    p, g = [np.float32(v) for v in p], [np.float32(v) for v in g]
    one = np.float32(1)
    pw, ph, gw, gh = p[2] - p[0] + one, p[3] - p[1] + one, g[2] - g[0] + one, g[3] - g[1] + one
    if pw == 1 and ph == 1:
        return -1.0
    if gw == 1 and gh == 1:
        return 0.0
    w = max(min(p[2], g[2]) - max(p[0], g[0]) + one, np.float32(0))
    h = max(min(p[3], g[3]) - max(p[1], g[1]) + one, np.float32(0))
    return w * h / (pw * ph + gw * gh - w * h)


def slow_lists(reference, predictions, mode):
    prec, rec, pairs, vocabulary = defaultdict(list), defaultdict(list), [], set()
    for record in reference:
        image = str(record["image_id"])
        for caption in record["captions"]:
            p_pair, r_pair = [], []
            entries = list(zip(caption["process_idx"], caption["process_clss"], caption["process_bnd_box"]))
            for _, name, box in entries:
                if image not in predictions:
                    rec[name].append(0)
                    continue
                vocabulary.add(name)
                sentence = predictions[image][0]
                if name in sentence["clss"]:
                    value = int(slow_iou(sentence["bbox"][sentence["clss"].index(name)], box) > 0.5)
                    rec[name].append(value)
                    r_pair.append(value)
                elif mode == "all":
                    rec[name].append(0)
                    r_pair.append(0)
            if image not in predictions:
                continue
            sentence = predictions[image][0]
            others = {lemma(t) for i, t in enumerate(caption["tokens"]) if i not in caption["process_idx"] and t != ""}
            for name, box in zip(sentence["clss"], sentence["bbox"]):
                same = [entry for entry in entries if entry[1] == name]
                if same:
                    value = int(slow_iou(box, min(same)[2]) > 0.5)
                    prec[name].append(value)
                    p_pair.append(value)
                elif lemma(name) not in others and mode == "all":
                    prec[name].append(0)
                    p_pair.append(0)
            pairs.append((p_pair, r_pair))
    return prec, rec, pairs, vocabulary


def slow_scores(reference, predictions):
    scores = {}
    for mode in ("all", "loc"):
        prec, rec, pairs, vocabulary = slow_lists(reference, predictions, mode)
        n = len(vocabulary)
        p = sum(sum(v) / len(v) for v in prec.values()) / n if n else math.nan
        r = sum(sum(v) / len(v) for v in rec.values()) / n if n else math.nan
        scores[f"precision_{mode}"], scores[f"recall_{mode}"] = p, r
        scores[f"F1_{mode}"] = 2 * p * r / (p + r) if p + r > 0 else math.nan
        values = []
        for p_pair, r_pair in pairs:
            if not r_pair:
                continue
            p = sum(p_pair) / len(p_pair) if p_pair else 0
            r = sum(r_pair) / len(r_pair)
            values.append(2 * p * r / (p + r) if p + r > 0 else 0)
        scores[f"F1_{mode}_per_sentence"] = sum(values) / len(values) if values else math.nan
    shown = {str(record["image_id"]) for record in reference}
    named = {name for image in shown & set(predictions) for name in predictions[image][0]["clss"]}
    scores["classes_named"] = len(named & vocabulary) / n if n else math.nan
    return scores


def slow_attention(reference, predictions):
    hits = defaultdict(list)
    for record in reference:
        image = str(record["image_id"])
        for i, caption in enumerate(record["captions"]):
            for position, name, box in zip(caption["process_idx"], caption["process_clss"], caption["process_bnd_box"]):
                if image not in predictions or position not in predictions[image][i]["idx_in_sent"]:
                    hits[name].append(0)
                else:
                    at = predictions[image][i]["idx_in_sent"].index(position)
                    hits[name].append(int(slow_iou(predictions[image][i]["bbox"][at], box) > 0.5))
    return sum(sum(v) / len(v) for v in hits.values()) / len(hits) if hits else math.nan


# --- random cases that contain every corner -------------------------------------------------------------------------

CLASSES = ["man", "dog", "hat", "ball", "shirt", "sunglass", "woman"]
ONLY_PREDICTED = ["unicorn"]
WORDS = [*CLASSES, "men", "dogs", "hats", "runs", "a", "the", "", "in"]


def random_boxes(rng, n):
    boxes = [[5, 5, 5, 5], [0, 0, 19, 9], [0, 0, 9, 9]]  # one pixel; the other two overlap by exactly 0.5
    while len(boxes) < n:
        x, y = rng.randrange(60), rng.randrange(60)
        boxes.append([x, y, x + rng.randrange(40), y + rng.choice([0, 3, 20, 31.5])])
    return boxes


def random_case(seed, images=8):
    rng = random.Random(seed)
    boxes = random_boxes(rng, 7)
    reference, generated, forced = [], {}, {}
    for image in range(images):
        captions = []
        for _ in range(rng.choice([5, 5, 5, 0])):
            tokens = [rng.choice(WORDS) for _ in range(rng.randrange(10))]
            positions = rng.sample(range(len(tokens)), rng.randrange(len(tokens) // 2 + 1)) if tokens else []
            captions.append(
                {
                    "tokens": tokens,
                    "process_idx": positions,
                    "process_clss": [rng.choice(CLASSES) for _ in positions],
                    "process_bnd_box": [rng.choice(boxes) for _ in positions],
                }
            )
        reference.append({"image_id": image, "captions": captions})
        if rng.random() < 0.8:
            names = [rng.choice(CLASSES + ONLY_PREDICTED) for _ in range(rng.randrange(6))]
            generated[str(image)] = [
                {"clss": names, "idx_in_sent": list(range(len(names))), "bbox": [rng.choice(boxes) for _ in names]}
            ]
        if rng.random() < 0.8:
            forced[str(image)] = []
            for _ in captions:
                positions = [rng.randrange(10) for _ in range(rng.randrange(9))]  # duplicates on purpose
                chosen = [rng.choice(boxes) for _ in positions]
                forced[str(image)].append({"clss": ["man"] * len(positions), "idx_in_sent": positions, "bbox": chosen})
    return reference, generated, forced


def assert_equal_scores(got, expected):
    assert got.keys() == expected.keys()
    for key in expected:
        assert got[key] == pytest.approx(expected[key], abs=1e-12, nan_ok=True), key


@pytest.mark.parametrize("seed", range(60))
def test_scores_equal_the_slow_version_on_random_cases(seed):
    reference, generated, forced = random_case(seed, images=1 + seed % 9)
    got = generated_scores(match_generated(reference, generated, lemma))
    assert_equal_scores(got, slow_scores(reference, generated))
    expected = slow_attention(reference, forced)
    assert attention_accuracy(match_forced(reference, forced)) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_the_worked_cases_of_the_published_script_agree_to_1e_12(shared_data):
    path = shared_data / "metrics" / "gvd_worked_cases.json"
    for case in json.loads(path.read_text(encoding="utf-8")):
        matches = match_generated(case["ref"], case["gen"], lambda word: case["lemma"].get(word, word))  # noqa: B023
        scores = generated_scores(matches)
        for mode in ("all", "loc"):
            got = [scores[f"{name}_{mode}"] for name in ("precision", "recall", "F1")]
            assert got == pytest.approx(case["expected"][mode], abs=1e-12)
        accuracy = attention_accuracy(match_forced(case["ref"], case["gt"]))
        assert accuracy == pytest.approx(case["expected"]["gt_accuracy"], abs=1e-12)


# --- cases to check on paper ----------------------------------------------------------------------------------------


def caption(tokens, *entries):
    return {
        "tokens": tokens.split(),
        "process_idx": [e[0] for e in entries],
        "process_clss": [e[1] for e in entries],
        "process_bnd_box": [e[2] for e in entries],
    }


def sentence(*entries):
    return {"clss": [e[0] for e in entries], "idx_in_sent": list(range(len(entries))), "bbox": [e[1] for e in entries]}


A, B = [0, 0, 9, 9], [50, 50, 59, 59]


def test_one_image_by_hand():
    # V = {man, dog}. Predicted: man at A, hat at A. Caption 1: man at A, dog at B; caption 2: "a hat", no annotation.
    # Precision man: [1] in caption 1, a hallucination in caption 2: [1, 0] -> 1/2 in "all", [1] -> 1 in "loc".
    # Precision hat: caption 1 hallucination [0]; caption 2 has the word hat, not annotated: skipped. Mean 0.
    # Recall man: [1]; dog: [0] in "all", nothing in "loc".
    # all: p = (1/2 + 0)/2 = 1/4, r = (1 + 0)/2 = 1/2, F1 = 2/8 / (3/4) = 1/3. loc: p = r = F1 = 1/2.
    # Per sentence, all: caption 1 p = 1/2, r = 1/2, F1 = 1/2; caption 2 skipped. loc: caption 1 p = 1, r = 1, F1 = 1.
    reference = [{"image_id": 7, "captions": [caption("man dog", (0, "man", A), (1, "dog", B)), caption("a hat")]}]
    generated = {"7": [sentence(("man", A), ("hat", A))]}
    scores = generated_scores(match_generated(reference, generated, lemma))
    assert scores == pytest.approx(
        {
            "F1_all": 1 / 3,
            "precision_all": 1 / 4,
            "recall_all": 1 / 2,
            "F1_loc": 1 / 2,
            "precision_loc": 1 / 2,
            "recall_loc": 1 / 2,
            "F1_all_per_sentence": 1 / 2,
            "F1_loc_per_sentence": 1.0,
            "classes_named": 1 / 2,  # man of man and dog; nobody annotated the hat
        }
    )


def test_an_overlap_of_exactly_one_half_is_a_miss():
    # Widths with +1: 20 x 10 against 10 x 10, intersection 100, union 200.
    assert iou_gvd([[0, 0, 19, 9]], [[0, 0, 9, 9]])[0] == 0.5
    reference = [{"image_id": 1, "captions": [caption("man", (0, "man", [0, 0, 9, 9]))]}]
    scores = generated_scores(match_generated(reference, {"1": [sentence(("man", [0, 0, 19, 9]))]}, lemma))
    assert scores["precision_all"] == 0 and scores["recall_all"] == 0


def test_one_pixel_boxes_never_hit_even_themselves():
    assert iou_gvd([[5, 5, 5, 5], A, [5, 5, 5, 5]], [[5, 5, 5, 5], [5, 5, 5, 5], A]).tolist() == [-1, 0, -1]


def test_zero_over_zero_is_nan_as_published_and_zero_for_a_log():
    reference = [{"image_id": 1, "captions": [caption("man", (0, "man", A))]}]
    nothing = {"1": [sentence()]}
    assert math.isnan(generated_scores(match_generated(reference, nothing, lemma))["F1_all"])
    assert generated_scores(match_generated(reference, nothing, lemma), undefined=0.0)["F1_all"] == 0.0
    scores = generated_scores(match_generated([], {}, lemma))
    assert all(math.isnan(value) for value in scores.values())
    assert set(generated_scores(match_generated([], {}, lemma), undefined=0.0).values()) == {0.0}
    assert math.isnan(attention_accuracy(match_forced([], {})))
    assert attention_accuracy(match_forced([], {}), undefined=0.0) == 0.0


def test_a_missing_image_costs_recall_in_both_modes_and_is_named():
    # Image 2 has no prediction: man's recall list is [1, 0] in both modes; V comes from image 1 alone.
    reference = [{"image_id": i, "captions": [caption("man", (0, "man", A))]} for i in (1, 2)]
    matches = match_generated(reference, {"1": [sentence(("man", A))]}, lemma)
    scores = generated_scores(matches)
    assert matches.predicted.tolist() == [i != 2 for i in matches.image_ids]
    assert (scores["precision_all"], scores["recall_all"], scores["recall_loc"]) == (1.0, 0.5, 0.5)


def test_duplicate_predictions_all_count_for_precision_and_the_first_for_recall():
    reference = [{"image_id": 1, "captions": [caption("man", (0, "man", A))]}]
    scores = generated_scores(match_generated(reference, {"1": [sentence(("man", B), ("man", A))]}, lemma))
    assert (scores["precision_all"], scores["recall_all"]) == (0.5, 0.0)


def test_the_class_table_lists_entries_and_means():
    reference = [{"image_id": 1, "captions": [caption("man dog", (0, "man", A), (1, "dog", B))]}]
    rows = class_table(match_generated(reference, {"1": [sentence(("man", A), ("hat", A))]}, lemma))
    assert [row["class"] for row in rows] == ["dog", "man", "hat"]
    by_name = {row["class"]: row for row in rows}
    assert (by_name["man"]["precision"], by_name["man"]["recall"], by_name["man"]["F1"]) == (1, 1, 1)
    assert math.isnan(by_name["dog"]["precision"]) and by_name["dog"]["recall"] == 0
    assert not by_name["hat"]["in_vocabulary"] and by_name["hat"]["predictions"] == 1


def test_image_weights_equal_repeating_the_images():
    reference, generated, forced = random_case(3, images=8)
    weights = [0, 2, 1, 0, 3, 1, 1, 0]
    repeated, repeated_generated, repeated_forced = [], {}, {}
    for record, times in zip(reference, weights):
        for copy in range(times):
            name = 100 * record["image_id"] + copy
            repeated.append({**record, "image_id": name})
            for source, target in ((generated, repeated_generated), (forced, repeated_forced)):
                if str(record["image_id"]) in source:
                    target[str(name)] = source[str(record["image_id"])]
    weighted = generated_replicates(match_generated(reference, generated, lemma), np.array([weights], dtype=float))
    weighted = {name: values[0] for name, values in weighted.items()}
    assert_equal_scores(weighted, slow_scores(repeated, repeated_generated))
    accuracy = attention_accuracy(match_forced(reference, forced), image_weights=np.array(weights))
    assert accuracy == pytest.approx(slow_attention(repeated, repeated_forced), abs=1e-12)


def test_forced_sentences_must_be_as_many_as_the_reference_captions():
    reference = [{"image_id": 9, "captions": [caption("man", (0, "man", A))] * 5}]
    with pytest.raises(UserError, match="image 9: expected 5 sentences.*got 4"):
        match_forced(reference, {"9": [sentence()] * 4})


def test_reach_counts_boxes_that_some_region_could_hit():
    # Two annotated boxes, the regions hold one of them; the second image has no regions and one box: 1 of 3.
    reference = [
        {"image_id": 1, "captions": [caption("man dog", (0, "man", A), (1, "dog", B))]},
        {"image_id": 2, "captions": [caption("man", (0, "man", A))]},
    ]
    assert reachable_share(reference, {"1": np.array([[0, 0, 9, 8], [100, 100, 120, 120]])}) == pytest.approx(1 / 3)
    assert math.isnan(reachable_share([], {}))


def test_a_thousand_images_score_within_a_second():
    rng = random.Random(0)
    reference, generated = [], {}
    for image in range(1000):
        captions = []
        for _ in range(5):
            tokens = [rng.choice(WORDS) for _ in range(12)]
            positions = rng.sample(range(12), 3)
            captions.append(
                {
                    "tokens": tokens,
                    "process_idx": positions,
                    "process_clss": [rng.choice(CLASSES) for _ in positions],
                    "process_bnd_box": [[0, 0, rng.randrange(9, 99), 50] for _ in positions],
                }
            )
        reference.append({"image_id": image, "captions": captions})
        generated[str(image)] = [sentence(*((rng.choice(CLASSES), [0, 0, rng.randrange(9, 99), 50]) for _ in range(4)))]
    start = time.process_time()
    generated_scores(match_generated(reference, generated, lemma))
    assert time.process_time() - start < 1.0
