"""Upstream X-modaler from XMODALER_HOME, made to run on a CPU for a comparison: ``.cuda()`` does nothing."""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, os.environ["XMODALER_HOME"])
sys.path.append(str(Path(__file__).parents[1] / "standins"))  # a torchvision to print a version of, if there is none
torch.Tensor.cuda = lambda self, *args, **kwargs: self

from xmodaler.config import CfgNode, get_cfg, kfg
from xmodaler.datasets.build import DATASETS_REGISTRY
from xmodaler.engine import DefaultTrainer, build_engine, default_setup
from xmodaler.evaluation.build import EVALUATION_REGISTRY
from xmodaler.modeling import add_config

__all__ = [
    "DATASETS_REGISTRY",
    "EVALUATION_REGISTRY",
    "CfgNode",
    "DefaultTrainer",
    "add_config",
    "build_engine",
    "default_setup",
    "get_cfg",
    "kfg",
]
