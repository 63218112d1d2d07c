"""The start of a run: folders, loggers, seed."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys

import fvcore
import numpy as np
import torch

from xmodaler_ssattn.files import read_text, write_text

from . import comm
from .config import CfgNode
from .logger import FILE_ONLY, setup_logger
from .rng import seed_all_rng

logger = logging.getLogger(__name__)


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
