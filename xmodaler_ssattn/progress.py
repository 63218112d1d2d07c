"""Progress: a bar on a terminal, a few plain lines elsewhere, and a word about everything that takes longer."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from xmodaler_ssattn.errors import visible

T = TypeVar("T")

SECONDS_OF_SILENCE = 1.5
SECONDS_BETWEEN_LINES = 10.0
LARGE = 50 << 20  # bytes that take seconds to parse, in which no other thread can say so


def to_stderr(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def doing(what: str, size: int = 0, say: Callable[[str], None] = to_stderr) -> Iterator[None]:
    """Say what the block does, "Reading FILE ...", when it has taken longer than ``SECONDS_OF_SILENCE``.

    If ``size``, the bytes to be read or written, is at least ``LARGE``, it is said at once.
    """
    if size >= LARGE:
        say(f"{what} ...")
        yield
        return
    timer = threading.Timer(SECONDS_OF_SILENCE, say, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def progress(
    iterable: Iterable[T], total: int | None = None, desc: str = "", say: Callable[[str], None] = to_stderr
) -> Iterator[T]:
    """Iterate over ``iterable`` and report the progress.

    On a terminal this is tqdm's bar. Elsewhere ``say`` receives ``desc ...`` when the work is not short, then
    ``desc: done/total, seconds left`` at most every ten seconds, so that logs are short.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, total=total, desc=desc, dynamic_ncols=True, leave=False)
        return
    start = last = time.monotonic()
    with doing(desc, say=say):
        for done, item in enumerate(iterable, 1):
            yield item
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN_LINES:
                last = now
                left = f"/{total}, {(now - start) / done * (total - done):.0f} s left" if total else ""
                say(f"{desc}: {done}{left}")
