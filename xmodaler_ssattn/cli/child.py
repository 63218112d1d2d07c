"""Start one of our modules in another process with this same package, whatever the working directory contains."""

from __future__ import annotations

import sys
from pathlib import Path

import xmodaler_ssattn

# ``python -m`` puts the working directory first on the path, where a folder may have the name of this package, such as
# its clone. Without that entry the new process finds what this one has found; the folder of this package is added in
# case it was itself found in the working directory.
_RUN = (
    "import runpy, sys; sys.path[:] = [place for place in sys.path if place] + [{root!r}]; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def python_module(module: str) -> list[str]:
    """The first words of a command that runs ``module`` as ``python -m`` would; its arguments follow."""
    root = str(Path(xmodaler_ssattn.__file__).resolve().parents[1])
    return [sys.executable, "-c", _RUN.format(root=root, module=module)]
