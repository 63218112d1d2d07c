"""``EventStorage``: the scalars of a run, by name and iteration. Writers read it; hooks and losses fill it."""

from __future__ import annotations

from collections import defaultdict

from fvcore.common.history_buffer import HistoryBuffer

_STORAGES: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the innermost ``with EventStorage(...)``.

    Raises:
        RuntimeError: it was called outside of any storage.
    """
    if not _STORAGES:
        raise RuntimeError("get_event_storage() works only inside 'with EventStorage(...)', that is, during training.")
    return _STORAGES[-1]


class EventStorage:
    """Histories of named scalars. ``iter`` is the iteration to which new values belong."""

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._iter = start_iter

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True) -> None:
        """Add a value. ``smoothing_hint``: whether writers should show a median, since single values are noisy.

        Raises:
            ValueError: the name was used with the other hint before.
        """
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise ValueError(f"The scalar {name!r} was put with smoothing_hint={not smoothing_hint} before.")
        value = float(value)
        self._history[name].update(value, self._iter)
        self._latest[name] = (value, self._iter)

    def put_scalars(self, *, smoothing_hint: bool = True, **kwargs: float) -> None:
        """Add several values: ``put_scalars(time=0.5, **losses)``."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint)

    def history(self, name: str) -> HistoryBuffer:
        """All values of one scalar: ``.latest()``, ``.median(20)``, ``.values()`` as (value, iteration).

        Raises:
            KeyError: nothing was put under that name.
        """
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

    @property
    def iter(self) -> int:
        """The iteration to which new values belong."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    def step(self) -> None:
        """Advance to the next iteration."""
        self._iter += 1

    def __enter__(self):
        _STORAGES.append(self)
        return self

    def __exit__(self, *exc_info) -> None:
        _STORAGES.remove(self)
