"""The start of a run: loggers, config.yaml, seed.

Log lines appear on stdout, without breaking a progress bar, and in OUTPUT_DIR/log.txt.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from pathlib import Path

import fvcore
import numpy as np
import torch
from tqdm import tqdm

from xmodaler_ssattn.files import read_text, write_text

from . import comm
from .config import CfgNode
from .rng import seed_all_rng

logger = logging.getLogger(__name__)
LOGGER_NAMES = ("xmodaler", "xmodaler_ssattn", "fvcore")
# ``extra=`` of a line that is written only to the log file: long ones, and those that a progress bar shows.
FILE_ONLY = {"file_only": True}
_LINE = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
_CONSOLE = logging.Formatter("[%(asctime)s %(levelname).1s] %(message)s", datefmt="%m/%d %H:%M:%S")
_our_handlers: list[logging.Handler] = []


class _ConsoleHandler(logging.Handler):
    """Writes with tqdm, which removes its bars meanwhile; escapes characters that the terminal cannot encode."""

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


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Make OUTPUT_DIR, start the loggers, write ``config.yaml``, seed every random state (SEED + process number).

    An evaluation leaves the config of the training in the folder as it is.
    """
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, rank)
    into_file = {"extra": FILE_ONLY}
    logger.info(
        "Process %d of %d. Python %s, PyTorch %s (CUDA %s), numpy %s, fvcore %s, %s",
        rank, comm.get_world_size(), platform.python_version(), torch.__version__, torch.version.cuda or "none",
        np.__version__, fvcore.__version__, platform.platform(), **into_file,
    )  # fmt: skip
    logger.info("Command line: %s", " ".join(sys.argv), **into_file)
    if getattr(args, "config_file", ""):
        logger.info(
            "Contents of %s:\n%s", args.config_file, read_text(args.config_file, "The config file"), **into_file
        )
    logger.info("Running with full config:\n%s", cfg, **into_file)
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        if not (getattr(args, "eval_only", False) and os.path.isfile(path)):
            write_text(path, cfg.dump())
        logger.info("Full config: %s. Log: %s", path, os.path.join(cfg.OUTPUT_DIR, "log.txt"))
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
