"""Start a function in one process, or in several that train together."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing.connection
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from xmodaler_ssattn import stopping
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.processes import TIMEOUT, Place, joined

from . import comm

ENDING = 10.0  # seconds that the other processes have to end when one has failed; then again, after SIGTERM
SUSPENDED = 60.0  # seconds that a process may be suspended (SIGSTOP, a debugger) before all are ended


class ProcessFailed(RuntimeError):
    """A process of a run failed; the message has its number and its own error."""


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = TIMEOUT,
) -> None:
    """Call ``main_func(*args)``, once in each of ``num_gpus_per_machine * num_machines`` processes.

    Signals are passed on to the processes of this machine. When one of them fails, is killed or stays suspended, the
    others are ended, and the error is that of the one that failed first. When this process dies, they are told to stop
    (Linux; torch sees to it).

    With CUDA, each process has a GPU and uses NCCL; otherwise they use gloo. ``main_func`` must be a function of a
    module that the new processes can import; that module must import everything that registers classes.

    Args:
        dist_url: the processes' common address, e.g. "tcp://127.0.0.1:8686"; "auto" finds a free port (one machine).
        timeout: maximum time that a process waits for the others; must be longer than the longest evaluation.

    Raises:
        UserError: with the message of a process that raised it.
        ProcessFailed: another error.
        stopping.Stopped: the run was asked to stop, and has.
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
    errors = mp.get_context("spawn").SimpleQueue()
    place = Place(machine_rank * num_gpus_per_machine, world_size, 0, num_gpus_per_machine, dist_url or "env://")
    work = (main_func, place, args, timeout, errors)
    context = mp.spawn(_worker, nprocs=num_gpus_per_machine, args=work, join=False, daemon=False)
    assert context is not None  # because of join=False
    with stopping.passed_on_to(context.pids()):
        failed = _wait(context.processes)
    if failed:
        _raise_first(failed, errors)


def _wait(processes: Sequence[BaseProcess]) -> dict[int, str]:
    """Wait until all processes have ended; when one fails, end the others.

    Returns:
        process number -> how it ended, for those that failed by themselves.
    """
    suspended: dict[int, float] = {}
    failed: dict[int, str] = {}
    while True:
        alive = [process for process in processes if process.is_alive()]  # before the exit codes: one may end meanwhile
        for number, process in enumerate(processes):
            if process.exitcode:
                failed[number] = _how(process.exitcode)
            elif _is_suspended(process):
                since = suspended.setdefault(number, time.monotonic())
                if time.monotonic() - since > SUSPENDED:
                    failed[number] = f"was suspended for {SUSPENDED:.0f} s"
                    process.kill()
            else:
                suspended.pop(number, None)
        if failed or not alive:
            break
        multiprocessing.connection.wait([process.sentinel for process in alive], timeout=1.0)
    for end in (None, BaseProcess.terminate, BaseProcess.kill) if failed else ():
        alive = [process for process in processes if process.is_alive()]
        for process in alive if end is not None else ():
            end(process)
        deadline = time.monotonic() + ENDING
        for process in alive:
            process.join(max(0.0, deadline - time.monotonic()))
    return failed


def _how(exitcode: int) -> str:
    return f"was killed by {signal.Signals(-exitcode).name}" if exitcode < 0 else f"ended with exit code {exitcode}"


def _is_suspended(process: BaseProcess) -> bool:
    try:
        state = Path(f"/proc/{process.pid}/stat").read_bytes()
    except OSError:  # not Linux, or it has ended
        return False
    return state.rpartition(b")")[2].split()[:1] == [b"T"]


def _raise_first(failed: dict[int, str], errors: Any) -> None:
    """Raise the error of the process that failed first; the others' errors are mostly that they lost it."""
    told = []
    while not errors.empty():
        told.append(errors.get())
    signum = stopping.requested()
    if signum and {_how(128 + signum), _how(-signum)} & set(failed.values()):  # the second: before its training began
        raise stopping.Stopped(signum)
    killed = [number for number, how in failed.items() if not how.startswith("ended")]
    # A process that has lost another one may be aborted; that is no reason while an error was told.
    reasons = [number for number in killed if not (told and failed[number] == _how(-signal.SIGABRT))]
    if reasons or not told:
        number = min(reasons or failed)
        raise ProcessFailed(f"Process {number} {failed[number]}; all other processes of the run were ended.")
    _, rank, is_users, text = min(told)
    if is_users:
        raise UserError(text)
    aborted = "".join(f" Process {number} {failed[number]}." for number in killed)
    raise ProcessFailed(f"Process {rank} failed; all other processes of the run were ended.{aborted}\n{text}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _worker(local_rank: int, main_func: Callable, place: Place, args: tuple, timeout: timedelta, errors: Any) -> None:
    place = place._replace(rank=place.rank + local_rank, local_rank=local_rank)
    telling = functools.partial(_telling, errors, place.rank)
    with telling(), joined(place, comm, timeout), telling():  # told before the group ends, which makes the others fail
        main_func(*args)


@contextlib.contextmanager
def _telling(errors: Any, rank: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else traceback.format_exc()[-20_000:]
        errors.put((time.time(), rank, isinstance(error, UserError), text))
        raise SystemExit(1) from None
