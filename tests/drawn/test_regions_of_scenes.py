"""From pixels to regions: proposals, descriptors, classes, and the picture-only path."""

import random

import numpy as np
import pytest
from PIL import Image

from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.worlds.drawn.descriptors import CROP, DESCRIPTOR_DIM, cut_crops, describe_crops
from xmodaler_ssattn.worlds.drawn.drawn_dataset import label_regions
from xmodaler_ssattn.worlds.drawn.kinds import CLASS_NAMES
from xmodaler_ssattn.worlds.drawn.proposals import inside, jittered, propose_from_scene
from xmodaler_ssattn.worlds.drawn.region_maker import SceneRegionMaker, fit_softmax, softmax
from xmodaler_ssattn.worlds.drawn.scenes import make_scene


def described(seed, count):
    parts = []
    for index in range(count):
        scene = make_scene(seed, index)
        boxes = propose_from_scene(scene)
        parts.append((describe_crops(cut_crops(scene.draw(), boxes)), *label_regions(boxes, scene)[:2]))
    return [np.concatenate(part) for part in zip(*parts)]


@pytest.fixture(scope="module")
def maker():
    return SceneRegionMaker.fit(*described(1, 250), feature_dim=64)


# --- proposals ------------------------------------------------------------------------------------------
def test_36_boxes_inside_the_picture_reach_nearly_every_object_and_the_same_every_time():
    reached = []
    for index in range(30):
        scene = make_scene(2, index)
        boxes = propose_from_scene(scene)
        assert boxes.shape == (36, 4) and boxes.dtype == np.float32
        assert (boxes[:, 2] > boxes[:, 0]).all() and (boxes[:, 3] > boxes[:, 1]).all()
        assert boxes.min() >= 0 and boxes[:, 2].max() <= scene.width and boxes[:, 3].max() <= scene.height
        np.testing.assert_array_equal(boxes, propose_from_scene(make_scene(2, index)))
        reached += label_regions(boxes, scene)[2].tolist()
    assert np.mean(reached) > 0.97


def test_boxes_around_objects_err_and_background_boxes_hold_no_object():
    scene = make_scene(2, 0)
    objects = np.asarray([item.box_px for item in scene.objects], dtype=float)
    overlaps = iou(propose_from_scene(scene), objects).max(axis=1)
    near = overlaps[overlaps > 0.5]
    assert len(near) >= 2 * len(objects) - 2 and near.max() < 1.0
    assert (overlaps < 0.3).sum() >= 36 - 3 * len(objects) - 2


def test_jitter_has_the_promised_size():
    rng = random.Random(0)
    boxes = np.asarray([jittered((100, 100, 200, 150), 1000, 1000, rng) for _ in range(4000)])
    centre = boxes.reshape(-1, 2, 2).mean(axis=1)
    # The standard deviation is 0.12 of a side: 12 pixels across, 6 down.
    assert centre.std(axis=0) == pytest.approx([12, 6], rel=0.06)
    assert (boxes[:, 2] - boxes[:, 0]).std() == pytest.approx(12, rel=0.06)


def test_a_box_that_leaves_the_picture_is_clipped_and_keeps_a_size():
    assert inside((-10, 5, 20, 30), 100, 100) == (0, 5, 20, 30)
    x1, y1, x2, y2 = inside((120, 50, 130, 51), 100, 100)
    assert 0 <= x1 and x2 <= 100 and x2 - x1 == 6 and y2 - y1 == 6


# --- descriptors ----------------------------------------------------------------------------------------
def test_the_descriptor_depends_on_the_pixels_of_the_crop_alone():
    picture = make_scene(2, 0).draw()
    box = np.array([[40.0, 60.0, 104.0, 124.0]])
    alone = describe_crops(cut_crops(picture, box))
    # Elsewhere in another picture, among other boxes, the same pixels give the same numbers.
    other = Image.new("RGB", (500, 400), (9, 9, 9))
    other.paste(picture.crop((40, 60, 104, 124)), (300, 200))
    moved = describe_crops(cut_crops(other, np.array([[0.0, 0.0, 50.0, 50.0], [300.0, 200.0, 364.0, 264.0]])))
    np.testing.assert_array_equal(moved[1], alone[0])
    # One pixel changed inside the crop changes them, one outside does not.
    touched = picture.copy()
    touched.putpixel((10, 10), (255, 0, 255))
    np.testing.assert_array_equal(describe_crops(cut_crops(touched, box)), alone)
    touched.putpixel((70, 90), (255, 0, 255))
    assert (describe_crops(cut_crops(touched, box)) != alone).any()


