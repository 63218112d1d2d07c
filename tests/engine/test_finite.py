"""Infinite and NaN numbers end a run before they reach the weights or a file; an exploding loss is reported."""

import logging

import pytest
import torch

from runtime.toy_host import toy_config, toy_trainer
from xmodaler_ssattn.engine.finite import OnlyFinite, bad_tensors
from xmodaler_ssattn.host import NAME, UPSTREAM

INF, NAN = float("inf"), float("nan")
pytestmark = pytest.mark.skipif(NAME == UPSTREAM, reason="the toy trainer is the embedded runtime's")


def test_which_tensors_are_not_finite():
    named = {
        "fine": torch.tensor([1.0, -2.0]), "nan": torch.tensor([0.0, NAN]), "inf": torch.tensor([-INF]),
        "large": torch.tensor([3e38, 3e38]), "none": torch.empty(0), "count": torch.tensor(3),
        "half": torch.tensor([INF], dtype=torch.bfloat16),
    }  # fmt: skip
    assert bad_tensors(named.items()) == ["nan", "inf", "half"]
    assert bad_tensors([]) == []


def trainer(tmp_path):
    made = toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 2))
    made.register_hooks([OnlyFinite()])
    return made


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("step", [1, 3, 7])  # 3: the last step of an epoch, 7: of the run
def test_a_bad_gradient_names_images_and_weight_and_changes_nothing(tmp_path, value, step):
    run = trainer(tmp_path)
    weight = run.model.decoder.lstm1.weight_hh
    kept = {}

    def spoil(grad):
        if run.iter == step:
            kept["before"] = weight.detach().clone()
            return torch.full_like(grad, value)
        return grad

    weight.register_hook(spoil)
    with pytest.raises(
        FloatingPointError, match=rf"gradient .* iteration {step}: decoder.lstm1.weight_hh \(images \d+, \d+, \d+\)"
    ):
        run.train()
    assert torch.equal(weight, kept["before"])
    saved = sorted(path.name for path in tmp_path.glob("model_*"))
    assert saved == (["model_Epoch_00001_Iter_0000003.pth"] if step > 3 else [])


@pytest.mark.parametrize("what", ["weight", "moment"])
def test_no_checkpoint_of_bad_weights_or_moments_is_written(tmp_path, what):
    run = trainer(tmp_path)
    save = run.checkpointer.save
    run.before_train()  # wraps save
    wrapped = run.checkpointer.save
    assert wrapped is not save
    run.iter = 7
    weight = run.model.decoder.lstm1.weight_hh
    if what == "weight":
        weight.data.view(-1)[0] = NAN
    else:
        run.optimizer.state[weight]["exp_avg"] = torch.full_like(weight, INF)
    with pytest.raises(FloatingPointError, match=r"(weight|exp_avg).*model_x was not written"):
        wrapped("model_x", iteration=7)
    assert not list(tmp_path.glob("model_*"))


def test_a_loss_that_explodes_is_reported_once(monkeypatch):
    hook = OnlyFinite()

    class Storage:
        def __init__(self):
            self.loss = 1.0

        def latest(self):
            return {"total_loss": (self.loss, 0)}

    class Trainer:
        iter, storage, batch_ids = 0, Storage(), [7, 8]

    hook.trainer = Trainer()
    said = []
    monkeypatch.setattr(
        logging.getLogger("xmodaler_ssattn.engine.finite"), "warning", lambda *a: said.append(a[0] % a[1:])
    )
    for hook.trainer.iter in range(60):
        hook.trainer.storage.loss = 11.0 if hook.trainer.iter in (10, 55, 57) else 1.0
        hook.after_step()
    # At 10 there are too few losses to compare with; 57 is reported already.
    assert len(said) == 1
    assert said[0].startswith("The loss of iteration 55 is 11, 11 times the median of the 50 before (images 7, 8).")
