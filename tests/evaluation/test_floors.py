"""Floors and ceilings by hand on three regions, and where the accuracy sits."""

import numpy as np
import pytest

from xmodaler_ssattn.evaluation import floors
from xmodaler_ssattn.evaluation.floors import ImageBoxes, choose, floors_and_ceilings
from xmodaler_ssattn.evaluation.forced import (
    CLOTHING,
    PEOPLE,
    accuracy_by_place,
    attention_accuracy,
    kind_of,
    match_forced,
    reachable_share,
)
from xmodaler_ssattn.evaluation.lemmas import own_lemma

# 100 x 100 pixels: region 0 is the largest (60 x 60), 1 the most central, 2 a small one in the corner.
BOXES = np.array([(0, 0, 59, 59), (40, 40, 60, 60), (90, 90, 99, 99)], dtype=np.float32)
# Columns: background, man, dog, nothing that has a name.
PROBS = np.array([[0.2, 0.4, 0.1, 0.3], [0.1, 0.5, 0.1, 0.3], [0.1, 0.1, 0.6, 0.2]], dtype=np.float32)
IMAGE = ImageBoxes(100, 100, BOXES, PROBS)
COLUMNS = {"man": (1,), "dog": (2,)}
MAN, DOG, SKY = (0, 0, 59, 59), (90, 90, 99, 99), (0, 0, 99, 70)


def caption(*entries):
    """ "NAME" -> a word without a box, (name, box) -> an annotated word."""
    tokens = [entry if isinstance(entry, str) else entry[0] for entry in entries]
    found = [(i, *entry) for i, entry in enumerate(entries) if not isinstance(entry, str)]
    positions, names, boxes = zip(*found) if found else ((), (), ())
    return {
        "tokens": tokens, "process_idx": list(positions), "process_clss": list(names),
        "process_bnd_box": [list(box) for box in boxes],
    }  # fmt: skip


REFERENCE = [
    {
        "image_id": 7,
        "captions": [
            caption("a", ("man", MAN), "and", ("dog", DOG)),
            caption(("dog", DOG), "under", ("sky", SKY)),
        ],
    }
]


def chosen(rule, name, box):
    return choose(rule, IMAGE, COLUMNS.get(name, ()), box, np.random.default_rng(0))


@pytest.mark.parametrize(("rule", "name", "region"), [
    (floors.LARGEST, "man", 0), (floors.CENTRAL, "man", 1),
    (floors.DETECTOR, "man", 1), (floors.DETECTOR, "dog", 2),
    (floors.LARGEST_DETECTED, "man", 0),  # .4 x 3,481 against .5 x 400
    (floors.LARGEST_DETECTED, "dog", 0),  # .1 x 3,481 against .6 x 81
    (floors.PERFECT, "man", 0), (floors.PERFECT, "dog", 2),
])  # fmt: skip
def test_a_rule_chooses_a_region(rule, name, region):
    assert chosen(rule, name, {"man": MAN, "dog": DOG}[name]).tolist() == BOXES[region].tolist()


def test_rules_that_need_no_region_and_rules_that_say_nothing():
    assert chosen(floors.WHOLE, "man", MAN) == [0, 0, 99, 99]
    assert chosen(floors.ANNOTATED, "man", MAN) == MAN
    assert chosen(floors.DETECTOR, "sky", SKY) is None  # no column names it
    bare = ImageBoxes(100, 100, np.zeros((0, 4)))
    assert choose(floors.LARGEST, bare, (1,), MAN, np.random.default_rng(0)) is None
    assert choose(floors.DETECTOR, ImageBoxes(100, 100, BOXES), (1,), MAN, np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match="rule must be one of"):
        chosen("largest", "man", MAN)


def test_several_columns_of_a_class_are_added():
    # .4 + .3 against .5 + .3 against .1 + .2
    assert choose(floors.DETECTOR, IMAGE, (1, 3), MAN, np.random.default_rng(0)).tolist() == BOXES[1].tolist()


def test_accuracies_by_hand():
    found = floors_and_ceilings(REFERENCE, {7: IMAGE}.__getitem__, own_lemma, COLUMNS)
    assert list(found) == list(floors.RULES)
    both = {rule: (scores["attention_accuracy"], scores["word_accuracy"]) for rule, scores in found.items()}
    # Words: man, dog, dog, sky. The sky's 100 x 71 pixels hold region 0's 60 x 60 (.507): reached by the largest.
    assert both[floors.LARGEST] == pytest.approx((2 / 3, 2 / 4))
    assert both[floors.CENTRAL] == (0, 0)
    assert both[floors.WHOLE] == pytest.approx((1 / 3, 1 / 4))  # the sky's 71 %; the man has 36 %
    assert both[floors.DETECTOR] == pytest.approx((1 / 3, 2 / 4))  # both dogs; the man elsewhere, the sky unsaid
    assert both[floors.PERFECT] == both[floors.ANNOTATED] == (1, 1)
    assert both[floors.RANDOM] == pytest.approx((1 / 3, 1 / 3))  # one of three regions is right for each word


