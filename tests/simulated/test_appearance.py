"""V and c around real boxes: what overlapping regions have in common, and the statistics of real regions."""

import dataclasses
import json

import numpy as np
import pytest

from simulated.test_annotations_world import layout_of, world_of
from worlds.tools import load_tool
from xmodaler_ssattn.packs.store import Regions
from xmodaler_ssattn.worlds.pixels import BOTTOM_UP, describe
from xmodaler_ssattn.worlds.simulated import AnnotationsAssumptions
from xmodaler_ssattn.worlds.simulated.detector import common_noise, detect_real, regions_of


@pytest.fixture(scope="module")
def tool():
    return load_tool("measure_pixels")


def test_common_noise_is_the_overlap_of_two_bells():
    a = AnnotationsAssumptions(feature_window=0.5, latent_dim=4096)
    # sides 0.4 and 0.2 in x, so s = 0.2 and 0.1; centres 0.4 and 0.5; the same in y
    boxes = np.array([[0.2, 0.2, 0.6, 0.6], [0.4, 0.2, 0.6, 0.6], [0.2, 0.2, 0.6, 0.6], [0.9, 0.9, 1.0, 1.0]])
    noise = common_noise(boxes, a, np.random.default_rng(0))
    correlation = np.corrcoef(noise)
    # sqrt(2 * 0.02 / 0.05) * exp(-0.01 / (4 * 0.05)) = 0.894 * 0.951 = 0.851; 4,096 samples err by 0.016
    assert correlation[0, 1] == pytest.approx(0.851, abs=0.03)
    assert correlation[0, 2] > 0.9999 and abs(correlation[0, 3]) < 0.06


def test_statistics_by_hand():
    # cosines: (3, 4) and (4, 3): 24 / 25; both with (0, 5): 0.8 and 0.6
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    one = Regions(1, 100, 100, boxes, np.array([[3, 4], [4, 3], [0, 5]]), None)
    found = describe([one] * 5)
    # the IoU of the first two is 1, of the others 0: two pairs of each image
    assert found["cosine_by_iou"]["1"] == 0.96 and found["cosine_by_iou"]["0"] == 0.7
    assert found["cosine_by_iou"]["0.5"] is None and found["pairs_by_iou"]["0"] == pytest.approx(2 / 3, abs=1e-4)
    # one of six numbers is zero; all norms are 5, 5^2 / 2 = 12.5
    assert found["zeros"] == pytest.approx(1 / 6, abs=1e-4) and found["rms"] == pytest.approx(12.5**0.5, abs=1e-4)
    assert found["norm_variation"] == 0 and found["norm_and_log_area"] is None and found["confidence"] is None
    # other images hold the same three: all nine pairs, (3 * 1 + 2 * (0.96 + 0.8 + 0.6)) / 9
    assert found["cosine_between_images"] == pytest.approx(7.72 / 9, abs=1e-4)
    probs = np.array([[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]])
    sure = [dataclasses.replace(one, boxes_px=one.boxes_px[:2], features=one.features[:2], class_probs=probs)]
    assert describe(sure)["confidence"] == 0.3


def test_norm_and_zeros_are_as_assumed():
    layout, rng = layout_of([[20, 30, 200, 250], [150, 40, 390, 280]]), np.random.default_rng(0)
    even = world_of(feature_dim=256, feature_norm=2.0, feature_norm_noise=0.0, feature_norm_area=0.0)
    boxes = detect_real(even.assumptions, 36, layout, rng)
    features = regions_of(even, 1, {}, layout, boxes).features
    # sqrt(256) * 2
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 32, rtol=1e-4)
    half = world_of(feature_dim=256, feature_bias=0.0, feature_bias_area=0.0, feature_bias_noise=0.0)
    # about as many numbers of a random projection are above zero as below
    assert (regions_of(half, 1, {}, layout, boxes).features == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_a_region_that_nothing_projects_to_stays_finite():
    world = world_of(feature_bias=-3.0, feature_bias_area=2.0, feature_dim=2)
    layout = layout_of([[0, 0, 10, 10]])
    regions = regions_of(world, 1, {}, layout, detect_real(world.assumptions, 36, layout, np.random.default_rng(0)))
    assert np.isfinite(regions.features).all() and (regions.features == 0).all(axis=1).any()


def test_the_calibration_is_that_of_the_real_regions(tool, shared_data, tmp_path, capsys):
    path = shared_data / "real_regions" / "train2014_obj36.tsv"
    if not path.is_file():
        pytest.skip(f"no real regions at {path}")
    assert tool.main(["--lxmert", str(path), "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text()) == BOTTOM_UP
    assert "| cosine_by_iou 0.7 | 0.927 | 0.927 |" in capsys.readouterr().out


def test_the_tool_says_what_is_wrong(tool, tmp_path, capsys):
    assert tool.main(["--lxmert", str(tmp_path / "none.tsv")]) == 2
    assert "none.tsv" in capsys.readouterr().err
    assert tool.main(["--regions", str(tmp_path / "none.h5"), "--images", "0"]) == 2
    assert "--images must be at least 1, got 0" in capsys.readouterr().err
