"""Pooling regions against loops over every bin and sample."""

import math

import numpy as np
import pytest
import torch

from xmodaler_ssattn.detectors.roi_operators import bilinear_weights, pool_ranges, pool_regions, torchvision_ops

STRIDE = 16


def feature_map(height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed))


def some_boxes(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Large, small, empty, on half positions, and beyond the map on every side."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-0.2, 1.0, (n, 2)) * (width * STRIDE, height * STRIDE)
    sides = rng.uniform(0, 1, (n, 2)) ** 2 * (width * STRIDE, height * STRIDE)
    found = np.concatenate((corners, corners + sides), axis=1)
    found[::3] = (found[::3] / 8).round() * 8
    found[1] = (-300, -300, -200, -200)
    found[2] = (40, 40, 40, 40)
    found[3] = (0, 0, width * STRIDE, height * STRIDE)
    return torch.from_numpy(found.astype(np.float32))


def own(features, boxes, **options) -> torch.Tensor:
    return pool_regions(features, boxes, stride=STRIDE, use_torchvision=False, **options)[:]


def pool_slowly(features: torch.Tensor, boxes: torch.Tensor, bins: int) -> np.ndarray:
    """The original's loops, in its 32-bit arithmetic."""
    maps = features[0].numpy()
    _, height, width = maps.shape
    out = np.zeros((len(boxes), len(maps), bins, bins), dtype=np.float32)

    def rounded(x: np.float32) -> int:
        return int(math.copysign(math.floor(abs(float(x)) + 0.5), x))

    def ranges(low: np.float32, high: np.float32, size: int) -> list[tuple[int, int]]:
        start, end = rounded(low * np.float32(1 / STRIDE)), rounded(high * np.float32(1 / STRIDE))
        length = np.float32(max(end - start + 1, 1)) / np.float32(bins)
        return [
            (
                min(max(int(np.floor(np.float32(k) * length)) + start, 0), size),
                min(max(int(np.ceil(np.float32(k + 1) * length)) + start, 0), size),
            )
            for k in range(bins)
        ]

    for r, (x1, y1, x2, y2) in enumerate(boxes.numpy()):
        for i, (top, bottom) in enumerate(ranges(y1, y2, height)):
            for j, (left, right) in enumerate(ranges(x1, x2, width)):
                if top < bottom and left < right:
                    out[r, :, i, j] = maps[:, top:bottom, left:right].max(axis=(1, 2))
    return out


def test_a_region_of_four_positions_on_paper():
    features = torch.arange(16.0).view(1, 1, 4, 4)
    # pixels 0..48 are positions 0..3: two bins of two positions on each side
    assert own(features, torch.tensor([[0.0, 0, 48, 48]]), op="pool", bins=2).tolist() == [[[[5, 7], [13, 15]]]]
    # 8 pixels are half a position and round up to 1, 24 to 2: positions 1..2, a bin each
    assert own(features, torch.tensor([[8.0, 8, 24, 24]]), op="pool", bins=2).tolist() == [[[[5, 6], [9, 10]]]]
    # three positions in two bins share the one in the middle
    assert own(features, torch.tensor([[0.0, 0, 32, 32]]), op="pool", bins=2).tolist() == [[[[5, 6], [9, 10]]]]


@pytest.mark.parametrize("bins", [1, 2, 7, 14])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (38, 21)])
def test_rounded_maxima_equal_the_loops(size, bins):
    features, boxes = feature_map(*size), some_boxes(40, *size)
    expected = pool_slowly(features, boxes, bins)
    assert (expected[1] == 0).all()  # outside: empty bins
    assert np.array_equal(own(features, boxes, op="pool", bins=bins).numpy(), expected)


