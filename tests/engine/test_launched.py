"""Runs that torchrun or srun starts: places from the environment; two processes of torchrun train one model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xmodaler_ssattn import host
from xmodaler_ssattn.engine.launched import first_alone, place_of
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.processes import Place, joined
from xmodaler_ssattn.safe_load import safe_load

ROOT = Path(__file__).parents[2]
SRUN = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    "SLURM_STEP_NODELIST": "node[03-05]", "SLURM_JOB_ID": "20007",
}  # fmt: skip
SETTINGS = {
    "DATALOADER.SAMPLE_SCENES": 24, "DATALOADER.TRAIN_BATCH_SIZE": 4, "MODEL.VISUAL_EMBED.IN_DIM": 32,
    "MODEL.DECODER_DIM": 16, "SOLVER.EPOCH": 2, "SOLVER.EVAL_PERIOD": 2, "SOLVER.WRITE_PERIOD": 1,
    "INFERENCE.METRICS": "['F1']", "INFERENCE.FINAL_METRICS": "[]", "DECODE_STRATEGY.BEAM_SIZE": 1,
}  # fmt: skip


def test_srun_states_the_place():
    # Third machine, second process: rank 2 * 2 + 1; machine 0 is node03; port 20000 + 20007 mod 20000.
    assert place_of(SRUN) == Place(5, 6, 1, 2, "tcp://node03:20007")
    assert place_of({**SRUN, "SLURM_STEP_NODELIST": "gpu-1,gpu-2"}).address == "tcp://gpu-1:20007"
    assert place_of({**SRUN, "SLURM_RESTART_COUNT": "2"}).restarted


@pytest.mark.parametrize(
    "environ", [{}, {"RANK": "3"}, {"WORLD_SIZE": "1"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}]
)
def test_a_process_that_nobody_launched_has_no_place(environ):
    assert place_of(environ) is None  # the last: the script of a SLURM job, not a step of srun


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_LOCALID": ""}, "SLURM_LOCALID is not set"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1"}, "needs the same number of processes"),
        ({"SLURM_PROCID": "6"}, "contradict each other"),
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID: expected a whole number, got 'x'"),
        ({"SLURM_PROCID": "4"}, "must follow one another"),
    ],
)
def test_an_environment_that_cannot_be_right_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        place_of({**SRUN, **change})


def test_all_missing_variables_of_torchrun_are_named():
    with pytest.raises(UserError, match="RANK is not set"):
        place_of({"WORLD_SIZE": "2"})
    with pytest.raises(UserError, match=r"(?s)2 problems.*LOCAL_RANK is not set.*MASTER_PORT is not set"):
        place_of({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a"})


def test_alone_nothing_is_joined_and_nobody_waits():
    for place in (None, Place(0, 1, 0, 1, "tcp://nowhere:1")):
        with joined(place, host.comm), first_alone(place):
            assert not torch.distributed.is_initialized()


def torchrun(folder, *program):
    settings = {**SETTINGS, "OUTPUT_DIR": folder / "run"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *program, "train"]
    command += ["--config-file", str(ROOT / "configs/sample/ss_attn.yaml"), "--data", str(folder / "data")]
    command += [str(word) for pair in settings.items() for word in pair]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=folder, timeout=300)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA the processes need a GPU each")
@pytest.mark.skipif(host.NAME == host.UPSTREAM, reason="X-modaler's processes need GPUs")
def test_two_processes_of_torchrun_train_one_model_in_one_folder(tmp_path):
    done = torchrun(tmp_path, str(ROOT / "tests" / "engine" / "weights_of_ranks.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    assert "Process 1 of 2" in (run / "log.txt.rank1").read_text()
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    iterations = [line["iteration"] for line in lines if "total_loss" in line]
    assert iterations == sorted(set(iterations))  # written by one process
    stored = safe_load(run / "model_final.pth")
    assert len(stored["trainer"]["random_states"]) == 2
    assert (tmp_path / "rank0").read_text() == (tmp_path / "rank1").read_text()  # the weights, bit for bit
    # A second run over the folder is refused by the first process; the second one ends silently.
    again = torchrun(tmp_path, "-m", "xmodaler_ssattn")
    assert again.returncode != 0
    assert again.stderr.count("holds a run already") == 1 and again.stderr.count("xmodaler: error") == 1
