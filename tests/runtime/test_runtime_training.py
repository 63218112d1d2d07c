"""Training: schedules, hooks, files, and that a resumed run is the run that was never interrupted."""

import io
import json
import math
import random
import sys

import numpy as np
import pytest
import torch

from runtime.toy_host import RuntimeToyEvaler, losses_of, toy_config, toy_trainer
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.runtime import (
    LOSSES_REGISTRY,
    CfgNode,
    CheckpointError,
    HookBase,
    build_optimizer,
    hooks,
    seed_all_rng,
)
from xmodaler_ssattn.runtime.rng import get_random_state, set_random_state

STEPS = 4  # an epoch: 13 images, 3 a batch, the incomplete last batch is dropped


@pytest.fixture(autouse=True)
def fresh_evaluator(monkeypatch):
    monkeypatch.setattr(RuntimeToyEvaler, "calls", [])
    monkeypatch.setattr(RuntimeToyEvaler, "fail_at_epoch", None)


def assert_same_state(one, other) -> None:
    """Weights, optimiser, schedule and random states are equal bit for bit."""
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    ours, theirs = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for index, state in ours["state"].items():
        assert all(torch.equal(value, theirs["state"][index][key]) for key, value in state.items())
    assert one.scheduler.state_dict() == other.scheduler.state_dict()
    assert one.ss_prob == other.ss_prob


# --- resuming --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("test_split", ["", "RuntimeToyDataset"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, workers, test_split):
    opts = ["DATALOADER.NUM_WORKERS", workers, "DATASETS.TEST", test_split]
    through = toy_trainer(toy_config(tmp_path / "through", "SOLVER.EPOCH", 4, *opts))
    through.train()
    expected_random = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    first = toy_trainer(toy_config(tmp_path / "parts", "SOLVER.EPOCH", 2, *opts))
    first.train()
    losses = losses_of(first)
    seed_all_rng(999)  # another process has other random states
    second = toy_trainer(toy_config(tmp_path / "parts", "SOLVER.EPOCH", 4, "SEED", 999, *opts), resume=True)
    assert second.start_iter == 2 * STEPS
    assert second.ss_prob == 0.5  # min(0.3 * 2, 0.5); upstream feeds 0 for one step
    second.train()
    assert losses + losses_of(second) == losses_of(through)
    assert_same_state(second, through)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == expected_random


def test_a_run_that_ended_during_an_evaluation_does_it_again_and_continues_the_same(tmp_path, monkeypatch):
    through = toy_trainer(toy_config(tmp_path / "through", "SOLVER.EPOCH", 3))
    through.train()
    calls = list(RuntimeToyEvaler.calls)
    assert calls == [("val", 1), ("val", 2), ("val", 3)]
    RuntimeToyEvaler.calls.clear()

    monkeypatch.setattr(RuntimeToyEvaler, "fail_at_epoch", 2)
    cfg = toy_config(tmp_path / "parts", "SOLVER.EPOCH", 3)
    first = toy_trainer(cfg)
    with pytest.raises(OSError, match="disk is full"):
        first.train()
    assert RuntimeToyEvaler.calls == [("val", 1)]
    monkeypatch.setattr(RuntimeToyEvaler, "fail_at_epoch", None)
    second = toy_trainer(cfg, resume=True)
    second.train()
    assert RuntimeToyEvaler.calls == calls
    assert losses_of(first) + losses_of(second) == losses_of(through)
    assert_same_state(second, through)
    # the score of the repeated evaluation belongs to the last iteration of its epoch
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "val/words/mean" in row] == [3, 7, 11]


def test_an_older_checkpoint_can_be_resumed_and_gives_the_same_run(tmp_path):
    cfg = toy_config(tmp_path, "SOLVER.EPOCH", 3)
    through = toy_trainer(cfg)
    through.train()
    (tmp_path / "last_checkpoint").write_text("model_Epoch_00001_Iter_0000003.pth")
    again = toy_trainer(cfg, resume=True)
    again.train()
    assert losses_of(again) == losses_of(through)[STEPS:]
    assert_same_state(again, through)


