"""Loggers: lines on stdout, which do not break a progress bar, and the same lines in OUTPUT_DIR/log.txt."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from tqdm import tqdm

LOGGER_NAMES = ("xmodaler", "xmodaler_ssattn", "fvcore")
FILE_ONLY = {"file_only": True}
"""``extra=`` of a line that is written only to the log file: long ones, and those that a progress bar shows."""

_LINE = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
_CONSOLE = logging.Formatter("[%(asctime)s %(levelname).1s] %(message)s", datefmt="%m/%d %H:%M:%S")
_our_handlers: list[logging.Handler] = []


class _ConsoleHandler(logging.Handler):
    """Writes with tqdm, which removes its bars from the terminal while a line is written.

    Characters that the terminal cannot encode are escaped.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stdout is None or getattr(record, "file_only", False):
            return
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        tqdm.write(self.format(record).encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
        sys.stdout.flush()


def setup_logger(output: str | os.PathLike | None = None, distributed_rank: int = 0) -> logging.Logger:
    """Send the project's and the host's loggers to stdout (first process only) and to a file.

    A second call replaces the handlers of the first: a second run in the same process has its own log file.

    Args:
        output: a folder (``log.txt`` in it) or a file name ending in .txt or .log; None or '' for no file.
        distributed_rank: the process; from 1 on the file name ends in ``.rank1`` and so on.

    Returns:
        The logger ``xmodaler``.
    """
    handlers: list[logging.Handler] = []
    if distributed_rank == 0:
        handlers.append(_ConsoleHandler())
        handlers[-1].setFormatter(_CONSOLE)
    if output:
        path = Path(output)
        path = path if path.suffix in (".txt", ".log") else path / "log.txt"
        path = path.with_name(f"{path.name}.rank{distributed_rank}") if distributed_rank else path
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
        handlers[-1].setFormatter(_LINE)

    loggers = [logging.getLogger(name) for name in LOGGER_NAMES]
    for one in loggers:
        for old in _our_handlers:
            one.removeHandler(old)
        for handler in handlers:
            one.addHandler(handler)
        one.setLevel(logging.INFO)
    for old in _our_handlers:
        old.close()
    _our_handlers[:] = handlers
    return loggers[0]


def show_bars() -> bool:
    """Whether progress bars can be watched: stderr is a terminal."""
    return sys.stderr.isatty()
