"""The boxes that proposals start from."""

import numpy as np
import torch

from xmodaler_ssattn.detectors.proposals import cell_anchors, grid_anchors


def test_the_original_twelve_in_their_order():
    assert cell_anchors("caffe", (64, 128, 256, 512)).tolist() == [
        [-38, -16, 53, 31],
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-24, -24, 39, 39],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-14, -36, 29, 51],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]


def test_detectron2_goes_size_by_size_about_zero_without_rounding():
    anchors = cell_anchors("detectron2", (32, 64))
    width, height = (anchors[:, 2:] - anchors[:, :2]).T
    np.testing.assert_allclose(width * height, [32**2] * 3 + [64**2] * 3, rtol=1e-6)
    np.testing.assert_allclose(height / width, [0.5, 1, 2] * 2, rtol=1e-6)
    assert (anchors[:, :2] == -anchors[:, 2:]).all()
    assert anchors[1].tolist() == [-16, -16, 16, 16]


def test_the_grid_runs_over_anchors_then_x_then_y():
    cell = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    grid = grid_anchors(cell, height=2, width=3)
    assert grid.shape == (12, 4)
    assert grid[0].tolist() == [0, 0, 1, 1] and grid[1].tolist() == [0, 0, 2, 2]
    assert grid[2].tolist() == [16, 0, 17, 1]  # the next x
    assert grid[6].tolist() == [0, 16, 1, 17]  # the next y
    assert grid[11].tolist() == [32, 16, 34, 18]
