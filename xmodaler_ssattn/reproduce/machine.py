"""What a run was computed on: for its record and its model card."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy
import torch

from xmodaler_ssattn._version import __version__
from xmodaler_ssattn.cli.demo import memory_of_machine
from xmodaler_ssattn.files import read_lines

CPU_INFO = Path("/proc/cpuinfo")


def machine_of(device: str | None) -> dict[str, Any]:
    """Processor, memory, GPUs and versions, as plain JSON.

    Args:
        device: of the runs; None: the host's default, a GPU when there is one.
    """
    named = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    memory = memory_of_machine()
    use_gpus = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    return {
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if use_gpus else [],
        "system": platform.system(),
        "versions": {
            "xmodaler_ssattn": __version__, "Python": platform.python_version(), "PyTorch": str(torch.__version__),
            "CUDA": (torch.version.cuda or "none") if use_gpus else "none", "numpy": numpy.__version__,
        },
    }  # fmt: skip


def _cpu_info() -> list[str]:
    return read_lines(CPU_INFO, "The processor") if CPU_INFO.is_file() else []