def test_resuming_a_finished_run_trains_nothing_and_evaluates_once(tmp_path):
    cfg = toy_config(tmp_path)
    toy_trainer(cfg).train()
    RuntimeToyEvaler.calls.clear()
    again = toy_trainer(cfg, resume=True)
    again.train()
    assert again.iter == again.max_iter == 2 * STEPS
    assert "total_loss" not in again.storage.histories()
    assert RuntimeToyEvaler.calls == [("val", 2)]


def test_resume_without_a_checkpoint_starts_anew(tmp_path):
    trainer = toy_trainer(toy_config(tmp_path), resume=True)
    assert trainer.start_iter == 0


def test_resuming_with_another_model_is_an_error_that_lists_what_differs(tmp_path):
    toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 1)).train()
    with pytest.raises(CheckpointError, match=r"lstm1.weight_hh: shape \(32, 8\) in the file, \(24, 6\) in the model"):
        toy_trainer(toy_config(tmp_path, "MODEL.DECODER_DIM", 6), resume=True)


@pytest.mark.parametrize("batch", [2, 4, 6])  # 6, 3 and 2 iterations per epoch in place of 4
def test_resuming_with_epochs_of_another_length_is_an_error_with_both_numbers(tmp_path, batch):
    toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 1)).train()
    cfg = toy_config(tmp_path, "SOLVER.EPOCH", 3, "DATALOADER.TRAIN_BATCH_SIZE", batch)
    match = rf"one epoch of it has 4 iterations. One epoch now has {13 // batch} iterations of {batch} images"
    with pytest.raises(CheckpointError, match=match):
        toy_trainer(cfg, resume=True)


def test_resuming_a_run_with_more_completed_epochs_than_requested_is_an_error(tmp_path):
    """Its weights would be evaluated once more, as those of an epoch that they are not of."""
    toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 2)).train()
    with pytest.raises(CheckpointError, match=r"it has 2 completed epochs and SOLVER.EPOCH is 1"):
        toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 1), resume=True)


def test_a_checkpoint_keeps_the_states_of_the_hooks_and_gives_them_back(tmp_path):
    class Remembers(HookBase):
        seen = 0

        def after_step(self):
            self.seen += 1

        def state_dict(self):
            return {"seen": self.seen}

        def load_state_dict(self, state):
            self.seen = state["seen"]

    first = toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 1))
    # Before the checkpointer of the same step.
    first.register_hooks([Remembers()])
    first._hooks.insert(0, first._hooks.pop())
    first.train()
    second = toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 2))
    hook = Remembers()
    second.register_hooks([hook])
    second.resume_or_load(resume=True)
    assert hook.seen == STEPS


def test_random_states_survive_a_file(tmp_path):
    seed_all_rng(5)
    random.gauss(0, 1), np.random.randn()  # both keep a second value for later
    torch.save(get_random_state(), tmp_path / "state")
    drawn = random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()
    seed_all_rng(6)
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert (random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()) == drawn


def test_one_seed_gives_one_run_and_another_seed_another(tmp_path):
    runs = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = toy_trainer(toy_config(tmp_path / folder, "SOLVER.EPOCH", 1, "SEED", seed))
        trainer.train()
        runs.append(losses_of(trainer))
    assert runs[0] == runs[1] != runs[2]


# --- what a run writes -----------------------------------------------------------------------------------


