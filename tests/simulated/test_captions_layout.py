"""Where simulated objects are, and how large: what being mentioned does to them. All seeds are fixed."""

import dataclasses

import numpy as np
import pytest

from simulated.made_up_captions import CLASSES, hear, invent, small_world
from xmodaler_ssattn.boxes import area
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.worlds.simulated import CaptionsAssumptions
from xmodaler_ssattn.worlds.simulated.captions_world import CaptionedObject, invent_layout
from xmodaler_ssattn.worlds.simulated.class_priors import KIN, PRIORS, prior_of

SAMPLES = 400


def layouts(world, content, count=SAMPLES):
    return [invent_layout(world, image_id, content) for image_id in range(count)]


def content_of(*objects):
    return dataclasses.replace(hear(["It rains."] * 5), objects=tuple(objects))


def shares(made, number):
    """Area of one object, as a share of the picture, in each layout."""
    return np.array([area(layout.boxes_px[[number]])[0] / (layout.width * layout.height) for layout in made])


def away(made, numbers):
    """Distance of centres from the middle, each axis from 0 to 0.5."""
    found = []
    for layout in made:
        boxes = layout.boxes_px[numbers(layout)]
        found.append(np.abs((boxes[:, :2] + boxes[:, 2:]) / 2 / (layout.width, layout.height) - 0.5))
    return np.concatenate(found)


def test_what_is_mentioned_more_often_is_larger_on_average():
    world = small_world()
    balls = (content_of(CaptionedObject("ball", share, 0.5, ())) for share in (1.0, 0.2))
    often, seldom = (shares(layouts(world, ball), 0) for ball in balls)
    # salience differs by 0.6 * 0.8 = 0.48, log area by 2 * 0.48 = 0.96; the mean of 400 of sd 0.7 errs by 0.035
    assert np.log(often).mean() - np.log(seldom).mean() == pytest.approx(0.96, abs=0.15)


def test_what_is_mentioned_earlier_is_larger_and_nearer_to_the_middle():
    world = small_world()
    early, late = (layouts(world, content_of(CaptionedObject("ball", 0.6, first, ()))) for first in (1.0, 0.2))
    # 2 * 0.4 * 0.8 = 0.64
    assert np.log(shares(early, 0)).mean() - np.log(shares(late, 0)).mean() == pytest.approx(0.64, abs=0.15)
    across_early, across_late = (away(made, lambda layout: [0])[:, 0].mean() for made in (early, late))
    # the mean of 0.5 * u * (1 - 0.6 * salience): salience 0.76 gives 0.136, 0.44 gives 0.184
    assert across_early == pytest.approx(0.136, abs=0.02) and across_late == pytest.approx(0.184, abs=0.02)


def test_size_follows_the_class_and_the_gain_can_be_switched_off():
    content = content_of(CaptionedObject("hat", 1.0, 1.0, ()), CaptionedObject("street", 1.0, 1.0, ()))
    made = layouts(small_world(size_gain=0.0, size_noise=0.0), content, 20)
    hat, street = shares(made, 0), shares(made, 1)
    assert np.ptp(np.log(hat)) < 0.2  # only rounding to pixels
    # usual shares 0.013 and 0.36, each sampled once for the class with sd 0.15 of the logarithm
    assert street.mean() / hat.mean() == pytest.approx(0.36 / 0.013, rel=0.6)


def test_height_follows_the_class():
    world = small_world()
    made = layouts(world, content_of(CaptionedObject("hat", 0.2, 0.2, ()), CaptionedObject("street", 0.2, 0.2, ())))
    middles = np.array([(layout.boxes_px[:2, 1] + layout.boxes_px[:2, 3]) / 2 / layout.height for layout in made])
    assert middles[:, 0].mean() < 0.4 < 0.6 < middles[:, 1].mean()


