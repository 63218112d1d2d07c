"""Processes of a run that another program has started: torchrun, or srun of SLURM. Works on both hosts.

Such a launcher starts ``xmodaler train`` once per process and gives each its rank in the environment, so that nothing
is started here. The first process prepares the run alone; the others wait for it. When torchrun starts a run
again after a failure, it continues from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist

from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.processes import Place

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST")
FIRST_PORT, PORTS = 20_000, 20_000  # of a SLURM job, by its number


def place_of(environ: Mapping[str, str]) -> Place | None:
    """The place that torchrun or srun states in the environment; None when neither has started this process.

    >>> ranks = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    >>> place_of({**ranks, "MASTER_ADDR": "a", "MASTER_PORT": "9"})
    Place(rank=3, size=4, local_rank=1, local_size=2, address='tcp://a:9', restarted=False)
    >>> place_of({}) is None
    True
    """
    # WORLD_SIZE 1 alone is often set in containers and means nothing.
    several = environ.get("WORLD_SIZE", "1") != "1"
    names = TORCHRUN if "WORLD_SIZE" in environ and ("RANK" in environ or several) else SLURM
    if names is TORCHRUN:
        values = _complete(environ, TORCHRUN, "torchrun")
        address = f"tcp://{values['MASTER_ADDR']}:{values['MASTER_PORT']}"
        local_size, restarts = values["LOCAL_WORLD_SIZE"], environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    elif environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        values = _complete(environ, SLURM, "srun")
        # "2(x3)" are three machines with two processes each, "n[03-05,9]" machines whose first one is n03.
        per_machine = set(re.sub(r"\(x\d+\)", "", values["SLURM_STEP_TASKS_PER_NODE"]).split(","))
        if len(per_machine) > 1:
            raise UserError(
                f"srun: SLURM_STEP_TASKS_PER_NODE is {values['SLURM_STEP_TASKS_PER_NODE']}; each machine needs the "
                "same number of processes (--ntasks-per-node)."
            )
        local_size, restarts = per_machine.pop(), environ.get("SLURM_RESTART_COUNT", "0")
        name = re.match(r"([^,\[]+)(?:\[(\d+))?", values["SLURM_STEP_NODELIST"])
        port = FIRST_PORT + _number(environ.get("SLURM_JOB_ID", "0"), "SLURM_JOB_ID") % PORTS
        address = f"tcp://{(name[1] + (name[2] or '')) if name else ''}:{port}"
    else:
        return None
    rank, size, local_rank = (_number(values[name], name) for name in names[:3])
    place = Place(rank, size, local_rank, _number(local_size, names[3]), address, _number(restarts, "restarts") > 0)
    if not (place.rank < place.size and place.local_size and place.size % place.local_size == 0):
        raise UserError(f"The launcher's variables contradict each other: {place}.")
    if place.rank % place.local_size != place.local_rank:
        raise UserError(
            f"The launcher gave process {rank} of {size} the number {local_rank} of {local_size} on its machine; the "
            "processes of a machine must follow one another (srun --distribution=block)."
        )
    return place


def _complete(environ: Mapping[str, str], names: tuple[str, ...], launcher: str) -> dict[str, str]:
    raise_all([f"{name} is not set" for name in names if not environ.get(name)], f"The environment of {launcher}")
    return {name: environ[name] for name in names}


def _number(text: str, name: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{name}: expected a whole number, got {text!r}.")
    return int(text)


@contextlib.contextmanager
def first_alone(place: Place | None) -> Iterator[None]:
    """The first process executes the block before the others; where it fails, the others end with code 2."""
    if place is None or place.size == 1:
        yield
    elif place.rank > 0:
        if not _told():
            raise SystemExit(2)
        yield
    else:
        good = False
        try:
            yield
            good = True
        finally:
            _told(good)


def _told(good: bool = False) -> bool:
    """Whether the first process has succeeded; it calls this with the answer, the others to wait for it."""
    answer = torch.tensor([int(good)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(answer, src=0)
    return bool(answer.item())
