"""Start a module of this package in another process, whatever the working directory contains."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import xmodaler_ssattn
from xmodaler_ssattn import stopping

# ``python -m`` puts the working directory first on the path, and a folder there, such as a clone, may have the name of
# this package. Without that entry, the new process imports the same package as this one. The folder of this package is
# added in case it was itself found through the working directory.
_RUN = (
    "import runpy, sys; sys.path[:] = [place for place in sys.path if place] + [{root!r}]; "
    "from xmodaler_ssattn.cli.child import end_with; end_with({parent}); "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def python_module(module: str) -> list[str]:
    """The beginning of a command that runs ``module`` as ``python -m`` would; append its arguments.

    When this process dies, the other one is asked to stop, as by SIGTERM, so that no training goes on alone.
    """
    root = str(Path(xmodaler_ssattn.__file__).resolve().parents[1])
    return [sys.executable, "-c", _RUN.format(root=root, parent=os.getpid(), module=module)]


def end_with(parent: int) -> None:
    """Send SIGTERM to this process when ``parent`` is no longer its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        if not stopping.requested():  # a second signal would end it before it has saved
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
