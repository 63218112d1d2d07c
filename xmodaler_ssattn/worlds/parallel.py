"""Generate images in several processes; the result does not depend on their number."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from xmodaler_ssattn.stopping import ended_by_its_pool, starting_a_pool

T = TypeVar("T")
_make: Callable[[Any], Any] | None = None  # set in a worker


def map_in_processes(make: Callable[[Any], T], items: Sequence[Any], workers: int) -> Iterator[T]:
    """``make(item)`` for each item, in order, in so many processes; 1: only this one.

    ``make`` must be picklable, for systems without fork: a function of a module, or a partial of one.
    """
    if min(workers, len(items)) <= 1:
        yield from map(make, items)
        return
    # A fork starts quickly and shares the data of `make`; it is safe only on Linux.
    method = "fork" if sys.platform == "linux" else "spawn"
    with starting_a_pool():
        pool = multiprocessing.get_context(method).Pool(min(workers, len(items)), _set_make, (make,))
    with pool:
        yield from pool.imap(_call_make, items, chunksize=4)


def _set_make(make: Callable[[Any], Any]) -> None:
    global _make
    ended_by_its_pool()
    _make = make


def _call_make(item: Any) -> Any:
    assert _make is not None
    return _make(item)
