"""Non-maximum suppression against a double loop, in both conventions."""

import numpy as np
import pytest
import torch

from xmodaler_ssattn.detectors import suppression
from xmodaler_ssattn.detectors.roi_operators import torchvision_ops
from xmodaler_ssattn.detectors.suppression import pairwise_iou, suppress

BOTH = pytest.mark.parametrize("geometry", ["caffe", "detectron2"])


def boxes(*rows) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def some_boxes(n: int, seed: int, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (n, 2))
    found = np.concatenate((corners, corners + rng.uniform(0, 60, (n, 2))), axis=1)
    scores = rng.uniform(size=n)
    if whole:  # whole pixels and few scores: many ties in both
        found, scores = found.round(), scores.round(1)
    return found.astype(np.float32), scores.astype(np.float32)


def slowly(found: np.ndarray, scores: np.ndarray, threshold: float, geometry: str) -> list[int]:
    """The reference: one pair at a time, numbers of 32 bits, the comparison in double."""
    one = np.float32(1 if geometry == "caffe" else 0)
    area = (found[:, 2] - found[:, 0] + one) * (found[:, 3] - found[:, 1] + one)
    order = sorted(range(len(found)), key=lambda i: -scores[i])
    gone, kept = set(), []
    for place, i in enumerate(order):
        if i in gone:
            continue
        kept.append(i)
        for j in order[place + 1 :]:
            w = max(np.float32(0), min(found[i, 2], found[j, 2]) - max(found[i, 0], found[j, 0]) + one)
            h = max(np.float32(0), min(found[i, 3], found[j, 3]) - max(found[i, 1], found[j, 1]) + one)
            union = area[i] + area[j] - w * h
            iou = float(w * h / union) if union > 0 else float("nan")
            if iou >= threshold if geometry == "caffe" else iou > threshold:
                gone.add(j)
    return kept


def test_the_two_conventions_differ_on_the_threshold_and_by_one_pixel():
    # with + 1: 10 x 10 and 10 x 5, IoU 50 / 100, not less than 0.5; the same areas without + 1 are not more than 0.5
    scores = np.array([0.9, 0.8], dtype=np.float32)
    assert suppress(boxes([0, 0, 9, 9], [0, 0, 9, 4]), scores, 0.5, geometry="caffe").tolist() == [0]
    assert suppress(boxes([0, 0, 10, 10], [0, 0, 10, 5]), scores, 0.5, geometry="detectron2").tolist() == [0, 1]
    # the first pair without + 1: 9 * 4 / (9 * 9) = 0.44
    assert suppress(boxes([0, 0, 9, 9], [0, 0, 9, 4]), scores, 0.4, geometry="detectron2").tolist() == [0]
    assert pairwise_iou(boxes([0, 0, 9, 9]), boxes([0, 0, 9, 4]), "caffe").tolist() == [[0.5]]


def test_the_comparison_is_in_double():
    # 7 / 10 in 32 bits is a little less than 0.7
    scores = np.array([0.9, 0.8], dtype=np.float32)
    assert suppress(boxes([0, 0, 9, 0], [0, 0, 6, 0]), scores, 0.7, geometry="caffe").tolist() == [0, 1]
    # 3 / 10 in 32 bits is a little more than 0.3
    assert suppress(boxes([0, 0, 10, 1], [0, 0, 3, 1]), scores, 0.3, geometry="detectron2").tolist() == [0]


@BOTH
def test_a_suppressed_box_suppresses_no_other(geometry):
    # a chain: each overlaps the next only; the middle one goes, so the last one stays
    chain = boxes([0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10])
    assert suppress(chain, np.float32([0.9, 0.8, 0.7]), 0.4, geometry=geometry).tolist() == [0, 2]
    assert suppress(chain, np.float32([0.7, 0.9, 0.8]), 0.4, geometry=geometry).tolist() == [1]


@BOTH
def test_none_one_and_equal_scores(geometry):
    assert suppress(boxes(), np.zeros(0, np.float32), 0.5, geometry=geometry).tolist() == []
    assert suppress(boxes([1, 2, 3, 4]), np.float32([0]), 0.5, geometry=geometry).tolist() == [0]
    same = boxes([0, 0, 9, 9], [50, 50, 60, 60], [0, 0, 9, 9])
    assert suppress(same, np.zeros(3, np.float32), 0.5, geometry=geometry).tolist() == [0, 1]
    points = boxes([5, 5, 5, 5], [5, 5, 5, 5])  # without + 1 their overlap is 0 / 0: neither suppresses the other
    assert suppress(points, np.zeros(2, np.float32), 0.5, geometry=geometry).tolist() == (
        [0] if geometry == "caffe" else [0, 1]
    )


@BOTH
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("block", [1, 7, 256])
def test_blocks_give_the_same_boxes_as_the_double_loop(geometry, whole, block, monkeypatch):
    monkeypatch.setattr(suppression, "BLOCK", block)
    for seed, threshold in enumerate((0.1, 0.3, 0.5, 0.7)):
        found, scores = some_boxes(120, seed, whole)
        expected = slowly(found, scores, threshold, geometry)
        assert 1 < len(expected) < 120
        assert suppress(found, scores, threshold, geometry=geometry).tolist() == expected
        assert suppress(found, scores, threshold, geometry=geometry, limit=5).tolist() == expected[:5]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_it_equals_torchvision(threshold):
    ops = torchvision_ops()
    if ops is None:
        pytest.skip("torchvision cannot be imported: suppression was compared with a double loop only")
    for seed in range(4):
        found, scores = some_boxes(2000, seed, whole=seed % 2 == 1)
        expected = ops.nms(torch.from_numpy(found), torch.from_numpy(scores), threshold)
        assert suppress(found, scores, threshold, geometry="detectron2").tolist() == expected.tolist()
