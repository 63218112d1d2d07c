"""How much better than its baseline a caption is, by hand."""

import pytest
import torch

from xmodaler_ssattn.engine.rl_trainer import over_others

REWARDS = torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])


def test_over_others_takes_the_mean_of_the_others():
    # 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2
    assert over_others(REWARDS).tolist() == [[-3, -1.5, 4.5], [0, 0, 0]]


def test_with_the_mean_as_baseline_an_images_advantages_sum_to_zero():
    torch.manual_seed(0)
    for samples in (2, 5, 9):
        advantages = over_others(torch.rand(7, samples, dtype=torch.float64))
        torch.testing.assert_close(advantages.sum(1), torch.zeros(7, dtype=torch.float64))


def test_a_single_caption_has_no_others():
    with pytest.raises(ValueError, match="at least two captions per image, got 1"):
        over_others(REWARDS[:, :1])
