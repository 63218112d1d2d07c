"""The best epoch, and the hook that keeps its weights."""

import json
from types import SimpleNamespace

import pytest
import torch

from xmodaler_ssattn.engine.best import KeepBest, best_epoch, best_hook
from xmodaler_ssattn.errors import UserError


def test_the_best_epoch_is_the_highest_and_among_equals_the_earliest():
    assert best_epoch({1: 0.2, 2: 0.5, 3: 0.5, 4: 0.4}) == 2
    assert best_epoch({3: 0.5, 2: 0.5}) == 2  # whatever the order
    assert best_epoch({1: 0.0}) == 1


def test_an_epoch_without_a_finite_score_is_never_the_best():
    assert best_epoch({1: None, 2: float("nan"), 3: 0.1, 4: float("inf")}) == 3
    assert best_epoch({1: None}) is None
    assert best_epoch({}) is None


class Run:
    """A trainer of three steps an epoch, whose one weight is the number of the epoch that was trained last."""

    def __init__(self, folder, start_iter=0, epochs=4):
        self.folder, self.epochs = folder, epochs
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.trainer = SimpleNamespace(
            iter=start_iter, start_iter=start_iter, max_iter=3 * epochs, iters_per_epoch=3, model=self.model
        )
        self.hook = KeepBest(folder, "val", "CIDEr", period=1)
        self.hook.trainer = self.trainer
        torch.nn.init.constant_(self.model.weight, start_iter // 3)
        self.hook.before_train()

    def score(self, epoch, cider):
        (self.folder / "results").mkdir(exist_ok=True)
        text = json.dumps({"scores": {"CIDEr": cider, "F1_all": 0.1}})
        (self.folder / "results" / f"val_epoch_{epoch}.json").write_text(text)

    def checkpoint(self, epoch):
        name = f"model_Epoch_{epoch:05d}_Iter_{3 * epoch - 1:07d}.pth"
        (self.folder / name).touch()
        (self.folder / "last_checkpoint").write_text(name)

    def train_epoch(self, epoch, cider):
        """Three steps with the host's hooks before ours: checkpoint, evaluation."""
        for self.trainer.iter in range(3 * epoch - 3, 3 * epoch):
            self.hook.before_step()
            if self.trainer.iter == 3 * epoch - 1:
                torch.nn.init.constant_(self.model.weight, epoch)
                self.checkpoint(epoch)
                if cider is not None:
                    self.score(epoch, cider)
            self.hook.after_step()

    def best(self):
        stored = torch.load(self.folder / "model_best.pth", weights_only=True)
        assert stored["epoch"] == stored["model"]["weight"].item()
        return stored["epoch"]


def test_the_weights_of_the_best_epoch_are_kept(tmp_path):
    run = Run(tmp_path)
    for epoch, cider, best in ((1, 0.3, 1), (2, 0.5, 2), (3, 0.5, 2), (4, 0.4, 2)):
        run.train_epoch(epoch, cider)
        assert run.best() == best
    record = json.loads((tmp_path / "best.json").read_text())
    assert record["best"] == 2 and record["metric"] == "val/CIDEr"
    assert {epoch: entry["iteration"] for epoch, entry in record["epochs"].items()} == {"1": 2, "2": 5, "3": 8, "4": 11}


def test_a_resumed_run_remembers_the_best_epoch_of_the_time_before(tmp_path):
    run = Run(tmp_path)
    run.train_epoch(1, 0.6)
    run.train_epoch(2, 0.5)
    resumed = Run(tmp_path, start_iter=6)
    resumed.train_epoch(3, 0.55)
    assert resumed.best() == 1
    resumed.train_epoch(4, 0.7)
    assert resumed.best() == 4


def test_an_epoch_that_was_scored_but_not_recorded_before_the_kill_is_recorded_at_the_next_step(tmp_path):
    run = Run(tmp_path)
    run.train_epoch(1, 0.3)
    run.checkpoint(2)
    run.score(2, 0.9)  # and then it was killed
    resumed = Run(tmp_path, start_iter=6)  # the weights are epoch 2's
    resumed.train_epoch(3, 0.4)
    assert resumed.best() == 2


def test_a_last_epoch_that_the_host_scores_after_training_counts(tmp_path):
    run = Run(tmp_path, start_iter=12)
    run.score(4, 0.9)
    run.trainer.iter = 12
    run.hook.after_train()
    assert run.best() == 4


def test_after_an_error_nothing_is_recorded(tmp_path):
    run = Run(tmp_path)
    run.train_epoch(1, 0.3)
    run.score(2, 0.9)
    run.trainer.iter = 5
    run.hook.after_train()
    assert run.best() == 1


def test_a_fresh_run_forgets_the_best_weights_of_an_earlier_one_in_its_folder(tmp_path):
    Run(tmp_path).train_epoch(1, 0.9)
    run = Run(tmp_path)
    assert not (tmp_path / "model_best.pth").exists()
    run.train_epoch(1, 0.1)
    assert json.loads((tmp_path / "best.json").read_text())["epochs"]["1"]["scores"]["CIDEr"] == 0.1


def test_a_results_file_of_an_epoch_that_is_not_evaluated_is_somebody_elses(tmp_path):
    run = Run(tmp_path)
    run.hook._period = 2
    run.score(1, 0.9)  # of an earlier run in this folder
    run.train_epoch(1, None)
    assert not (tmp_path / "best.json").exists()
    run.train_epoch(2, 0.2)
    assert run.best() == 2


def config(tmp_path, keep_best, val="Flickr30kEntitiesDataset"):
    class Node(dict):
        __getattr__ = dict.__getitem__

    return Node(
        SOLVER=Node(KEEP_BEST=keep_best, EVAL_PERIOD=1), DATASETS=Node(VAL=val, TEST=""), OUTPUT_DIR=str(tmp_path),
        MODEL=Node(DECODER="SSAttentionDecoder"),
        INFERENCE=Node(NAME="Flickr30kEntitiesEvaler", METRICS=["Bleu", "CIDEr", "test/SPICE", "F1"]),
    )  # fmt: skip


def test_the_hook_is_off_by_default_and_refuses_what_cannot_be_scored(tmp_path):
    assert best_hook(config(tmp_path, "")) is None
    assert isinstance(best_hook(config(tmp_path, "val/CIDEr")), KeepBest)
    with pytest.raises(UserError, match="expected a split and a score such as val/CIDEr, got 'CIDEr'"):
        best_hook(config(tmp_path, "CIDEr"))
    with pytest.raises(UserError, match="DATASETS.TEST is empty"):
        best_hook(config(tmp_path, "test/CIDEr"))


def test_a_score_that_no_epoch_will_have_is_refused_before_training(tmp_path):
    for name in ("Bleu_4", "greedy_CIDEr", "F1_loc", "F1_all_per_sentence"):
        best_hook(config(tmp_path, f"val/{name}"))
    for name in ("CIDErr", "METEOR", "SPICE", "attention_accuracy"):  # SPICE is asked for on test alone
        with pytest.raises(UserError, match=f"does not give {name} after every epoch; it gives Bleu_1, .*F1_all"):
            best_hook(config(tmp_path, f"val/{name}"))
    cfg = config(tmp_path, "val/attention_accuracy")
    cfg.INFERENCE["GT_ATTENTION"] = True
    best_hook(cfg)
    cfg = config(tmp_path, "val/whatever")
    cfg.INFERENCE["NAME"] = "SomebodysEvaler"
    best_hook(cfg)
