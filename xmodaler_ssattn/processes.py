"""Be one of the processes that train together, and compute with them what one process would compute."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = timedelta(minutes=30)  # that a process waits for the others; longer than the longest evaluation


class Place(NamedTuple):
    """The place of a process among those of its run."""

    rank: int
    size: int
    local_rank: int  # among the processes of this machine, whose ranks follow one another
    local_size: int
    address: str  # where the processes meet, "tcp://HOST:PORT"
    restarted: bool = False  # whether the launcher starts the run again after a failure


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


def images_per_step(cfg: Any, processes: int) -> int:
    """The images of one step in all processes together, see DATALOADER.GLOBAL_BATCH."""
    data = cfg.DATALOADER
    return data.TRAIN_BATCH_SIZE * (1 if data.get("GLOBAL_BATCH", False) else processes)


def losses_over_processes(losses: Iterable[nn.Module], outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The losses of this process's batch, whose mean over the processes is the loss of one process with all batches.

    In process r of R, a loss is a quotient L_r = N_r / D_r, such as a sum over words and their number; the method
    ``normaliser(outputs)`` of its module returns D_r, a number or a () tensor. Then

        sum_r N_r / sum_r D_r = 1/R sum_r w_r L_r,   w_r = R D_r / sum_s D_s

    and the mean over processes is what DistributedDataParallel makes of the gradients. A loss without ``normaliser``
    keeps w_r = 1, as all losses do in X-modaler: each process then counts the same, whatever its number of words.

    Returns:
        {name: w_r L_r}; with one process, what the losses return.
    """
    found = [(loss, loss(outputs)) for loss in losses]
    together = {name: value for _, values in found for name, value in values.items()}
    stated = [(loss, values) for loss, values in found if values and hasattr(loss, "normaliser")]
    if not stated or not dist.is_initialized() or dist.get_world_size() == 1:
        return together
    like = next(iter(stated[0][1].values())).detach().float()
    # A number becomes a tensor by a fill, which does not wait for the device.
    counts = [loss.normaliser(outputs) for loss, _ in stated]
    own = torch.stack([c.float() if isinstance(c, Tensor) else like.new_full((), c) for c in counts])
    total = own.clone()
    dist.all_reduce(total)
    weights = dist.get_world_size() * own / total.clamp_min(torch.finfo(own.dtype).tiny)
    for (_, values), weight in zip(stated, weights.unbind(), strict=True):
        together |= {name: weight * value for name, value in values.items()}
    return together
