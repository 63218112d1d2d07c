"""The start of a run: command line, folders, loggers, seed."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import fvcore
import numpy as np
import torch

from ..files import read_text
from . import comm
from .checkpoint import whole_file
from .config import CfgNode
from .logger import setup_logger
from .rng import seed_all_rng

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """What is no option goes to ``opts``, wherever it stands; upstream takes options behind a pair for config keys."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        known, known.opts = self.parse_known_args(args, namespace)
        return known


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The flags of a training script: config file, resume, evaluation only, processes, and KEY VALUE pairs (``opts``).

    An unknown option ends up among the pairs, where ``merge_from_list`` names it as an unknown key.
    """
    parser = _Parser(epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="", metavar="FILE", help="yaml config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate and do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on each machine, one a GPU")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # A fixed port a user: a run that was left behind shows itself by holding it.
    user = os.getuid() if hasattr(os, "getuid") else 1
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{2**15 + 2**14 + user % 2**14}",
        help="where the processes meet; 'auto' picks a free port (one machine)",
    )
    parser.add_argument_group("config options", "KEY VALUE pairs that change the config")
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Make OUTPUT_DIR, start the loggers, write ``config.yaml``, seed every random state (SEED + process number)."""
    rank = comm.get_rank()
    setup_logger(cfg.OUTPUT_DIR, rank)
    logger.info(
        "Process %d of %d. Python %s, PyTorch %s (CUDA %s), numpy %s, fvcore %s, %s",
        rank, comm.get_world_size(), platform.python_version(), torch.__version__, torch.version.cuda or "none",
        np.__version__, fvcore.__version__, platform.platform(),
    )  # fmt: skip
    logger.info("Command line: %s", " ".join(sys.argv))
    if getattr(args, "config_file", ""):
        logger.info("Contents of %s:\n%s", args.config_file, read_text(args.config_file, "The config file"))
    logger.info("Running with full config:\n%s", cfg)
    if comm.is_main_process() and cfg.OUTPUT_DIR:
        path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
        with whole_file(path) as file:
            file.write(cfg.dump().encode())
        logger.info("Full config saved to %s", path)
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
