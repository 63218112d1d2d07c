"""Start a function in one process, or in several that train together."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from . import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call ``main_func(*args)``, once in each of ``num_gpus_per_machine * num_machines`` processes.

    With CUDA, each process has a GPU and uses NCCL; otherwise they are CPU processes that use gloo.
    ``main_func`` must be a function of a module that the new processes can import; that module must import
    everything that registers classes.

    Args:
        dist_url: the processes' common address, e.g. "tcp://127.0.0.1:8686"; "auto" finds a free port (one machine).
        timeout: maximum time that a process waits for the others; must be longer than the longest evaluation.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines > 1:
            raise ValueError("dist_url 'auto' works on one machine only; give tcp://HOST:PORT of machine 0.")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    if torch.cuda.is_available() and num_gpus_per_machine > torch.cuda.device_count():
        raise ValueError(f"{num_gpus_per_machine} GPUs were requested, this machine has {torch.cuda.device_count()}.")
    work = (main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout)
    mp.spawn(_worker, nprocs=num_gpus_per_machine, args=work, daemon=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        backend="nccl" if on_cuda else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * per_machine + local_rank,
        timeout=timeout,
    )
    try:
        comm.synchronize()
        # Every process takes part in making every group, also those of other machines.
        for machine in range(world_size // per_machine):
            group = dist.new_group(list(range(machine * per_machine, (machine + 1) * per_machine)))
            if machine == machine_rank:
                comm._LOCAL_PROCESS_GROUP = group
        main_func(*args)
        # A model in a reference cycle would end its communication threads after their group, which sometimes aborts the
        # process; and no process may end while another one still communicates with it.
        gc.collect()
        comm.synchronize()
    finally:
        dist.destroy_process_group()
