"""The world of real boxes: what annotations say, what nobody mentions, a detector's errors."""

import dataclasses

import numpy as np
import pytest

from simulated.made_up_annotations import BOY, CLASSES, DOG, GIRL, children, empty, hatted
from xmodaler_ssattn.boxes import area, iou
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.lemmas import noun_lemma
from xmodaler_ssattn.worlds.simulated import AnnotationsAssumptions, Settings
from xmodaler_ssattn.worlds.simulated.annotations_dataset import simulate_annotated
from xmodaler_ssattn.worlds.simulated.annotations_world import (
    collect_donors,
    column_of,
    problems_of,
    real_layout,
    understand_record,
)
from xmodaler_ssattn.worlds.simulated.detector import detect_real, regions_of
from xmodaler_ssattn.worlds.simulated.world import Layout, World, make_world


def hear(image):
    return understand_record(image, noun_lemma)


def world_of(num_regions=36, feature_dim=32, num_classes=40, seed=0, **assumptions) -> World:
    words = {word for image in (children(), hatted(), empty()) for word in hear(image).words} | {"five"}
    settings = Settings(seed, None, num_regions, feature_dim, num_classes)
    return make_world(settings, AnnotationsAssumptions(**assumptions), CLASSES, words)


def layout_of(boxes, size=(400, 300)):
    boxes = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    count = len(boxes)
    return Layout(*size, boxes, np.ones(count, dtype=np.int64), ((),) * count, (True,) * count)


# --- what annotations say -------------------------------------------------------------------------------
def test_every_distinct_box_is_one_object_of_its_most_specific_chain():
    told = hear(children())
    said = {item.box_px: item for item in told.objects}
    assert list(said) == [tuple(BOY), tuple(GIRL), tuple(DOG), (100, 20, 110, 30)]
    # the boy's box belongs to the chains 1 (two boxes) and 2 (one box): boy in 2 of 3 phrases of chain 2, man in 1
    boy = said[tuple(BOY)]
    assert (boy.name, boy.modifiers, boy.times) == ("boy", ("small", "small"), 3)
    # the other box of "people" is a person with the group's words
    girl = said[tuple(GIRL)]
    assert (girl.name, girl.modifiers, girl.times) == ("person", ("two", "young"), 1)
    # "dogs" is a plural
    assert said[tuple(DOG)].name == "dog" and said[tuple(DOG)].modifiers == ("brown", "(many)")
    # a frisbee is not a class: the head of its phrase is used
    assert (said[100, 20, 110, 30].name, said[100, 20, 110, 30].head) == (None, "frisbee")


def test_a_group_has_its_enclosing_box_and_scenes_have_none():
    told = hear(children())
    [group] = told.groups
    assert (group.name, group.box_px) == ("people", (10, 40, 120, 150))
    # chains 1 to 5; the street has no box
    assert (told.chains, told.chains_without_box) == (5, 1)


def test_other_words_are_those_outside_boxed_phrases():
    # "street" is in a phrase without a box; "watch", "runs" and "outside" are in the list of grammar
    assert dict(hear(children()).others) == {"running": 0.2, "street": 0.2, "throws": 0.2}


def test_an_image_without_any_box_says_words_only():
    told = hear(empty())
    assert told.objects == () and told.groups == () and dict(told.others) == {"rains": 1.0}


def test_a_head_without_a_class_always_has_the_same_unnamed_class():
    world = world_of(num_classes=40)
    columns = {column_of(world, None, word) for word in ("frisbee", "rope", "rod", "net")}
    # 10 to 39: the background and nine named classes come first
    assert columns <= set(range(10, 40)) and len(columns) > 1
    assert column_of(world, None, "frisbee") == column_of(world_of(seed=5), None, "frisbee")
    assert column_of(world, "dog", "puppy") == 3


