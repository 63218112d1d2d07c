"""Progress for people: a bar on a terminal, now and then a plain line anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# Lines in a log file are read later, not watched: one in ten seconds is enough.
SECONDS_BETWEEN_LINES = 10.0


def progress(iterable: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterate over ``iterable`` and report how far it got on stderr.

    On a terminal this is tqdm's bar. Elsewhere it prints ``desc: done/total (seconds left)`` at most
    every ten seconds, so that logs stay short, and nothing at all for short work.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, total=total, desc=desc, dynamic_ncols=True, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = f", {(now - start) / done * (total - done):.0f} s left" if total else ""
            print(f"{desc}: {done}{f'/{total}' if total else ''}{left}", file=sys.stderr, flush=True)
