"""Be one of the processes that train together."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist

TIMEOUT = timedelta(minutes=30)
"""Maximum time that a process waits for the others; longer than the longest evaluation."""


class Place(NamedTuple):
    """The place of a process among those of its run.

    Attributes:
        rank, size: among all processes.
        local_rank, local_size: among those of this machine; the ranks of a machine follow one another.
        address: where the processes meet, "tcp://HOST:PORT".
        restarted: whether the launcher starts the run again after a failure.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    restarted: bool = False


@contextlib.contextmanager
def joined(place: Place | None, comm: ModuleType, timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """Be one of the run's processes until the end of the block; nothing without a place, or alone.

    With CUDA, the process has the GPU of its local rank and uses NCCL; otherwise it uses gloo.

    Args:
        comm: the host's module; it is given the group of this machine's processes.
    """
    if place is None or place.size == 1:
        yield
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(place.local_rank)
    try:
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            init_method=place.address,
            world_size=place.size,
            rank=place.rank,
            timeout=timeout,
        )
        comm.synchronize()
        # Every process takes part in making every group, also those of other machines.
        for first in range(0, place.size, place.local_size):
            group = dist.new_group(list(range(first, first + place.local_size)))
            if first <= place.rank < first + place.local_size:
                comm._LOCAL_PROCESS_GROUP = group
        yield
        gc.collect()
        comm.synchronize()  # no process may end while another one still communicates with it
    except BaseException as error:
        unwound: BaseException | None = error
        while unwound is not None:
            traceback.clear_frames(unwound.__traceback__)  # they hold the model
            unwound = unwound.__context__
        raise
    finally:
        # The last references to groups and to a model that communicates. A group's threads would otherwise live on
        # and abort the process when Python ends.
        comm._LOCAL_PROCESS_GROUP = group = None
        for cached in vars(comm).values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()
        gc.collect()
        if dist.is_initialized():
            dist.destroy_process_group()