def test_files_of_a_run_have_upstreams_names(tmp_path):
    toy_trainer(toy_config(tmp_path)).train()
    names = {path.name for path in tmp_path.iterdir() if "tfevents" not in path.name}
    assert names == {
        "vocabulary.txt", "config.yaml", "log.txt", "metrics.json", "last_checkpoint", "last_random_state",
        "model_Epoch_00001_Iter_0000003.pth", "model_Epoch_00002_Iter_0000007.pth", "model_final.pth",
    }  # fmt: skip
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert CfgNode.load_cfg((tmp_path / "config.yaml").read_text()).SOLVER.EPOCH == 2
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert set(saved) == {"model", "trainer", "iteration"} and saved["iteration"] == 7


def test_metrics_json_has_one_line_a_write_with_upstreams_names(tmp_path):
    trainer = toy_trainer(toy_config(tmp_path, "LOSSES.NAMES", "['CrossEntropy', 'LabelSmoothing']"))
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    # written every 3 iterations and at the end; evaluation at 3 and 7 has rows with the lines after it
    assert [row["iteration"] for row in rows] == [2, 3, 5, 7]
    assert set(rows[2]) == {
        "total_loss", "CrossEntropy Loss(G)", "LabelSmoothing(G) loss", "data_time", "time", "lr", "eta_seconds",
        "iteration",
    }  # fmt: skip
    assert "val/words/mean" in rows[1] and "val/words/mean" in rows[3]
    losses = losses_of(trainer)
    assert rows[0]["total_loss"] == pytest.approx(np.median(losses[:3]))
    both = sum(trainer.storage.history(name).latest() for name in ("CrossEntropy Loss(G)", "LabelSmoothing(G) loss"))
    assert losses[-1] == pytest.approx(both)


def test_the_log_file_is_the_runs_own(tmp_path):
    for folder in ("a", "b"):
        toy_trainer(toy_config(tmp_path / folder, "SOLVER.EPOCH", 1)).train()
    logs = [(tmp_path / folder / "log.txt").read_text() for folder in ("a", "b")]
    assert all(text.count("Starting training from iteration 0") == 1 for text in logs)
    assert all("total_loss" in text for text in logs)
    assert str(tmp_path / "b") not in logs[0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_bar_shows_epoch_losses_and_time_left_and_lines_go_to_the_file(tmp_path, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    toy_trainer(toy_config(tmp_path)).train()
    bar = terminal.getvalue()
    assert "epoch 2/2" in bar and "total_loss: " in bar and "8/8" in bar and "it/s" in bar and "eta: 0:00:0" in bar
    assert "decoding" in bar
    shown = capsys.readouterr().out
    assert "total_loss: " not in shown and "TRAIN_BATCH_SIZE" not in shown and "Linear(" not in shown
    log = (tmp_path / "log.txt").read_text()
    assert all(part in log for part in ("total_loss: ", "TRAIN_BATCH_SIZE", "Linear("))


# --- schedules -------------------------------------------------------------------------------------------


class Record(HookBase):
    """What a step is about to use."""

    def __init__(self) -> None:
        self.ss_prob, self.lr = [], []

    def before_step(self) -> None:
        self.ss_prob.append(self.trainer.ss_prob)
        self.lr.append(self.trainer.optimizer.param_groups[0]["lr"])


def test_scheduled_sampling_and_rate_by_step(tmp_path):
    trainer = toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 3, "SCHEDULED_SAMPLING.START_EPOCH", 1))
    record = Record()
    trainer.register_hooks([record, None])
    trainer.train()
    # from epoch 1 on 0.3 more each epoch, first after a whole one: 0 0 0.3, of at most 0.5
    assert record.ss_prob == [0] * 2 * STEPS + [0.3] * STEPS
    assert record.lr == [0.01] * STEPS + [0.005] * STEPS + [0.0025] * STEPS
    assert trainer.ss_prob == 0.5  # for a step that is not done