def test_the_noise_is_clear_and_repeats():
    crops = cut_crops(make_scene(2, 1).draw(), propose_from_scene(make_scene(2, 1)))
    noisy, clean = describe_crops(crops), describe_crops(crops, noise=0.0)
    np.testing.assert_array_equal(noisy, describe_crops(crops))
    assert (noisy - clean).std() == pytest.approx(0.7, rel=0.05)


def test_descriptor_parts_by_hand():
    # The left half of the crop is red, the right half blue: one vertical edge.
    crop = np.zeros((1, CROP, CROP, 3), dtype=np.uint8)
    crop[0, :, :16, 0] = 255
    crop[0, :, 16:, 2] = 255
    values = describe_crops(crop, noise=0.0)[0]
    small = values[:192].reshape(8, 8, 3) * 0.22 + 0.6
    np.testing.assert_allclose(small[:, :4], np.broadcast_to([1.0, 0.0, 0.0], (8, 4, 3)), atol=1e-6)
    colours = (values[192:256] * 0.11) ** 2  # shares of 4 x 4 x 4 colours: red is 3 * 16, blue 3
    np.testing.assert_allclose(colours[[48, 3]], [0.5, 0.5], atol=1e-6)
    assert np.count_nonzero(colours) == 2
    # Grey is 1/3 on both sides: no edge at all is left of it.
    np.testing.assert_allclose(values[256:], 0.0, atol=1e-3)
    crop[0, :, 16:, 2] = 0  # now black on the right: the edge runs down, its gradient points along x (direction 0)
    edges = describe_crops(crop, noise=0.0)[0, 256:].reshape(4, 4, 8)
    assert (edges[:, 1:3, 0] > 0.1).all()
    assert np.abs(edges[:, :, 1:]).max() < 1e-6 and np.abs(edges[:, [0, 3]]).max() < 1e-6


# --- classes --------------------------------------------------------------------------------------------
def test_softmax_regression_finds_the_right_odds():
    # One input, two classes with 0.8 : 0.2 where x = 1 and 0.2 : 0.8 where x = -1: W = ln 4 / 2 a side, b = 0.
    inputs = np.repeat(np.array([[1.0], [-1.0]], np.float32), 500, axis=0)
    labels = np.concatenate([np.repeat([0, 1], [400, 100]), np.repeat([0, 1], [100, 400])])
    weights, bias = fit_softmax(inputs, labels, 2)
    probs = softmax(np.array([[1.0], [-1.0]], np.float32) @ weights + bias)
    # It stops early, on the cautious side.
    np.testing.assert_allclose(probs, [[0.8, 0.2], [0.2, 0.8]], atol=0.04)


def test_class_probabilities_sum_to_one_and_are_mostly_right_and_wrong_at_times(maker):
    descriptors, labels, _ = described(8, 60)
    probs = maker.class_probs(descriptors)
    assert probs.shape == (len(labels), len(CLASS_NAMES) + 1) and probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, atol=1e-5)
    right = (probs.argmax(axis=1) == labels)[labels > 0].mean()
    assert 0.4 < right < 0.95  # from 250 scenes; 1,200 reach 0.77
    assert (probs.argmax(axis=1) == 0)[labels == 0].mean() > 0.8