def test_chance_is_the_mean_of_all_samples_and_perfect_attention_is_the_reach():
    rng = np.random.default_rng(0)
    reference, images = [], {}
    for image_id in range(30):
        regions = make_boxes(rng, 6)
        words = [(name, tuple(make_boxes(rng, 1)[0])) for name in rng.choice(["man", "dog", "sky"], 3)]
        reference.append({"image_id": image_id, "captions": [caption(*words[:2]), caption(*words[2:])]})
        images[image_id] = ImageBoxes(100, 100, regions)
    rules = (floors.RANDOM, floors.PERFECT)
    found = floors_and_ceilings(reference, images.__getitem__, own_lemma, {}, rules)
    reach = reachable_share(reference, {str(i): image.boxes_px for i, image in images.items()})
    assert found[floors.PERFECT]["word_accuracy"] == pytest.approx(reach) and 0.1 < reach < 0.9
    drawn = []
    for region in range(6):  # each word gets each region once: the mean over them is the expectation
        said = {
            str(record["image_id"]): [
                {"clss": c["process_clss"], "idx_in_sent": c["process_idx"],
                 "bbox": [images[record["image_id"]].boxes_px[region]] * len(c["process_idx"])}
                for c in record["captions"]
            ]
            for record in reference
        }  # fmt: skip
        drawn.append(attention_accuracy(match_forced(reference, said)))
    assert found[floors.RANDOM]["attention_accuracy"] == pytest.approx(np.mean(drawn))


def make_boxes(rng, count):
    corner, side = rng.integers(0, 40, (count, 2)), rng.integers(20, 60, (count, 2))
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def test_a_persons_caption_is_scored_against_all_references():
    found = floors_and_ceilings(REFERENCE, {7: IMAGE}.__getitem__, own_lemma, COLUMNS)
    own, largest = found[floors.ANNOTATED], found[floors.LARGEST]
    # The first caption says man and dog. Classes: man, dog, sky.
    # Precision: man: right in caption 1, a miss in caption 2, which has none: 1/2; dog: 2/2. (1/2 + 1) / 3 = 1/2.
    # Recall: man 1/1, dog 2/2, sky 0/1: 2/3. F1 = 2 x 1/2 x 2/3 / (7/6) = 4/7.
    assert own["precision_all"] == pytest.approx(1 / 2) and own["recall_all"] == pytest.approx(2 / 3)
    assert own["F1_all"] == pytest.approx(4 / 7)
    # loc: man 1/1, dog 2/2, sky nothing, on both sides: 2/3. Caption 2 has its dog and no count of the sky.
    assert own["F1_loc"] == pytest.approx(2 / 3) and own["F1_loc_per_sentence"] == pytest.approx(1)
    # The largest region is right for the man only: precision and recall 1/3 in loc.
    assert largest["F1_loc"] == pytest.approx(1 / 3)


def test_everything_is_the_same_each_time():
    twice = [floors_and_ceilings(REFERENCE, {7: IMAGE}.__getitem__, own_lemma, COLUMNS) for _ in range(2)]
    assert twice[0] == twice[1]
    assert floors_and_ceilings([], {}.__getitem__, own_lemma, {})[floors.LARGEST]["word_accuracy"] == 0


# --- where the accuracy sits ------------------------------------------------------------------------------------------


def test_words_are_grouped_by_their_place_among_the_object_words_and_by_their_kind():
    box, wrong = [0, 0, 9, 9], [50, 50, 80, 80]
    words = ["man", "shirt", "dog", "woman", "tree"]
    record = caption("a", *((name, box) for name in words))
    # Entries need not be in the order of the sentence.
    for key in ("process_idx", "process_clss", "process_bnd_box"):
        record[key].reverse()
    other = caption(("dog", box))
    said = {"1": [
        {"clss": words, "idx_in_sent": [1, 2, 3, 4, 5], "bbox": [box, wrong, box, wrong, box]},
        {"clss": [], "idx_in_sent": [], "bbox": []},
    ]}  # fmt: skip
    found = accuracy_by_place(match_forced([{"image_id": 1, "captions": [record, other]}], said))
    expected = {
        "all": (6, 3), "1st": (2, 1), "2nd": (1, 0), "3rd": (1, 1), "4th or later": (2, 1),
        "people": (2, 1), "clothing": (1, 0), "other": (3, 2),
        "people, 1st": (1, 1), "people, later": (1, 0), "clothing, later": (1, 0),
        "other, 1st": (1, 0), "other, later": (2, 2),
    }  # fmt: skip
    assert found == {name: {"words": n, "accuracy": pytest.approx(hits / n)} for name, (n, hits) in expected.items()}


def test_kinds_are_classes_of_the_data_set_and_do_not_overlap():
    from xmodaler_ssattn.classes import read_classes

    assert not PEOPLE & CLOTHING and (PEOPLE | CLOTHING) <= set(read_classes())
    assert [kind_of(name) for name in ("woman", "crowd", "hat", "dog")] == ["people", "people", "clothing", "other"]