def test_what_cannot_be_simulated_is_named_with_its_image():
    told = hear(children(77))
    assert problems_of(told, CLASSES, 1) == []
    assert problems_of(told, set(CLASSES) - {"dog"}, 1) == ["image 77 has boxes of classes without a vector: dog"]
    [problem] = problems_of(told, CLASSES, 0)
    assert problem == "image 77 has boxes of no class (frisbee), and no unnamed class is left"
    [problem] = problems_of(dataclasses.replace(told, width=180), CLASSES, 1)
    assert problem == "image 77 of 180 x 160 pixels does not contain its box [150, 100, 190, 140]"


# --- things that nobody mentions ------------------------------------------------------------------------
def given(distractors):
    donors = collect_donors([hear(hatted(2)), hear(empty(3))], AnnotationsAssumptions(distractors=distractors))
    assert donors.ids in ((2,), ())
    return [item.head for item, _ in donors.items[2]], donors


def test_distractors_are_mentioned_once_or_small_at_the_rim():
    assert given("mentioned")[0] == ["hat"]  # the man is in five captions, the tree in two
    # tree: 20 x 60 of 200 x 160 is 0.0375, its centre (10, 30) 0.9 from the middle; hat: (90, 25) is 0.69 above it
    assert given("rim")[0] == ["hat", "tree"]
    donors = collect_donors([hear(hatted(2))], AnnotationsAssumptions(distractors="rim", rim_distance=0.8))
    assert [item.head for item, _ in donors.items[2]] == ["tree"]


def test_a_distractor_is_at_its_relative_place_and_is_of_no_class_of_the_image():
    world = world_of(unmentioned_mean=50.0, unmentioned_unnamed=0.0, group_boxes=0.0, distractors="rim")
    donors = collect_donors([hear(hatted(2))], world.assumptions)
    wide = dataclasses.replace(hear(children(1)), width=400)  # twice as wide as the giver
    layout = real_layout(world, wide, donors)
    assert layout.mentioned == 4
    # the hat (80, 20, 100, 30) and the tree (0, 0, 20, 60) of 200 x 160
    assert sorted(map(tuple, layout.boxes_px[4:].tolist())) == [(0, 0, 40, 60), (160, 20, 200, 30)]
    own = real_layout(world, hear(hatted(5)), donors)  # it has a hat and a tree itself
    assert len(own.columns) == own.mentioned == 3
    assert len(real_layout(world, hear(hatted(2)), donors).columns) == 3  # nobody gives to itself


def test_distractors_come_from_the_donors_with_the_most_words_in_common():
    world = world_of(unmentioned_mean=50.0, unmentioned_unnamed=0.0, donors_drawn=200, donors_kept=1)
    told = [dataclasses.replace(hear(hatted(number)), others={}) for number in range(10, 20)]
    told[4] = dataclasses.replace(told[4], others={"street": 0.2})
    told[4] = dataclasses.replace(told[4], objects=tuple(dataclasses.replace(o, name="ball") for o in told[4].objects))
    layout = real_layout(world, hear(children(1)), collect_donors(told, world.assumptions))
    assert set(layout.columns[layout.mentioned :].tolist()) <= {CLASSES.index("ball") + 1, CLASSES.index("people") + 1}
    assert CLASSES.index("ball") + 1 in layout.columns


# --- a detector's errors --------------------------------------------------------------------------------
EXACT = {"jitter": 0.0, "missed": 0.0, "missed_small": 0.0, "most_duplicates": 0}


def test_without_errors_every_box_is_found_as_it_is():
    boxes = [[10, 20, 90, 120], [200, 50, 380, 280], [100, 200, 120, 230]]
    found = detect_real(AnnotationsAssumptions(**EXACT), 36, layout_of(boxes), np.random.default_rng(0))
    assert found.shape == (36, 4) and {tuple(box) for box in boxes} <= {tuple(map(int, box)) for box in found}


