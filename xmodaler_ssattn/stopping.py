"""Polite stops: a signal asks the run to stop, and the run stops after its step, with a checkpoint.

SIGTERM (schedulers), SIGHUP (a closed terminal) and SIGINT (Ctrl-C) are noted; the training loop looks at ``requested``
after each step. A second signal, after ``SAME`` seconds, ends the process at once, and so does the first one after
``GRACE`` seconds, so that a process that waits for others in vain does not live on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))
GRACE = 120.0
"""Seconds from a signal to the end of the process at the latest."""
SAME = 1.0
"""Seconds in which further signals are the same request. One request often arrives more than once: a terminal sends
Ctrl-C to all processes of a run, whose launcher passes its own one on, and Linux tells the death of a parent once for
each of its threads."""


class Stopped(SystemExit):
    """A run that was asked to stop has stopped; the exit code is 128 + the signal's number, as in a shell.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class _State:
    owner = 0  # the process that notes signals; its forks have the same handlers
    requested = 0
    since = 0.0  # time.monotonic() of the request
    at_once = False
    children: tuple[int, ...] = ()
    deadline: threading.Timer | None = None


_state = _State()


def requested() -> int:
    """The number of the signal that asked this process to stop; 0 for none."""
    return _state.requested


@contextlib.contextmanager
def polite_stops() -> Iterator[None]:
    """Note the ``SIGNALS`` instead of ending; the handlers before are restored at the end.

    Outside of the main thread, where Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.owner = os.getpid()
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    try:
        yield
    finally:
        _state.requested = 0
        if _state.deadline is not None:
            _state.deadline.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """For work that is repeated when the run is resumed: a signal raises ``Stopped`` immediately.

    Raises:
        Stopped: at any place in the block, or at its beginning when the signal came before.
    """
    before, _state.at_once = _state.at_once, True
    try:
        if _state.requested:
            raise Stopped(_state.requested)
        yield
    finally:
        _state.at_once = before


@contextlib.contextmanager
def starting_a_pool() -> Iterator[None]:
    """Let SIGTERM wait in processes that the block starts until they call ``ended_by_its_pool``.

    Python forgets a signal that a fork receives in its first moments, and the pool would wait for that process forever.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ended_by_its_pool() -> None:
    """Let SIGTERM end a process of a pool: a fork has the handlers of its parent, which may only note it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def left_to_its_parent() -> None:
    """For a process that loads data: only its parent's SIGTERM ends it, as schedulers signal all processes of a run.

    The parent needs this process until the end of its step. Where the sender of a signal cannot be known (macOS),
    SIGTERM ends this process.
    """
    parent = multiprocessing.parent_process()
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if parent is None or not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # threads that are started later inherit it

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def passed_on_to(pids: Iterable[int]) -> Iterator[None]:
    """Also send each noted signal to these processes."""
    _state.children = tuple(pids)
    try:
        yield
    finally:
        _state.children = ()


def _note(number: int, frame: object) -> None:
    if os.getpid() != _state.owner:  # a fork that has not set its own handlers yet; its parent can end it at any time
        if number == signal.SIGTERM:
            os._exit(128 + number)
        return
    if _state.requested:
        if time.monotonic() - _state.since < SAME:
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    _state.requested, _state.since = number, time.monotonic()
    for pid in _state.children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    # Not by print or logging: the signal may have interrupted one of these.
    name = signal.Signals(number).name
    later = "this run stops after the present step and saves it; another signal ends it now"
    with contextlib.suppress(OSError):  # when nobody reads it any more
        os.write(2, f"\n{name}: {'the run ends' if _state.at_once else later}.\n".encode())
    _state.deadline = threading.Timer(GRACE, os._exit, [128 + number])
    _state.deadline.daemon = True
    _state.deadline.start()
    if _state.at_once:
        raise Stopped(number)
