"""Start one of our modules in another process, with this very package, whatever the working directory holds."""

from __future__ import annotations

import sys
from pathlib import Path

import xmodaler_ssattn

# ``python -m`` puts the working directory first on the path, where a folder may bear the name of this package, such as
# its clone. Left out, the new process finds what this one has found; the place of this package is added for a
# package that was itself found in the working directory.
_RUN = (
    "import runpy, sys; sys.path[:] = [place for place in sys.path if place] + [{root!r}]; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def python_module(module: str) -> list[str]:
    """The first words of a command that runs ``module`` as ``python -m`` would; its arguments follow."""
    root = str(Path(xmodaler_ssattn.__file__).resolve().parents[1])
    return [sys.executable, "-c", _RUN.format(root=root, module=module)]