@pytest.mark.parametrize("iteration, expected", [(0, 0.0), (8, 0.0), (9, 0.05), (19, 0.1), (59, 0.25), (999, 0.25)])
def test_scheduled_sampling_values(iteration, expected):
    # 10 steps an increment of 0.05 from step 0 on: after step 9 ten are done
    class Trainer:
        iter, ss_prob = iteration, 0.0

    hook = hooks.ScheduledSampling(0, 10, 0.05, 0.25)
    hook.trainer = Trainer
    hook.after_step()
    assert Trainer.ss_prob == pytest.approx(expected)


def test_fixed_rate(tmp_path):
    trainer = toy_trainer(toy_config(tmp_path, "LR_SCHEDULER.NAME", "FixLR"))
    record = Record()
    trainer.register_hooks([record])
    trainer.train()
    assert set(record.lr) == {0.01}


@pytest.mark.parametrize(
    "epochs, period, start, expected",
    [
        (3, 1, -1, [1, 2, 3]),
        (3, 2, -1, [2, 3]),
        (3, 1, 1, [2, 3]),
        (2, 0, -1, [2]),
        (2, 1, 5, [2]),  # the last epoch is always evaluated
    ],
)
def test_each_epoch_is_evaluated_at_most_once(tmp_path, epochs, period, start, expected):
    opts = ["SOLVER.EPOCH", epochs, "SOLVER.EVAL_PERIOD", period, "INFERENCE.VAL_EVAL_START", start]
    toy_trainer(toy_config(tmp_path, *opts)).train()
    assert [epoch for _, epoch in RuntimeToyEvaler.calls] == expected


def test_val_and_test_scores_have_names_of_their_own(tmp_path):
    trainer = toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 1, "DATASETS.TEST", "RuntimeToyDataset"))
    trainer.train()
    assert RuntimeToyEvaler.calls == [("val", 1), ("test", 1)]
    assert {"val/words/mean", "test/words/mean"} <= set(trainer.storage.histories())


def evaluate_with(result):
    hook = hooks.EvalHook(1, -1, lambda epoch: result, 1, "val")

    class Trainer:
        iter, max_iter = 0, 1

        class storage:
            scores: dict = {}  # noqa: RUF012

            @classmethod
            def put_scalars(cls, smoothing_hint, **scores):
                cls.scores.update(scores)

    hook.trainer = Trainer
    hook.after_step()
    return Trainer.storage.scores


def test_scores_keep_a_prefix_that_they_have_and_others_get_it():
    assert evaluate_with({"val/F1": 1.0, "CIDEr": 2, "by": {"class": 3}}) == {
        "val/F1": 1.0, "val/CIDEr": 2, "val/by/class": 3,
    }  # fmt: skip
    assert evaluate_with("") == {}
    with pytest.raises(ValueError, match="'val/F1' is not a number: 'high'"):
        evaluate_with({"F1": "high"})
    with pytest.raises(TypeError, match="must return a dict of numbers, received a list"):
        evaluate_with([1])


# --- steps -----------------------------------------------------------------------------------------------


@LOSSES_REGISTRY.register()
class RuntimeToyLoss(torch.nn.Module):
    """A broken loss from step 2 on, and an accuracy that must not be added."""

    def __init__(self, cfg):
        super().__init__()
        self.step = 0

    def forward(self, outputs):
        self.step += 1
        value = outputs["G_LOGITS"].sum() * (math.nan if self.step > 2 else 0.0)
        return {"Broken loss": value, "accuracy": torch.tensor(100.0)}


def test_a_loss_that_is_not_finite_stops_training_before_the_weights_change(tmp_path):
    trainer = toy_trainer(toy_config(tmp_path, "LOSSES.NAMES", "['CrossEntropy', 'RuntimeToyLoss']"))
    with pytest.raises(FloatingPointError, match=r"at iteration 2: Broken loss\. All losses: .*CrossEntropy"):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert RuntimeToyEvaler.calls == []
    assert "Training stopped at iteration 2" in (tmp_path / "log.txt").read_text()
    cross_entropy = trainer.storage.history("CrossEntropy Loss(G)").values()
    assert losses_of(trainer) == [value for value, _ in cross_entropy]  # + 0, and without the accuracy of 100


