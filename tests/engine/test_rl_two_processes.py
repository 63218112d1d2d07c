"""Self-critical training in two processes: each scores its own captions, and both end with one model."""

import json

import pytest
import torch

from engine.rl_two_processes import draw_and_train
from engine.rl_world import write_world
from xmodaler_ssattn import host


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes need a GPU each")
@pytest.mark.skipif(host.NAME == host.UPSTREAM, reason="upstream's processes speak NCCL, which needs GPUs")
def test_each_process_scores_its_own_images_and_both_train_one_model(tmp_path):
    for rank in (0, 1):
        write_world(tmp_path / f"rank{rank}")
    (tmp_path / "world").mkdir()
    host.launch(draw_and_train, 2, dist_url="auto", args=(str(tmp_path),))
    zero, one = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert zero["weights"] == one["weights"]
    # Two calls a step, of the drawn captions and of the greedy ones; one step an epoch, each on half of the images.
    assert len(zero["seen"]) == len(one["seen"]) == 6
    for (ids, _), (others, _) in zip(zero["seen"], one["seen"]):
        assert sorted(ids + others) == [11, 12, 13, 14]
    means = [(a[1] + b[1]) / 2 for a, b in zip(zero["seen"][::2], one["seen"][::2])]
    assert zero["rewards"] == pytest.approx(means)
