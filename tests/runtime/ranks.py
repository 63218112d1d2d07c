"""What a process of several does in the tests of their ends. In a file that a new process can import."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from runtime.toy_host import toy_config, toy_trainer
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.runtime import HookBase, comm, launch
from xmodaler_ssattn.stopping import polite_stops


def misbehave(folder: str, what: str) -> None:
    """Write the process's id; rank 1 then does ``what``, and rank 0 waits for it in vain."""
    rank = comm.get_rank()
    Path(folder, f"pid{rank}").write_text(str(os.getpid()))
    comm.synchronize()
    if rank == 1:
        if what == "users error":
            raise UserError("the disk of rank 1 is full")
        if what == "error":
            raise KeyError("rank 1 has lost something")
        os.kill(os.getpid(), {"killed": signal.SIGKILL, "suspended": signal.SIGSTOP}[what])
    comm.gather(rank)
    comm.synchronize()


class Slow(HookBase):
    def __init__(self, folder):
        self.folder = folder

    def after_step(self):
        Path(self.folder, f"pid{comm.get_rank()}").write_text(str(os.getpid()))
        time.sleep(0.1)


def train_slowly(folder: str, resume: bool, workers: int = 0) -> None:
    torch.set_num_threads(1)
    settings = {"SOLVER.EPOCH": 100 if not resume else 2, "DATALOADER.NUM_WORKERS": workers}
    opts = [word for pair in settings.items() for word in pair]
    trainer = toy_trainer(toy_config(Path(folder), *opts), resume=resume)
    if not resume:
        trainer.register_hooks([Slow(folder)])
    with polite_stops():
        trainer.train()


if __name__ == "__main__":
    with polite_stops():
        launch(train_slowly, int(sys.argv[2]), dist_url="auto", args=(sys.argv[1], False, int(sys.argv[3])))
