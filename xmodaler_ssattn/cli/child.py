"""Start a module of this package in another process, whatever the working directory contains."""

from __future__ import annotations

import sys
from pathlib import Path

import xmodaler_ssattn

# ``python -m`` puts the working directory first on the path, and a folder there, such as a clone, may have the name of
# this package. Without that entry, the new process imports the same package as this one. The folder of this package is
# added in case it was itself found through the working directory.
_RUN = (
    "import runpy, sys; sys.path[:] = [place for place in sys.path if place] + [{root!r}]; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def python_module(module: str) -> list[str]:
    """The beginning of a command that runs ``module`` as ``python -m`` would; append its arguments."""
    root = str(Path(xmodaler_ssattn.__file__).resolve().parents[1])
    return [sys.executable, "-c", _RUN.format(root=root, module=module)]
