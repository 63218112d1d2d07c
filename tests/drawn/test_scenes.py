"""Scenes: drawn from a seed alone, with what they promise, and boxes that fit the pixels."""

import numpy as np
import pytest

from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.worlds.drawn import kinds
from xmodaler_ssattn.worlds.drawn.backgrounds import draw_background, ground_starts
from xmodaler_ssattn.worlds.drawn.scenes import MAX_OBJECTS, MIN_OBJECTS, make_scene

MANY = [make_scene(5, index) for index in range(60)]


def test_the_same_seed_gives_the_same_scene_and_pixels_and_another_seed_another():
    assert make_scene(5, 3) == MANY[3]
    assert make_scene(5, 3).draw().tobytes() == MANY[3].draw().tobytes()
    assert make_scene(6, 3).objects != MANY[3].objects
    assert make_scene(5, 4).objects != MANY[3].objects


def test_every_kind_is_one_of_the_480_classes_and_no_colour_is():
    classes = set(read_classes())
    assert len(kinds.CLASS_NAMES) == 15 and len(kinds.COLOURS) == 6
    assert set(kinds.CLASS_NAMES) <= classes
    assert not set(kinds.COLOURS) & classes


def test_boxes_lie_inside_the_picture_and_tight_around_the_opaque_pixels():
    for scene in MANY[:20]:
        for item in scene.objects:
            x1, y1, x2, y2 = item.box_px
            assert 0 <= x1 < x2 <= scene.width and 0 <= y1 < y2 <= scene.height
            opaque = np.asarray(item.draw_tile().getchannel("A")) >= 128
            rows, columns = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
            left, top = item.tile_px[:2]
            assert (x1, y1) == (left + columns[0], top + rows[0])
            assert (x2, y2) == (left + columns[-1] + 1, top + rows[-1] + 1)


def test_what_is_drawn_changes_the_background_inside_the_boxes_alone():
    scene = MANY[0]
    empty = make_scene(5, 0)
    object.__setattr__(empty, "objects", ())
    changed = (np.asarray(scene.draw()) != np.asarray(empty.draw())).any(axis=2)
    outside = changed.copy()
    for item in scene.objects:
        x1, y1, x2, y2 = item.box_px
        assert changed[y1:y2, x1:x2].mean() > 0.3  # an object fills its box
        x1, y1, x2, y2 = item.tile_px  # half-transparent edges may reach one pixel beyond the box
        outside[y1:y2, x1:x2] = False
    assert not outside.any()


def test_there_are_five_to_eight_objects_and_duplicates_as_often_as_promised():
    counts = [len(scene.objects) for scene in MANY]
    assert max(counts) == MAX_OBJECTS and min(counts) >= MIN_OBJECTS and np.mean(counts) == pytest.approx(6.5, abs=0.5)
    twins = [scene for scene in MANY if len({item.kind.name for item in scene.objects}) < len(scene.objects)]
    # 0.6 of 60 scenes are 36; five standard deviations of a binomial are 19.
    assert 17 <= len(twins) <= 55
    assert all(len(scene.objects) - len({item.kind.name for item in scene.objects}) <= 1 for scene in MANY)


def test_boats_float_and_nothing_else_is_in_the_water():
    seen = set()
    for scene in MANY:
        shore = ground_starts(scene.place, scene.height, scene.horizon)
        for item in scene.objects:
            seen.add(item.kind.zone)
            if item.kind.zone == "water":
                assert scene.place.name == "beach"
                assert scene.horizon * scene.height < item.tile_px[3] <= shore
            elif item.kind.zone == "ground":
                assert item.tile_px[3] >= shore
    assert seen == {"ground", "sky", "water"}


def test_later_objects_are_nearer():
    for scene in MANY:
        bottoms = [item.box_px[3] for item in scene.objects]
        assert bottoms == sorted(bottoms)


def test_every_place_can_be_drawn_at_every_size():
    for scene in MANY[:12]:
        picture = draw_background(scene.place, scene.width, scene.height, scene.horizon, 1)
        assert picture.size == (scene.width, scene.height) and picture.mode == "RGB"
        # Soft: neighbouring pixels of the ground differ little, or the texture would look like objects.
        ground = np.asarray(picture, dtype=float)[ground_starts(scene.place, scene.height, scene.horizon) + 2 :]
        assert np.abs(np.diff(ground, axis=1)).mean() < 6
