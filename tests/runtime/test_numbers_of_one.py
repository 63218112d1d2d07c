"""Several processes give the numbers of one: losses and weights of a run, and the results file of an evaluation.

The processes' batches have different numbers of words, of images with boxes and of pairs, so that the mean of the
processes' own means would be another loss.
"""

import json

import pytest
import torch
from torch import nn

from runtime.numbers_of_one import LOSSES, train_and_evaluate
from runtime.toy_host import toy_config, toy_trainer
from xmodaler_ssattn import host, processes
from xmodaler_ssattn.runtime import launch
from xmodaler_ssattn.runtime.order import BatchesOfRank, SharedOrder
from xmodaler_ssattn.safe_load import safe_load

pytestmark = pytest.mark.skipif(host.NAME == host.UPSTREAM, reason="of the embedded runtime")
EPOCHS = 3
# They add the same number to the scores of all regions, which a softmax does not see while the ReLU is open: their
# gradient is rounding noise, which Adam divides by its own size.
WITHOUT_GRADIENT = {"decoder.ss_attention.w_c.bias", "decoder.ss_attention.w_p.bias"}


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {
        (line["iteration"], name): value for line in lines for name, value in line.items() if "loss" in name.lower()
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes need a GPU each")
def test_two_processes_train_and_evaluate_as_one(tmp_path):
    train_and_evaluate(str(tmp_path), "one", EPOCHS)
    results = tmp_path / "evaluated" / "results"
    of_one = {path.name: path.read_bytes() for path in results.iterdir()}
    results.rename(tmp_path / "results_of_one")
    launch(train_and_evaluate, 2, dist_url="auto", args=(str(tmp_path), "two", EPOCHS))

    for losses in LOSSES:
        one, two = (losses_of(tmp_path / f"{name}_{losses}") for name in ("one", "two"))
        assert len(one) >= 4 * 4 * EPOCHS and one.keys() == two.keys()  # total and three losses, 4 or more steps
        assert two == pytest.approx(one, rel=1e-5)
        weights, others = (
            safe_load(tmp_path / f"{name}_{losses}" / "model_final.pth")["model"] for name in ("one", "two")
        )
        for name in weights.keys() - WITHOUT_GRADIENT:
            torch.testing.assert_close(others[name], weights[name], rtol=1e-4, atol=1e-5)
    assert sorted(of_one) == ["test_eval.json", "val_eval.json"]
    assert {path.name: path.read_bytes() for path in results.iterdir()} == of_one
    assert len(json.loads(of_one["val_eval.json"])["images"]) > 2  # several batches


class Mean(nn.Module):
    """N / D of numbers that the test sets."""

    def __init__(self, total, count):
        super().__init__()
        self.total, self.count = total, count

    def forward(self, outputs):
        return {"mean": torch.tensor(self.total / self.count if self.count else 0.0)}

    def normaliser(self, outputs):
        return self.count


def test_the_mean_over_processes_is_the_quotient_of_the_sums(monkeypatch):
    """Two processes: 6 over 3 words (mean 2) and 1 over 1 word (mean 1), together 7/4 and not 3/2."""
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(processes.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(processes.dist, "all_reduce", lambda total: total.fill_(4.0))
    found = [processes.losses_over_processes([Mean(*of)], {})["mean"].item() for of in ((6.0, 3), (1.0, 1))]
    assert found == [3.0, 0.5]  # 2 * 3/4 * 2 and 2 * 1/4 * 1
    assert sum(found) / 2 == 7 / 4
    monkeypatch.setattr(processes.dist, "all_reduce", lambda total: None)  # nobody has a word
    assert processes.losses_over_processes([Mean(0.0, 0)], {})["mean"].item() == 0.0


def places(monkeypatch, processes_, make):
    """What each of the processes yields."""
    found = []
    for rank in range(processes_):
        monkeypatch.setattr("xmodaler_ssattn.runtime.comm.get_world_size", lambda: processes_)
        monkeypatch.setattr("xmodaler_ssattn.runtime.comm.get_rank", lambda rank=rank: rank)
        found.append(make())
    return found


def steps_of(monkeypatch, processes_, epoch, first_step=0):
    """The draws of each step of 4 images out of 14, in all processes together."""

    def make():
        monkeypatch.setattr("xmodaler_ssattn.runtime.comm.from_first", lambda number: 2**63 - 1)
        order = SharedOrder(14, 4 // processes_)
        order.set_epoch(epoch, first_step)
        drawn = list(order)
        assert len(order) == 12 // processes_ and len(list(order)) == len(order)  # the next epoch begins at its start
        return drawn

    ranks, size = places(monkeypatch, processes_, make), 4 // processes_
    return [[d for rank in ranks for d in rank[i : i + size]] for i in range(0, len(ranks[0]), size)]


@pytest.mark.parametrize("number", [2, 4])
def test_order_and_draws_do_not_depend_on_the_number_of_processes(monkeypatch, number):
    one = steps_of(monkeypatch, 1, epoch=1)
    assert steps_of(monkeypatch, number, epoch=1) == one != steps_of(monkeypatch, number, epoch=2)
    assert len({draw.index for step in one for draw in step}) == 12  # 3 steps, the last 2 images are left out
    assert len({draw.seed for step in one for draw in step}) == 12
    assert steps_of(monkeypatch, number, epoch=1, first_step=2) == one[2:]


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_the_batches_of_an_evaluation_are_those_of_one_process(monkeypatch, number):
    ranks = places(monkeypatch, number, lambda: list(BatchesOfRank(7, 2)))
    together = [ranks[i % number][i // number] for i in range(4)]
    assert together == [[0, 1], [2, 3], [4, 5], [6]]
    assert sum(map(len, ranks)) == 4  # with 7 processes, three have nothing to do


def test_a_run_that_ended_within_an_epoch_of_the_shared_order_continues_bit_for_bit(tmp_path):
    def trained(folder, resume):
        trainer = toy_trainer(
            toy_config(folder, "DATALOADER.GLOBAL_BATCH", True, "SOLVER.CHECKPOINT_STEPS", 3), resume=resume
        )
        seed = trainer._shared_order.seed
        trainer.train()
        return [parameter.tolist() for parameter in trainer.model.parameters()], seed

    through, seed = trained(tmp_path / "run", resume=False)
    (tmp_path / "run" / "last_checkpoint").write_text("model_Iter_0000002.pth")  # 3 of the 4 steps of epoch 0
    assert trained(tmp_path / "run", resume=True) == (through, seed)
