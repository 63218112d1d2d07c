"""Ranks of the processes of a run, and small exchanges between them. With one process, everything is a no-op."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None
"""The processes of this machine; ``launch`` sets it."""


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if _running() else 1


def get_rank() -> int:
    """This process among all, from 0."""
    return dist.get_rank() if _running() else 0


def get_local_rank() -> int:
    """This process among those of its machine, from 0."""
    return dist.get_rank(group=_LOCAL_PROCESS_GROUP) if _running() else 0


def is_main_process() -> bool:
    """Whether this process writes the files and evaluates."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has called this function."""
    if get_world_size() > 1:
        dist.barrier()


@functools.lru_cache
def _cpu_group() -> dist.ProcessGroup:
    """A group of all processes for exchanging plain values; NCCL itself moves CUDA tensors only."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """``data`` of every process by rank in process ``dst``; an empty list in the others."""
    if get_world_size() == 1:
        return [data]
    group = group or _cpu_group()
    gathered: list[Any] | None = [None] * dist.get_world_size(group) if dist.get_rank(group) == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def largest(*numbers: int) -> tuple[int, ...]:
    """The largest of each number over all processes, in every process."""
    if get_world_size() == 1:
        return numbers
    together = torch.tensor(numbers)
    dist.all_reduce(together, dist.ReduceOp.MAX, group=_cpu_group())
    return tuple(together.tolist())


def from_first(number: int) -> int:
    """``number`` of the first process, in every process."""
    if get_world_size() == 1:
        return number
    told = torch.tensor(number)
    dist.broadcast(told, src=0, group=_cpu_group())
    return int(told)


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper of distributed training."""
    return model.module if isinstance(model, (DistributedDataParallel, DataParallel)) else model
