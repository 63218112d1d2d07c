"""What the benchmarks count: operations of products and bytes of operators, on numbers that a person can check."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "tools"))
import benchmark
import benchmark_precision
from benchmarks import measures


def test_products_count_two_operations_a_number_in_custom_backward_passes_too():
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx, grad):
            x, w = ctx.saved_tensors
            return grad @ w.t(), x.t() @ grad

    x, w = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    # forward 3 x 5 x 7 products and sums, each gradient as many
    counted = measures.work_of(lambda: Product.apply(x, w).sum().backward())["gflop"] * 1e9
    assert counted == pytest.approx(3 * 2 * 3 * 5 * 7)
    # into an existing matrix, and a matrix times a vector, which torch's counter leaves out
    into = torch.zeros(3, 7)
    assert measures.work_of(lambda: into.addmm_(x.detach(), w.detach()))["gflop"] * 1e9 == pytest.approx(2 * 3 * 5 * 7)
    assert measures.work_of(lambda: x.detach() @ torch.ones(5))["gflop"] * 1e9 == pytest.approx(2 * 3 * 5)


@pytest.mark.parametrize(
    ("work", "numbers"),
    [
        (lambda x, y: x + y, 3),  # two read, one written
        (lambda x, y: x.add_(y), 3),
        (lambda x, y: torch.add(x, y, out=torch.empty(100)), 3),
        (lambda x, y: x.view(10, 10).t()[2:], 0),
        (lambda x, y: torch.empty(100), 0),
        (lambda x, y: x.clone(), 2),
        (lambda x, y: x.index_select(0, torch.arange(0)), 0),
    ],
)
def test_traffic_is_what_operators_read_and_write(work, numbers):
    x, y = torch.zeros(100), torch.ones(100)
    assert measures.work_of(lambda: work(x, y))["gigabytes"] * 1e9 == pytest.approx(numbers * 400)


def test_a_gather_reads_what_it_gives_and_not_the_whole_table():
    x, index = torch.zeros(1000, 10), torch.arange(5)
    assert measures.work_of(lambda: x[index])["gigabytes"] * 1e9 == pytest.approx(2 * 5 * 10 * 4)


def test_the_ratio_of_pairs_is_their_median_with_an_interval_around_it(capsys):
    found = measures.paired_ratio({"one": [1.0, 2.0, 4.0] * 10, "other": [1.1, 2.2, 4.4] * 10})
    assert found["median"] == pytest.approx(1.1) and found["low"] == pytest.approx(found["high"])


def grow(monkeypatch, memory, seconds, budget, patience):
    """The doubling search on a made-up machine: functions of the number of images."""
    tried = []

    class Made:
        args = type("Args", (), {"patience": patience})

        def _at(self, name, images, options):
            tried.append(images)
            peak = memory(images)
            return None if peak is None else {"seconds": seconds(images), "images_a_second": 1.0, "peak_mib": peak}

    return benchmark.Benchmark._grow(Made(), "made up", budget, {}), tried


def test_the_search_doubles_while_the_next_size_is_foretold_to_fit(monkeypatch, capsys):
    # 1000 MiB and 10 an image: 8 -> 1080, 16 -> 1160, 32 -> 1320, 64 -> 1640, 128 -> 2280, 256 -> 3560
    found, tried = grow(monkeypatch, lambda n: 1000 + 10 * n, lambda n: 0.0, 2300, 30)
    assert (found["largest"], found["stopped_by"]) == (128, "memory") and tried == [8, 16, 32, 64, 128]


def test_the_search_stops_at_a_size_that_failed_and_at_steps_that_take_too_long(monkeypatch, capsys):
    found, tried = grow(monkeypatch, lambda n: None if n > 32 else 1000, lambda n: 0.0, 9e9, 30)
    assert (found["largest"], found["stopped_by"]) == (32, "memory") and tried[-1] == 64
    # a step of 64 images takes 16 s, one of 128 would take 32
    found, _ = grow(monkeypatch, lambda n: 1000, lambda n: n / 4, 9e9, 30)
    assert (found["largest"], found["stopped_by"]) == (64, "patience")
    found, _ = grow(monkeypatch, lambda n: None, lambda n: 0.0, 9e9, 30)
    assert found == {"stopped_by": "memory"}


def test_two_precisions_are_compared_by_their_means_and_the_spread_over_seeds(tmp_path):
    # means 0.50 and 0.48; deviations over the seeds 0.1 and 0.02
    found = benchmark_precision.compare({"float32": [0.4, 0.5, 0.6], "bfloat16": [0.46, 0.48, 0.5]})
    assert found["difference"] == pytest.approx(-0.02) and found["deviation_over_seeds"] == pytest.approx(0.1)
    assert found["within_seeds"] and found["paired"] == pytest.approx([0.06, -0.02, -0.1])
    found = benchmark_precision.compare({"float32": [0.50, 0.51], "bfloat16": [0.40, 0.41]})
    assert not found["within_seeds"]


def test_the_last_value_of_a_score_counts_and_a_score_that_is_not_there_is_said(tmp_path):
    lines = [{"iteration": 1, "test/CIDEr": 0.1}, {"iteration": 2, "test/CIDEr": 0.3}, {"iteration": 3, "loss": 1.0}]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert benchmark_precision.last_score(tmp_path, "test/CIDEr") == 0.3
    with pytest.raises(SystemExit, match="has no val/CIDEr; it has test/CIDEr"):
        benchmark_precision.last_score(tmp_path, "val/CIDEr")