def two_tensors() -> torch.nn.Module:
    model = torch.nn.Linear(1, 1)
    model.unused = torch.nn.Parameter(torch.ones(1))
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.fill_(1.0)
    return model


@pytest.mark.parametrize(
    "kind, clip, expected",
    [
        ("value", 0.5, [0.5, -0.5]),
        ("norm", 1.0, [0.6, -0.8]),  # the norm of (3, -4) is 5
        ("norm", 0.0, [3.0, -4.0]),
    ],
)
def test_gradients_are_clipped_inside_the_step(tmp_path, kind, clip, expected):
    model = two_tensors()
    opts = ["SOLVER.NAME", "SGD", "SOLVER.GRAD_CLIP_TYPE", kind, "SOLVER.GRAD_CLIP", clip]
    cfg = toy_config(tmp_path, *opts, "SOLVER.BASE_LR", 1.0, "SOLVER.MOMENTUM", 0.0, "SOLVER.BIAS_LR_FACTOR", 2.0)
    optimizer = build_optimizer(cfg, model)
    (3 * model.weight - 4 * model.bias).sum().backward()  # "unused" has no gradient
    optimizer.step()
    assert model.weight.item() == pytest.approx(1 - expected[0])
    assert model.bias.item() == pytest.approx(1 - 2 * expected[1])  # twice the rate
    assert model.unused.item() == 1


def test_a_wrong_clip_type_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected 'value' or 'norm', received 'sum'"):
        build_optimizer(toy_config(tmp_path, "SOLVER.GRAD_CLIP_TYPE", "sum"), two_tensors())


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_one_group_a_tensor_with_its_own_decay(tmp_path, name):
    decays = ["SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY_NORM", 0.2, "SOLVER.WEIGHT_DECAY_BIAS", 0.3]
    linear, norm = torch.nn.Linear(2, 2), torch.nn.LayerNorm(2)
    linear.weight.requires_grad_(name != "SGD")
    model = torch.nn.Sequential(linear, norm, linear)  # a shared layer counts once
    groups = build_optimizer(toy_config(tmp_path, "SOLVER.NAME", name, *decays), model).param_groups
    frozen = [0.1] if name != "SGD" else []
    assert [group["weight_decay"] for group in groups] == [*frozen, 0.3, 0.2, 0.2]
    assert all(len(group["params"]) == 1 for group in groups)


def test_hooks_run_in_order_and_after_train_follows_an_error(tmp_path):
    calls = []

    class Note(HookBase):
        def __init__(self, name):
            self.name = name

        def after_step(self):
            calls.append(f"{self.name} {self.trainer.iter}")
            if self.trainer.iter == 1:
                raise KeyError("stop")

        def after_train(self):
            calls.append(f"{self.name} end {self.trainer.iter}")

    trainer = toy_trainer(toy_config(tmp_path))
    trainer.register_hooks([Note("a"), Note("b")])
    with pytest.raises(KeyError):
        trainer.train()
    assert calls == ["a 0", "b 0", "a 1", "a end 1", "b end 1"]
    with pytest.raises(TypeError, match="must be a HookBase, received str"):
        trainer.register_hooks(["hook"])


def test_a_config_without_training_data_can_evaluate_but_not_train(tmp_path):
    trainer = toy_trainer(toy_config(tmp_path, "DATASETS.TRAIN", ""))
    scores = trainer.test(trainer.cfg, trainer.model, trainer.val_data_loader, trainer.val_evaluator, -1)
    assert scores["words"]["mean"] >= 0
    assert trainer.model.training
    with pytest.raises(UserError, match="DATASETS.TRAIN is empty"):
        trainer.train()


def test_averaged_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="USE_EMA"):
        toy_trainer(toy_config(tmp_path, "MODEL.USE_EMA", True))
