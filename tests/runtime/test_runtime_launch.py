"""Two processes on a CPU: they train one model, and resuming gives every process its own random state back."""

import json

import pytest
import torch

from runtime.two_processes import train_in_two_processes
from xmodaler_ssattn.runtime import comm, launch


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
