"""Two processes on a CPU: they train one model, and resuming gives every process its own random state back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import runtime.ranks
from runtime.ranks import misbehave
from runtime.two_processes import train_in_two_processes
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.runtime import comm, launch
from xmodaler_ssattn.runtime.launch import ProcessFailed


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes need a GPU each")
def test_two_processes_train_one_model_and_resume_bit_for_bit(tmp_path):
    launch(train_in_two_processes, 2, dist_url="auto", args=(str(tmp_path),))
    zero, one = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    for run in zero:
        assert zero[run]["weights"] == one[run]["weights"]
    assert zero["through 3"]["random"] != one["through 3"]["random"]  # SEED + rank
    assert zero["through 3"]["steps"] == 2  # 13 images: 7 a process, 3 a batch
    assert zero["through 3"]["shuffle"] == zero["parts 3"]["shuffle"] == 2  # the third epoch's order
    for rank in (zero, one):
        assert rank["parts 3"]["weights"] == rank["through 3"]["weights"]
        assert rank["parts 3"]["random"] == rank["through 3"]["random"]
    assert zero["parts 2"]["losses"] + zero["parts 3"]["losses"] == zero["through 3"]["losses"]
    assert (tmp_path / "through" / "log.txt.rank1").exists()


def test_with_one_process_every_exchange_is_a_no_op():
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank()) == (1, 0, 0)
    assert comm.is_main_process() and comm.gather(3) == [3]
    comm.synchronize()
    linear = torch.nn.Linear(1, 1)
    assert comm.unwrap_model(linear) is linear
    assert comm.unwrap_model(torch.nn.DataParallel(linear)) is linear


def test_one_process_is_a_plain_call():
    calls = []
    launch(lambda *args: calls.append(args), 1, args=(1, 2))
    assert calls == [(1, 2)]
    with pytest.raises(ValueError, match="one machine only"):
        launch(print, 2, num_machines=2, dist_url="auto")


# --- how several processes end ----------------------------------------------------------------------------


def assert_all_ended(folder, processes=2, within=40.0):
    pids = [int((folder / f"pid{rank}").read_text()) for rank in range(processes)]
    deadline = time.monotonic() + within
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists() and state_of(pid) != "Z"]:
        assert time.monotonic() < deadline, f"{alive} are still there"
        time.sleep(0.2)


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes need a GPU each")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the states of processes from /proc")
@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("users error", UserError, "^the disk of rank 1 is full$"),
        ("error", ProcessFailed, "(?s)Process 1 failed.*rank 1 has lost something"),
        ("killed", ProcessFailed, "Process 1 was killed by SIGKILL; all other processes"),
        ("suspended", ProcessFailed, "Process 1 was suspended for 1 s"),
    ],
)
def test_the_error_is_that_of_the_process_that_failed_and_no_process_stays(tmp_path, monkeypatch, what, error, message):
    module = sys.modules["xmodaler_ssattn.runtime.launch"]  # the package has the function under this name
    monkeypatch.setattr(module, "SUSPENDED", 1.0)
    monkeypatch.setattr(module, "ENDING", 2.0)
    with pytest.raises(error, match=message):
        launch(misbehave, 2, dist_url="auto", args=(str(tmp_path), what))
    assert_all_ended(tmp_path)


class EndsAfterALook:
    """A process that is alive until its exit code has been asked for once."""

    pid, sentinel, looks = 0, None, 0

    def is_alive(self):
        return self.looks == 0

    @property
    def exitcode(self):
        self.looks += 1
        return None if self.looks == 1 else 1


def test_processes_that_end_between_two_looks_are_noticed(monkeypatch):
    module = sys.modules["xmodaler_ssattn.runtime.launch"]
    monkeypatch.setattr(module.multiprocessing.connection, "wait", lambda sentinels, timeout: [])
    assert module._wait([EndsAfterALook(), EndsAfterALook()]) == {
        0: "ended with exit code 1",
        1: "ended with exit code 1",
    }


@pytest.mark.parametrize(
    ("failed", "told", "message"),
    [
        # The process that is aborted has lost the one that told its error; a kill is nobody's consequence.
        (
            {0: "was killed by SIGABRT", 1: "ended with exit code 1"},
            [(5, 1, False, "lost")],
            r"1 failed.*0 was.*ABRT.*\nlost",
        ),
        ({0: "was killed by SIGABRT"}, [], "Process 0 was killed by SIGABRT"),
        ({0: "was killed by SIGKILL", 1: "ended with exit code 1"}, [(5, 1, False, "lost")], "0 was killed by SIGKILL"),
        (
            {0: "ended with exit code 1", 1: "ended with exit code 1"},
            [(5, 1, False, "b"), (6, 0, False, "a")],
            "1 failed.*b$",
        ),
        ({1: "ended with exit code 3"}, [], "Process 1 ended with exit code 3"),
    ],
)
def test_the_reason_is_the_first_error_or_the_killed_process(failed, told, message):
    class Errors:
        empty = staticmethod(lambda: not told)
        get = staticmethod(lambda: told.pop())

    with pytest.raises(ProcessFailed, match=f"(?s){message}"):
        sys.modules["xmodaler_ssattn.runtime.launch"]._raise_first(failed, Errors)


def send_to_parent(number, parent):
    parent.send_signal(number)


def send_to_all(number, parent):
    """As a terminal does at Ctrl-C; the parent passes its own one on, so that each process receives two."""
    os.killpg(parent.pid, number)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes need a GPU each")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the death of a parent is noticed on Linux")
@pytest.mark.parametrize(
    ("number", "send", "processes", "workers"),
    [
        (signal.SIGTERM, send_to_parent, 2, 0),
        (signal.SIGKILL, send_to_parent, 2, 0),
        (signal.SIGINT, send_to_all, 2, 0),
        (signal.SIGTERM, send_to_all, 1, 2),  # as SLURM, also to the processes that load data
    ],
)
def test_when_the_parent_is_stopped_or_dies_all_processes_save_and_end(tmp_path, number, send, processes, workers):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, runtime.ranks.__file__, str(tmp_path), str(processes), str(workers)]
    said = tmp_path / "stderr.txt"
    with (
        said.open("w") as stderr,
        subprocess.Popen(command, env=env, stderr=stderr, start_new_session=True) as parent,
    ):
        while not (tmp_path / f"pid{processes - 1}").exists():
            assert parent.poll() is None, said.read_text()
            time.sleep(0.1)
        time.sleep(0.5)
        send(number, parent)
        assert parent.wait(60) == (-number if number == signal.SIGKILL else 128 + number), said.read_text()
    assert_all_ended(tmp_path, processes)
    name = (tmp_path / "last_checkpoint").read_text()
    log = (tmp_path / "log.txt").read_text()
    assert f"Stopped by {'SIGTERM' if number == signal.SIGTERM else 'SIGINT'} after" in log, said.read_text()
    stored = torch.load(tmp_path / name, weights_only=True)
    assert stored["iteration"] == stored["trainer"]["iteration"] > 0
    assert len(stored["trainer"]["random_states"]) == processes
