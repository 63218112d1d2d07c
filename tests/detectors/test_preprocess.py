"""The network's input: mean before the resize, two by two neighbours, the exact scale."""

import numpy as np
import pytest
import torch

from xmodaler_ssattn.detectors.preprocess import picture_scale, preprocess
from xmodaler_ssattn.errors import UserError

NO_MEAN = (0.0, 0.0, 0.0)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_short_side_becomes_600_unless_the_long_one_passes_1000():
    assert picture_scale(480, 640) == 600 / 480  # 600 x 800
    assert picture_scale(640, 480) == 600 / 480
    assert picture_scale(500, 1000) == 1.0  # 600 / 500 would make the long side 1200
    assert picture_scale(600, 1000) == 1.0
    # 10.4 rounds to 10, which is allowed; 10.6 rounds to 11, which is not
    assert picture_scale(600, 1040, 6, 10) == 6 / 600
    assert picture_scale(600, 1060, 6, 10) == 10 / 1060


def test_two_pixels_become_four_on_paper():
    # s = 2: the outputs lie at -0.25, 0.25, 0.75, 1.25 of the inputs; beyond the border the border counts
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[:, 1] = 100
    tensor, scale = preprocess(image, short=4, long=4, mean=NO_MEAN)
    assert scale == 2.0 and tensor.dtype == torch.float32
    assert tensor[0].tolist() == [[0, 25, 75, 100]] * 4


def test_the_mean_goes_before_the_resize_channel_by_channel():
    image = np.full((3, 5, 3), (10, 20, 30), dtype=np.uint8)
    tensor, _ = preprocess(image, short=6, long=10)
    assert tensor.shape == (3, 6, 10)
    for channel, value in zip(tensor, (10 - 102.9801, 20 - 115.9465, 30 - 122.7717)):
        assert channel.unique().tolist() == [np.float32(value)]


def slowly(image: np.ndarray, short: int, long: int, mean: np.ndarray) -> np.ndarray:
    """Pixel by pixel, in double."""
    height, width = image.shape[:2]
    scale = picture_scale(height, width, short, long)
    floats = image.astype(np.float64) - mean
    out = np.empty((3, round(height * scale), round(width * scale)))
    for y in range(out.shape[1]):
        for x in range(out.shape[2]):
            v = min(max((y + 0.5) / scale - 0.5, 0), height - 1)
            u = min(max((x + 0.5) / scale - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = floats[top, left] * (1 - (u - left)) + floats[top, right] * (u - left)
            lower = floats[bottom, left] * (1 - (u - left)) + floats[bottom, right] * (u - left)
            out[:, y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return out


@pytest.mark.parametrize(
    ("size", "short", "long"), [((7, 11), 16, 40), ((30, 22), 9, 20), ((5, 5), 5, 9), ((3, 50), 8, 60), ((1, 1), 8, 10)]
)
def test_it_is_bilinear_larger_and_smaller(size, short, long):
    image, mean = picture(*size), np.array([3.0, 50.0, 100.0])
    tensor, _ = preprocess(image, short=short, long=long, mean=tuple(mean))
    np.testing.assert_allclose(tensor.numpy(), slowly(image, short, long, mean), atol=1e-3)


@pytest.mark.parametrize("size", [(48, 64), (90, 31), (20, 20)])
def test_it_equals_opencv(size):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: the resize was compared with a slow loop only")
    image, mean = picture(*size), np.float32([102.9801, 115.9465, 122.7717])
    tensor, scale = preprocess(image, short=60, long=100)
    resized = cv2.resize(
        image.astype(np.float32) - mean, None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR
    )
    np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy(), resized, atol=1e-3)


def test_one_pixel_is_a_picture_of_one_colour():
    tensor, scale = preprocess(np.full((1, 1, 3), 9, dtype=np.uint8), short=60, long=100, mean=NO_MEAN)
    assert tensor.shape == (3, 60, 60) and scale == 60.0 and (tensor == 9).all()


def test_a_panorama_needs_no_more_memory_than_its_output():
    # 20,000 x 5,000 pixels that all share one row in memory: only the neighbours that count are ever taken
    wide = np.broadcast_to(picture(1, 1)[:, :1], (5000, 20000, 3))
    tensor, scale = preprocess(wide)
    assert tensor.shape == (3, 250, 1000) and scale == 0.05


def test_a_thread_of_a_picture_is_refused_with_its_sizes():
    with pytest.raises(UserError, match=r"2000 x 3 pixels becomes 1000 x 2 .* at least 3"):
        preprocess(picture(3, 2000))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_only_colour_pictures_of_bytes(image):
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        preprocess(image)