def test_unmentioned_objects_are_smaller_nearer_to_the_rim_and_of_no_mentioned_class():
    world = small_world()
    made = [(invent_layout(world, number, hear(invent(number))), hear(invent(number))) for number in range(SAMPLES)]
    told, others = [], []
    for layout, content in made:
        assert layout.mentioned == len(content.objects)
        named = {world.columns[phrase.name] for each in content.phrases for phrase in each}
        assert not named & set(layout.columns[layout.mentioned :].tolist())
        size = np.log(area(layout.boxes_px) / (layout.width * layout.height))
        told += size[: layout.mentioned].tolist()
        others += size[layout.mentioned :].tolist()
    assert np.mean(told) - np.mean(others) > 0.5
    only = [layout for layout, _ in made]
    far = away(only, lambda layout: np.arange(len(layout.columns)) >= layout.mentioned)[:, 0].mean()
    near = away(only, lambda layout: np.arange(len(layout.columns)) < layout.mentioned)[:, 0].mean()
    assert far - near > 0.05
    # Poisson of mean 8, of 400 samples: the mean errs by 0.14
    assert np.mean([len(layout.columns) - layout.mentioned for layout in only]) == pytest.approx(8, abs=0.6)


def test_half_of_the_unmentioned_objects_are_of_no_named_class_and_the_rest_of_seldom_named_ones():
    world = small_world()
    chance = world.unmentioned_chance
    named = len(CLASSES)
    assert chance[0] == 0 and chance.sum() == pytest.approx(1)
    assert chance[1 + named :].sum() == pytest.approx(0.5)
    # ladder is never mentioned, street often
    ladder, street = (chance[world.columns[name]] for name in ("ladder", "street"))
    times = world.habits.mentions["street"]
    assert "ladder" not in world.habits.mentions and times > 20
    assert ladder / street == pytest.approx(times**0.3)


def test_without_unnamed_classes_all_are_named():
    world = small_world(num_classes=len(CLASSES) + 1)
    assert world.unmentioned_chance[1:].sum() == pytest.approx(1)


def test_boxes_are_whole_pixels_inside_the_picture():
    world = small_world(size_gain=6.0, size_noise=2.0)
    for number in range(200):
        layout = invent_layout(world, number, hear(invent(number)))
        boxes = layout.boxes_px
        assert boxes.dtype == np.int64 and boxes.min() >= 0
        assert (boxes[:, 2] < layout.width).all() and (boxes[:, 3] < layout.height).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 7).all()


def test_places_have_a_box_as_often_as_assumed_and_other_things_always():
    for chance in (0.0, 1.0):
        layout = invent_layout(small_world(places_boxed=chance), 3, hear(["A man on the street."] * 5))
        assert layout.boxed == (True, bool(chance))


def test_no_captioned_object_and_none_beside_it():
    content = hear(["It rains."] * 5)
    assert invent_layout(small_world(), 1, content).mentioned == 0
    empty = invent_layout(small_world(unmentioned_mean=0.0), 1, content)
    assert empty.boxes_px.shape == (0, 4)


def test_assumptions_out_of_range_are_refused_together():
    with pytest.raises(UserError) as caught:
        CaptionsAssumptions(missed=1.5, size_noise=-1, loose_share=0.7, partial_share=0.6, jitter=float("nan"))
    for part in ("missed must be between 0 and 1, got 1.5", "size_noise", "loose_share and partial_share", "jitter"):
        assert part in str(caught.value)


def test_every_assumption_says_its_reason():
    assert all(len(field.metadata["reason"]) > 30 for field in dataclasses.fields(CaptionsAssumptions))


def test_a_class_has_the_first_prior_that_lists_it_and_kin_are_more_than_one():
    assert prior_of("sky").height < 0.2 < 0.7 < prior_of("street").height and prior_of("no such thing") is None
    assert all(len(group) > 1 for group in KIN)
    assert all(0 < prior.area < 1 and 0 < prior.height < 1 for prior in PRIORS)
