"""tools/gpu_check.py: its checks on a CPU at a tiny size, what it makes of failures, and its report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))

import gpu_check
from benchmarks import gpu_checks
from benchmarks.gpu_checks import CHECKS, Learner, Place, Skipped, Wrong, compare, outcome, within

from xmodaler_ssattn import host

embedded = pytest.mark.skipif(host.NAME == host.UPSTREAM, reason="the checks use the embedded runtime")
TINY = {
    "DATALOADER.SAMPLE_SCENES": 24, "DATALOADER.TRAIN_BATCH_SIZE": 8, "MODEL.VISUAL_EMBED.IN_DIM": 32,
    "MODEL.DECODER_DIM": 16,
}  # fmt: skip


@embedded
@pytest.mark.parametrize("name", ["cpu_and_device", "plain_and_fast", "bfloat16", "resident", "resume"])
def test_the_checks_pass_on_a_cpu(tmp_path, monkeypatch, name):
    monkeypatch.setattr(gpu_checks, "LEARNING_STEPS", 5)
    found = outcome(name, Place("cpu", tmp_path, settings=TINY))
    assert found["verdict"] == "passed", found["message"]
    if name in ("cpu_and_device", "resume"):  # one device, compared with itself
        assert set(found["numbers"].values()) == {0.0}
    if name == "bfloat16":
        assert 0 < found["numbers"]["loss"] < 0.02  # it really was bfloat16
    assert not list(tmp_path.iterdir())  # nothing stays


@embedded
def test_one_process_is_compared_with_itself_as_several_are(tmp_path):
    found = outcome("several_processes", Place("cpu", tmp_path, processes=1, settings=TINY))
    assert found["verdict"] == "passed", found["message"]
    assert found["numbers"]["steps"] >= 2 and found["numbers"]["largest difference of a loss"] == 0


@embedded
def test_a_faster_version_that_computes_something_else_fails(tmp_path, monkeypatch):
    original = Learner.loss
    monkeypatch.setattr(
        Learner, "loss", lambda self, samples: original(self, samples) * (1 + (self.model.fast_forcing is None) * 1e-3)
    )
    found = outcome("plain_and_fast", Place("cpu", tmp_path, settings=TINY))
    assert found["verdict"] == "FAILED" and "loss 0.000999, limit 1e-05" in found["message"]
    assert found["numbers"]["loss"] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("name", ["graphs", "waits"])
def test_what_needs_cuda_is_skipped_elsewhere(tmp_path, name):
    assert outcome(name, Place("cpu", tmp_path))["verdict"] == "skipped"


def test_every_error_is_a_failure_with_its_place(tmp_path):
    def broken(place):
        raise RuntimeError("called a synchronizing CUDA operation")

    found = outcome("broken", Place("cpu", tmp_path), {"broken": broken})
    assert found["verdict"] == "FAILED"
    assert "RuntimeError: called a synchronizing CUDA operation" in found["message"]
    assert f"tests/test_gpu_check.py:{broken.__code__.co_firstlineno + 1}" in found["message"]


def test_nan_is_above_every_limit():
    assert within({"loss": 0.1}, {"loss": 0.1}) == {"loss": 0.1}
    for value in (0.2, float("nan")):
        with pytest.raises(Wrong, match="loss"):
            within({"loss": value}, {"loss": 0.1})
    # 1 against 1.5; the largest gradient is 4 and differs by 1.
    one, other = (1.0, torch.tensor([1.0, -4.0])), (1.5, torch.tensor([1.0, -3.0]))
    assert compare(one, other) == {"loss": 0.5, "gradient": 0.25}


def report(**change):
    """Ours needs 0.02 s for 8 images, stock 0.12 s."""
    rows = {
        name: {"median": seconds, "ratio": 0.12 / seconds, "images_a_second": 8 / seconds, "peak_mib": 1500.0,
               "share_of_product_peak": 0.4}
        for name, seconds in (("stock", 0.12), ("ours", 0.02))
    }  # fmt: skip
    facts = {"gflops_float32": 50e3, "gflops_bfloat16": 800e3, "gigabytes_a_second": 2000.0}
    checks = [
        {"check": "plain_and_fast", "verdict": "passed", "numbers": {"loss": 1e-7}, "message": "", "seconds": 9.0},
        {"check": "graphs", "verdict": "skipped", "numbers": {}, "message": "no | CUDA", "seconds": 1.0},
    ]
    measured = {"machine": facts, "batch": 8, "step": rows, "decode": {"ours": {"median": 0.1, "ratio": 1.0}}}
    return {"machine": {"torch": "2", "GPUs": ["A", "B"]}, "checks": checks, "benchmark": measured} | change


def test_the_report_has_one_table_of_verdicts_and_one_of_times(tmp_path):
    assert gpu_check.write_report(report(), tmp_path / "new") == 0
    text = (tmp_path / "new" / "gpu_check.md").read_text()
    assert text.startswith("# GPU check: all checks passed") and "| GPUs | A; B |" in text
    assert (
        "| plain_and_fast | passed | loss 1e-07 | 9 s |" in text and r"| graphs | skipped | no \| CUDA | 1 s |" in text
    )
    # 0.02 s a step for 50 * 29,000 / 8 = 181,250 steps are 3,625 s, 1.01 h.
    assert "| ours | 50.00 | 400 | 6.00 x | 1,500 MiB | 1.01 h | 40% |" in text
    assert json.loads((tmp_path / "new" / "gpu_check.json").read_text()) == report()


def test_failures_are_shown_first_and_give_exit_code_1(tmp_path):
    failed = {"check": "waits", "verdict": "FAILED", "numbers": {}, "message": "a wait\nin a.py:3", "seconds": 1.0}
    assert gpu_check.write_report(report(checks=[failed], benchmark={"error": "no memory"}), tmp_path) == 1
    text = (tmp_path / "gpu_check.md").read_text()
    assert text.startswith("# GPU check: FAILED: waits, benchmark\n")
    assert "| waits | FAILED | a wait in a.py:3 | 1 s |" in text and "FAILED\n\n```\nno memory\n```" in text
    assert gpu_check.write_report(report(checks=[failed]), tmp_path) == 1


def test_a_process_that_dies_hangs_or_answers_is_a_check(tmp_path, monkeypatch):
    def ends(code, stdout):
        return lambda command, **_: subprocess.CompletedProcess(command, code, stdout, "Segmentation fault")

    def hangs(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    answer = {"check": "waits", "verdict": "passed", "numbers": {"waits": 0}, "message": ""}
    found = []
    for run in (ends(-11, "begin\n"), hangs, ends(0, f"noise\n{gpu_check.ANSWER}{json.dumps(answer)}\n")):
        monkeypatch.setattr(gpu_check.subprocess, "run", run)
        found.append(gpu_check.in_its_process("waits", tmp_path, 90.0))
    assert [each["verdict"] for each in found] == ["FAILED", "FAILED", "passed"]
    assert found[0]["message"] == "exit code -11: begin\nSegmentation fault"
    assert found[1]["message"] == "not finished in 90 s" and found[2].items() >= answer.items()
    monkeypatch.setattr(gpu_check.subprocess, "run", hangs)
    assert gpu_check.benchmark(tmp_path, 60.0) == {"error": "not finished in 60 s"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_it_says_so_and_exits_2(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and done.stdout.count("\n") == 1 and "no CUDA device" in done.stdout
    assert not (tmp_path / "out").exists()


def test_every_check_has_a_sentence():
    assert all(check.__doc__ and check.__doc__.count("\n") == 0 for check in CHECKS.values())
    assert issubclass(Skipped, Exception)