def test_features_are_not_negative_and_follow_their_equation(maker):
    descriptors, _, _ = described(8, 2)
    probs = maker.class_probs(descriptors)
    features = maker.features(descriptors, probs)
    assert features.shape == (72, 64) and features.min() == 0.0 and (features > 0).mean() > 0.3
    arrays = maker._arrays
    for row in (0, 40):
        colours = softmax(descriptors[row : row + 1] @ arrays["colour_weights"] + arrays["colour_bias"])[0]
        inputs = [*(descriptors[row] - arrays["mean"]), *probs[row, 1:], *((1 - probs[row, 0]) * colours)]
        expected = [max(0.0, sum(x * p for x, p in zip(inputs, column))) for column in arrays["projection"].T]
        np.testing.assert_allclose(features[row], expected, atol=1e-4)


# --- a picture alone ------------------------------------------------------------------------------------
def test_from_the_picture_only_most_objects_are_reached(maker):
    reached, sure = [], []
    for index in range(12):
        scene = make_scene(9, index)
        regions = maker(scene.draw(), scene.image_id)
        assert (regions.image_id, regions.width, regions.height) == (scene.image_id, scene.width, scene.height)
        assert regions.boxes_px.shape == (36, 4) and regions.features.shape == (36, 64)
        reached += label_regions(regions.boxes_px, scene)[2].tolist()
        sure.append(regions.class_probs[:, 1:].max(axis=1))
    assert np.mean(reached) > 0.7
    assert all((np.diff(values) <= 0).all() for values in sure)  # in descending order


def test_the_same_picture_gives_the_same_regions_and_given_boxes_are_used(maker):
    scene = make_scene(9, 0)
    first, second = maker(scene.draw()), maker(scene.draw())
    np.testing.assert_array_equal(first.boxes_px, second.boxes_px)
    np.testing.assert_array_equal(first.features, second.features)
    boxes = propose_from_scene(scene)[:5]
    given = maker(scene.draw(), boxes_px=boxes)
    assert sorted(map(tuple, given.boxes_px.tolist())) == sorted(map(tuple, boxes.tolist()))


@pytest.mark.parametrize("size,mode", [((40, 30), "L"), ((13, 200), "RGBA"), ((1500, 900), "RGB")])
def test_a_picture_without_anything_in_it_still_has_36_boxes(maker, size, mode):
    regions = maker(Image.new(mode, size))
    assert regions.boxes_px.shape == (36, 4)
    assert regions.boxes_px.min() >= 0 and (regions.boxes_px[:, 2:] <= size).all()


def test_a_picture_too_small_for_regions_is_refused(maker):
    with pytest.raises(UserError, match="Image 4 is 5 x 90 pixels"):
        maker(Image.new("RGB", (5, 90)), 4)


def test_a_maker_survives_the_disk(maker, tmp_path):
    maker.save(tmp_path / "maker.npz")
    loaded = SceneRegionMaker.load(tmp_path / "maker.npz")
    picture = make_scene(9, 3).draw()
    a, b = maker(picture), loaded(picture)
    np.testing.assert_array_equal(a.features, b.features)
    np.testing.assert_array_equal(a.class_probs, b.class_probs)
    assert loaded.num_classes == 16 and loaded.feature_dim == 64


def test_bad_maker_files_are_refused_with_their_name(maker, tmp_path):
    path = tmp_path / "maker.npz"
    with pytest.raises(UserError, match="does not exist"):
        SceneRegionMaker.load(path)
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"maker\.npz: not an intact \.npz file"):
        SceneRegionMaker.load(path)
    np.savez(path, mean=np.zeros(3))
    with pytest.raises(UserError, match="keys kind_weights.*num_regions are missing; it has mean"):
        SceneRegionMaker.load(path)
    np.savez(path, **{**maker._arrays, "mean": np.zeros(3)}, class_names=np.asarray(CLASS_NAMES), num_regions=36)
    with pytest.raises(UserError, match=rf"mean has shape \(3,\), expected \({DESCRIPTOR_DIM},\)"):
        SceneRegionMaker.load(path)
    np.savez(path, **maker._arrays, class_names=np.asarray([{"code": 1}], dtype=object), num_regions=36)
    with pytest.raises(UserError, match="class_names"):
        SceneRegionMaker.load(path)