def test_every_length_up_to_sixty_in_fourteen_bins():
    # ceil(14 * (h / 14)) in 32 bits is h + 1 for some h
    lengths = torch.arange(1, 61).float()
    first, last = pool_ranges(torch.zeros(60), (lengths - 1) * STRIDE, STRIDE, 14, 100)
    for h, begins, ends in zip(range(1, 61), first.tolist(), last.tolist()):
        size = np.float32(h) / np.float32(14)
        assert begins == [int(np.floor(np.float32(k) * size)) for k in range(14)]
        assert ends == [int(np.ceil(np.float32(k + 1) * size)) for k in range(14)]
    exact = torch.tensor([h * 14 // 14 for h in range(1, 61)])
    assert (last[:, -1] != exact).any()  # else this test tests nothing


def align_slowly(features: torch.Tensor, boxes: torch.Tensor, bins: int, samples: int) -> np.ndarray:
    """ROIAlignV2 sample by sample; where a sample lies in 32 bits as in the reference, the rest in double."""
    maps = features[0].double().numpy()
    _, height, width = maps.shape
    out = np.zeros((len(boxes), len(maps), bins, bins))

    def position(low: np.float32, high: np.float32, k: int, i: int) -> np.float32:
        start, end = (x * np.float32(1 / STRIDE) - np.float32(0.5) for x in (low, high))
        length = (end - start) / np.float32(bins)
        return start + np.float32(k) * length + np.float32(i + 0.5) * length / np.float32(samples)

    def sample(y: np.float32, x: np.float32) -> np.ndarray | float:
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = min(max(float(y), 0), height - 1), min(max(float(x), 0), width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        v, u = y - top, x - left
        return (maps[:, top, left] * (1 - u) + maps[:, top, right] * u) * (1 - v) + (
            maps[:, bottom, left] * (1 - u) + maps[:, bottom, right] * u
        ) * v

    for r, (x1, y1, x2, y2) in enumerate(boxes.numpy()):
        for i in range(bins):
            for j in range(bins):
                for a in range(samples):
                    for b in range(samples):
                        out[r, :, i, j] += sample(position(y1, y2, i, a), position(x1, x2, j, b))
    return out / samples**2


def test_samples_on_paper():
    # positions 0..1 hold 0 and 10; the box 8..24 is 0..1 after the shift by half a position
    features = torch.tensor([[[[0.0, 10.0]]]])
    boxes = torch.tensor([[8.0, 0.0, 24.0, 16.0]])
    # one bin, one sample in its middle: 5; two samples at 0.25 and 0.75: (2.5 + 7.5) / 2
    assert own(features, boxes, op="align", bins=1, samples=1).item() == 5.0
    assert own(features, boxes, op="align", bins=1, samples=2).item() == 5.0
    assert own(features, boxes, op="align", bins=2, samples=1)[0, 0].tolist() == [[2.5, 7.5]] * 2
    weights = bilinear_weights(torch.tensor([8.0]), torch.tensor([24.0]), STRIDE, 1, 2, 2)
    assert weights.tolist() == [[[0.5, 0.5]]]  # (0.75 + 0.25) / 2 each


@pytest.mark.parametrize(("bins", "samples"), [(1, 1), (3, 2), (14, 2), (2, 3)])
@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_bilinear_samples_equal_the_loops(size, bins, samples):
    features, boxes = feature_map(*size), some_boxes(16, *size)
    found = own(features, boxes, op="align", bins=bins, samples=samples)
    np.testing.assert_allclose(found.numpy(), align_slowly(features, boxes, bins, samples), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("op", ["pool", "align"])
def test_slices_and_no_region(op):
    features, boxes = feature_map(5, 8), some_boxes(9, 5, 8)
    pooled = pool_regions(features, boxes, op=op, bins=3, stride=STRIDE, use_torchvision=False)
    assert len(pooled) == 9 and pooled[:].shape == (9, 3, 3, 3)
    torch.testing.assert_close(torch.cat((pooled[0:4], pooled[4:8], pooled[8:12])), pooled[:], atol=1e-6, rtol=0)
    assert own(features, boxes[:0], op=op, bins=3).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("op", ["pool", "align"])
def test_the_memory_layout_of_the_map_does_not_matter(op):
    features, boxes = feature_map(5, 8), some_boxes(9, 5, 8)
    turned = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(own(features, boxes, op=op, bins=4), own(turned, boxes, op=op, bins=4))


@pytest.mark.parametrize("op", ["pool", "align"])
@pytest.mark.parametrize("size", [(5, 8), (38, 50)])
def test_it_equals_torchvision(op, size):
    if torchvision_ops() is None:
        pytest.skip("torchvision cannot be imported: pooling was compared with loops only")
    features, boxes = feature_map(*size, channels=6), some_boxes(200, *size)
    options = {"op": op, "bins": 14, "stride": STRIDE, "samples": 2}
    theirs = pool_regions(features, boxes, use_torchvision=True, **options)[:]
    ours = pool_regions(features, boxes, use_torchvision=False, **options)[:]
    torch.testing.assert_close(ours, theirs, atol=1e-6 if op == "align" else 0, rtol=1e-6 if op == "align" else 0)
