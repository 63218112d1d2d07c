"""One run, one folder: two runs never write into the same OUTPUT_DIR, and a new run never mixes with an old one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from xmodaler_ssattn import stopping
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import atomic_path
from xmodaler_ssattn.host import HookBase

LOCK = ".running"
# Files of a run that has something to lose.
TRACES = ("last_checkpoint", "model_final.pth", "best.json")
METRICS = "metrics.json"


class EndWhenAsked(HookBase):
    """Ends a run after the step in which a signal came, for upstream's trainer; the embedded one saves and ends."""

    def after_step(self) -> None:
        if signum := stopping.requested():
            name = signal.Signals(signum).name
            logging.getLogger(__name__).info("Stopped by %s; --resume continues from the last epoch.", name)
            raise stopping.Stopped(signum)


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, or refuse; the system releases it when the process ends, in whatever way."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"OUTPUT_DIR {folder} is in use by another run ({file.read().strip() or 'which has just begun'}). Wait "
                "for its end, or give another OUTPUT_DIR."
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {started}\n")
        file.flush()
        yield


def make_room(folder: Path, *, move_aside: bool) -> Path | None:
    """Before a new run: refuse a folder with a run in it, or move that run aside and return its new folder."""
    traces = [name for name in TRACES if (folder / name).exists()]
    if not traces:
        return None
    if not move_aside:
        raise UserError(
            f"OUTPUT_DIR {folder} holds a run already ({', '.join(traces)}). --resume continues it, --move-aside "
            "renames its folder and starts a new run, or give another OUTPUT_DIR."
        )
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    os.rename(folder, target)
    return target


def cut_metrics(folder: Path, iteration: int) -> None:
    """Remove the lines of metrics.json from ``iteration`` on, which the resumed run writes again, and a broken line."""
    path = folder / METRICS
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            if json.loads(line)["iteration"] < iteration:
                kept.append(line + b"\n")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(kept))
