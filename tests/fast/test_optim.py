"""FusedAdam against the host's Adam, and the merging of groups."""

import pytest
import torch

from toys import toy_config, toy_model, toy_sample
from xmodaler_ssattn.fast.optim import FusedAdam, merge_groups
from xmodaler_ssattn.host import build_losses, build_optimizer


def test_groups_with_equal_settings_are_joined_in_order():
    a, b, c = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
    groups = [{"params": [a], "lr": 1.0}, {"params": [b], "lr": 2.0}, {"params": [c], "lr": 1.0}]
    merged = merge_groups(groups)
    assert [group["lr"] for group in merged] == [1.0, 2.0]
    assert merged[0]["params"][0] is a and merged[0]["params"][1] is c and merged[1]["params"][0] is b


@pytest.mark.parametrize("overrides", [{}, {"SOLVER__BIAS_LR_FACTOR": 2.0, "SOLVER__WEIGHT_DECAY": 0.01}])
def test_fused_adam_takes_the_steps_of_the_hosts_adam(tmp_path, overrides):
    weights = {}
    for name in ("Adam", "FusedAdam"):
        cfg = toy_config(
            tmp_path, SOLVER__NAME=name, SOLVER__GRAD_CLIP=0.1, SOLVER__GRAD_CLIP_TYPE="value", **overrides
        )
        model = toy_model(tmp_path).train()
        optimizer = build_optimizer(cfg, model)
        for step in range(5):
            out = model(model.preprocess_batch([toy_sample(step, 3)]))
            losses = {}
            for loss in build_losses(cfg):
                losses.update(loss(out))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
        weights[name] = model.state_dict()
    assert isinstance(optimizer, FusedAdam) and len(optimizer.param_groups) == (2 if overrides else 1)
    for name, value in weights["Adam"].items():
        torch.testing.assert_close(weights["FusedAdam"][name], value, atol=1e-6, rtol=1e-5)
