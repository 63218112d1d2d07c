"""From scores and offsets to proposals, in the order of the original and of detectron2."""

import math

import pytest
import torch

from xmodaler_ssattn.detectors.proposals import choose_proposals, clip_boxes, large_enough, move_boxes
from xmodaler_ssattn.detectors.spec import DetectorSpec

CAFFE, DETECTRON2 = DetectorSpec.caffe(), DetectorSpec.airsplay()


def boxes(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def test_moving_a_box_on_paper():
    # 10 wide with + 1, centre 5; dx 0.1 moves it by 1, dw log 2 doubles it: 6 -+ 10
    delta = torch.tensor([[0.1, 0.0, math.log(2), 0.0]])
    torch.testing.assert_close(move_boxes(boxes([0, 0, 9, 9]), delta, geometry="caffe"), boxes([-4, 0, 16, 10]))
    # without + 1: 9 wide, centre 4.5 + 0.9
    torch.testing.assert_close(move_boxes(boxes([0, 0, 9, 9]), delta, geometry="detectron2"), boxes([-3.6, 0, 14.4, 9]))
    # offsets are divided by their weights
    torch.testing.assert_close(
        move_boxes(
            boxes([0, 0, 9, 9]),
            torch.tensor([[1.0, 0, 5 * math.log(2), 0]]),
            geometry="detectron2",
            weights=(10, 10, 5, 5),
        ),
        boxes([-3.6, 0, 14.4, 9]),
    )


def test_no_box_grows_more_than_62_times():
    moved = move_boxes(boxes([0, 0, 16, 16]), torch.tensor([[0.0, 0, 99, 0]]), geometry="detectron2")
    torch.testing.assert_close(moved[0, 2] - moved[0, 0], torch.tensor(1000.0))


def test_the_last_pixel_or_the_border():
    box = boxes([-5, -5, 500, 500])
    assert clip_boxes(box, height=30, width=40, geometry="caffe").tolist() == [[0, 0, 39, 29]]
    assert clip_boxes(box, height=30, width=40, geometry="detectron2").tolist() == [[0, 0, 40, 30]]


def test_what_is_too_small():
    box = boxes([0, 0, 15, 15], [0, 0, 14.9, 99], [0, 0, 99, 14.9])
    assert large_enough(box, "caffe", 16.0).tolist() == [True, False, False]  # 15 + 1 is enough
    assert large_enough(boxes([0, 0, 16, 16], [0, 0, 17, 17]), "detectron2", 16.0).tolist() == [False, True]


def choose(found: torch.Tensor, scores: list[float], spec: DetectorSpec, scale: float = 1.0, **changes):
    spec = type(spec)(**{**vars(spec), **changes})
    return choose_proposals(torch.tensor(scores), torch.zeros(len(found), 4), found, 100, 100, scale, spec)


def test_small_boxes_go_before_the_best_are_counted_in_the_original_and_after_in_detectron2():
    found = boxes([0, 0, 4, 4], [0, 0, 40, 40], [50, 50, 90, 90])
    scores = [0.9, 0.8, 0.7]
    assert choose(found, scores, CAFFE, pre_nms_topk=2).objectness.tolist() == pytest.approx([0.8, 0.7])
    assert choose(found, scores, DETECTRON2, pre_nms_topk=2, min_size=10.0).objectness.tolist() == pytest.approx([0.8])


def test_the_smallest_side_follows_the_scale_in_the_original_alone():
    # A width of 20 comes back as 21: + 1 on the way in, not on the way out.
    found = boxes([10, 10, 29, 29])
    assert len(choose(found, [0.5], CAFFE, scale=1.25).boxes_px) == 1  # 20 >= 16 * 1.25
    assert len(choose(found, [0.5], CAFFE, scale=1.5).boxes_px) == 0
    assert len(choose(found, [0.5], DETECTRON2, scale=1.5, min_size=16.0).boxes_px) == 1


@pytest.mark.parametrize("spec", [CAFFE, DETECTRON2], ids=["caffe", "detectron2"])
def test_best_first_overlapping_ones_out_equal_scores_in_the_order_of_the_anchors(spec):
    found = boxes([0, 0, 40, 40], [50, 50, 90, 90], [1, 1, 41, 41], [0, 50, 40, 90])
    chosen = choose(found, [0.5, 0.9, 0.6, 0.5], spec)
    assert chosen.objectness.tolist() == pytest.approx([0.9, 0.6, 0.5])  # the first overlaps the third by 0.9
    assert chosen.boxes_px[2, 1] == 50
    tied = choose(found[[1, 0, 3]], [0.5, 0.5, 0.5], spec, post_nms_topk=2)
    torch.testing.assert_close(tied.boxes_px[:, :2], boxes([50, 50, 0, 0]).view(2, 2)[:, :2])


@pytest.mark.parametrize("spec", [CAFFE, DETECTRON2], ids=["caffe", "detectron2"])
def test_none_and_not_a_number(spec):
    assert choose(boxes(), [], spec).boxes_px.shape == (0, 4)
    outside = boxes([-50, -50, -10, -10])
    assert choose(outside, [0.9], spec).boxes_px.shape == (0, 4)
    found = boxes([0, 0, 40, 40], [50, 50, 90, 90])
    assert choose(found, [float("nan"), 0.1], spec).objectness.tolist() == pytest.approx([0.1])
