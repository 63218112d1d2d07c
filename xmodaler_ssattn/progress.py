"""Progress: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def progress(
    iterable: Iterable[T], total: int | None = None, desc: str = "", say: Callable[[str], None] = to_stderr
) -> Iterator[T]:
    """Iterate over ``iterable`` and report the progress.

    On a terminal this is tqdm's bar. Elsewhere ``say`` receives ``desc: done/total, seconds left`` at most every ten
    seconds, so that logs are short; short work is not reported.
    """
    if total is None and isinstance(iterable, Sized):
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
            left = f"/{total}, {(now - start) / done * (total - done):.0f} s left" if total else ""
            say(f"{desc}: {done}{left}")