def test_small_boxes_are_overlooked_more_often():
    # missed + missed_small exp(-area / missed_area): 0.1 + 0.6 exp(-1) = 0.32 at an area of 0.01, 0.1 at 0.5
    a = AnnotationsAssumptions(
        **{**EXACT, "missed": 0.1, "missed_small": 0.6, "missed_area": 0.01, "partial_share": 0.0}
    )
    layout = layout_of([[0, 0, 40, 30], [100, 50, 400, 250]])
    assert (area(layout.boxes_px) / 120000).tolist() == [0.01, 0.5]
    rng, found = np.random.default_rng(0), []
    for _ in range(600):
        found.append((iou(layout.boxes_px, detect_real(a, 6, layout, rng)) == 1).any(axis=1))
    # 600 samples: a standard deviation of 0.02 and 0.012
    assert 1 - np.mean(found, axis=0) == pytest.approx([0.32, 0.1], abs=0.06)


def test_where_there_are_more_objects_than_regions_the_largest_are_found():
    boxes = [[0, 0, 20, 20], [50, 50, 150, 150], [200, 50, 390, 290]]
    found = detect_real(AnnotationsAssumptions(**EXACT), 2, layout_of(boxes), np.random.default_rng(0))
    assert sorted(map(tuple, found.tolist())) == [(50, 50, 150, 150), (200, 50, 390, 290)]


def test_duplicates_are_further_regions_of_an_object_and_no_two_overlap_above_the_limit():
    a = AnnotationsAssumptions(missed=0.0, missed_small=0.0, most_duplicates=2, duplicate_chance=1.0, partial_share=0.0)
    layout = layout_of([[100, 80, 300, 220]])
    several = 0
    for seed in range(40):
        found = detect_real(a, 12, layout, np.random.default_rng(seed))
        overlap = iou(found, found) - np.eye(12)
        assert overlap.max() <= 0.7
        several += (iou(layout.boxes_px, found) > 0.4).sum() > 1
    assert several > 20


def test_a_picture_too_small_for_different_boxes_still_gets_all_regions():
    found = detect_real(AnnotationsAssumptions(), 36, layout_of([[0, 0, 10, 10]], (12, 12)), np.random.default_rng(0))
    assert found.shape == (36, 4) and found.min() >= 0 and found.max() <= 12
    assert detect_real(AnnotationsAssumptions(), 5, layout_of([]), np.random.default_rng(0)).shape == (5, 4)


def test_regions_do_not_know_which_objects_are_mentioned():
    world = world_of()
    donors = collect_donors([hear(hatted(2))], world.assumptions)
    told = hear(children(1))
    layout, regions = simulate_annotated(world, {1: told}, donors, 1)
    # rows are in the order of c
    best = regions.class_probs[:, 1:].max(axis=1)
    np.testing.assert_array_equal(np.argsort(-best, kind="stable"), np.arange(36))
    blind = dataclasses.replace(layout, boxed=())
    boxes, others = (detect_real(world.assumptions, 36, each, np.random.default_rng(0)) for each in (layout, blind))
    np.testing.assert_array_equal(boxes, others)
    for name in ("features", "class_probs"):
        one, other = (getattr(regions_of(world, 1, told.others, each, boxes), name) for each in (layout, blind))
        assert one.tobytes() == other.tobytes()


def test_an_image_depends_on_its_id_and_not_on_the_images_before_it():
    world = world_of()
    donors = collect_donors([hear(hatted(2)), hear(hatted(9))], world.assumptions)
    alone = simulate_annotated(world, {1: hear(children(1))}, donors, 1)[1]
    simulate_annotated(world, {3: hear(hatted(3))}, donors, 3)
    again = simulate_annotated(world_of(), {1: hear(children(1))}, donors, 1)[1]
    assert alone.features.tobytes() == again.features.tobytes()
    assert alone.class_probs.tobytes() == again.class_probs.tobytes()
    other = simulate_annotated(world, {8: hear(children(8))}, donors, 8)[1]
    assert other.features.tobytes() != alone.features.tobytes()


def test_wrong_numbers_and_words_are_named_together():
    with pytest.raises(UserError) as caught:
        AnnotationsAssumptions(distractors="none", suppress_iou=0.0)
    assert "distractors must be one of mentioned, rim, got 'none'" in str(caught.value)
    assert "suppress_iou must be between 0.05 and 1, got 0.0" in str(caught.value)
