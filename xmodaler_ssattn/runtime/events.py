"""``EventStorage``: the scalars of a run, by name and iteration. Hooks and losses fill it.

Writers read it: to metrics.json, to TensorBoard and to the log.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import os
from collections import defaultdict
from pathlib import Path

import torch
from fvcore.common.history_buffer import HistoryBuffer

from xmodaler_ssattn.files import disk_errors

from .setup import FILE_ONLY, show_bars

logger = logging.getLogger(__name__)
SMOOTHING_WINDOW = 20
_STORAGES: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the innermost ``with EventStorage(...)``; RuntimeError outside of any."""
    if not _STORAGES:
        raise RuntimeError("get_event_storage() works only inside 'with EventStorage(...)', that is, during training.")
    return _STORAGES[-1]


class EventStorage:
    """Histories of named scalars. ``iter`` is the iteration to which new values belong."""

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self.iter = start_iter

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True) -> None:
        """Add a value. ``smoothing_hint``: whether writers should show a median; always the same for a name."""
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise ValueError(f"The scalar {name!r} was put with smoothing_hint={not smoothing_hint} before.")
        value = float(value)
        self._history[name].update(value, self.iter)
        self._latest[name] = (value, self.iter)

    def put_scalars(self, *, smoothing_hint: bool = True, **kwargs: float) -> None:
        """Add several values: ``put_scalars(time=0.5, **losses)``."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint)

    def history(self, name: str) -> HistoryBuffer:
        """All values of one scalar: ``.latest()``, ``.median(20)``, ``.values()`` as (value, iteration)."""
        if name not in self._history:
            raise KeyError(f"There is no scalar {name!r}; there are: {', '.join(sorted(self._history)) or 'none'}.")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Name -> all values."""
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """Name -> (last value, its iteration)."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As ``latest``, with the median of the last ``window_size`` values where the hint asks for smoothing."""
        return {
            name: (self._history[name].median(window_size) if self._smoothing_hints[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def step(self) -> None:
        """Advance to the next iteration."""
        self.iter += 1

    def __enter__(self):
        _STORAGES.append(self)
        return self

    def __exit__(self, *exc_info) -> None:
        _STORAGES.remove(self)


class EventWriter:
    """Reads the current event storage at each ``write``."""

    def write(self) -> None:
        """Write new values."""
        raise NotImplementedError

    def close(self) -> None:
        """Called once, after the last write."""


class _ScalarWriter(EventWriter):
    _last_write = -1

    def _new(self) -> list[tuple[str, float, int]]:
        """(name, value, iteration) put since the last call; noisy scalars are medians over the last 20 values."""
        latest = get_event_storage().latest_with_smoothing_hint(SMOOTHING_WINDOW)
        new = [(name, value, iteration) for name, (value, iteration) in latest.items() if iteration > self._last_write]
        self._last_write = max([iteration for _, _, iteration in new], default=self._last_write)
        return new


class JSONWriter(_ScalarWriter):
    """One JSON object per line: the scalars put at one iteration, and ``iteration``. Appends to an existing file.

    A value that is not a finite number is written as null.
    """

    def __init__(self, json_file: str | os.PathLike) -> None:
        self._path = Path(json_file)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        lines: dict[int, dict[str, float | None]] = defaultdict(dict)
        for name, value, iteration in self._new():
            lines[iteration][name] = float(value) if math.isfinite(value) else None
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            for iteration, scalars in sorted(lines.items()):
                file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True, allow_nan=False) + "\n")


class TensorboardXWriter(_ScalarWriter):
    """Scalars as TensorBoard events; ImportError where the package ``tensorboard`` is not installed."""

    def __init__(self, log_dir: str | os.PathLike) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(log_dir))

    def write(self) -> None:
        for name, value, iteration in self._new():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        self._writer.close()


class CommonMetricPrinter(EventWriter):
    """A line with the losses, the time left, the seconds per iteration and the learning rate.

    On a terminal, the progress bar shows these, and the line is written only to the log file.
    """

    def __init__(self, max_iter: int | None = None) -> None:
        self._max_iter = max_iter

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:  # training is over, and its last iteration was reported
            return
        of = "" if self._max_iter is None else f"/{self._max_iter}"
        parts = [*time_left(storage), f"iter: {storage.iter + 1}{of}", *losses_for_people(storage)]
        histories = storage.histories()
        if "time" in histories:
            parts.append(f"time: {histories['time'].global_avg():.4f}")
        if "data_time" in histories:
            parts.append(f"data_time: {histories['data_time'].avg(SMOOTHING_WINDOW):.4f}")
        parts.append(f"lr: {histories['lr'].latest():.5g}" if "lr" in histories else "lr: N/A")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        logger.info("  ".join(parts), extra=FILE_ONLY if show_bars() else None)


def time_left(storage: EventStorage) -> list[str]:
    """``eta: 0:02:10``, with the evaluations to come; nothing when it is not known yet."""
    known = storage.histories().get("eta_seconds")
    return [] if known is None else [f"eta: {datetime.timedelta(seconds=round(known.latest()))}"]


def losses_for_people(storage: EventStorage) -> list[str]:
    """``name: median`` of every scalar with "loss" in its name."""
    return [
        f"{name}: {history.median(SMOOTHING_WINDOW):.4g}"
        for name, history in storage.histories().items()
        if "loss" in name.lower()
    ]


def default_writers(output_dir: str | os.PathLike, max_iter: int | None = None) -> list[EventWriter]:
    """The printer, ``metrics.json`` and TensorBoard; the latter is left out when it is not installed."""
    writers = [CommonMetricPrinter(max_iter), JSONWriter(Path(output_dir) / "metrics.json")]
    try:
        writers.append(TensorboardXWriter(output_dir))
    except ImportError as error:
        logger.info("No TensorBoard events are written: %s. 'pip install tensorboard' adds them.", error)
    return writers
