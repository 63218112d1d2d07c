"""Whether a region file can be opened without risk, before HDF5 sees it.

A sealed file is compared with its sha256. Another one is first opened in a process of its own, because HDF5's library
can end the process or hang on a damaged file.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.sealed import is_intact

SECONDS = 120
"""Limit for opening a file, which usually takes less than one."""
_PROBE = """
import sys
sys.path[:0] = [{root!r}]
from xmodaler_ssattn.packs.region_file import read_header
from xmodaler_ssattn.errors import UserError
try:
    read_header(sys.argv[1])
except UserError:
    pass  # this program will say it
"""


def check_region_file(path: str | os.PathLike) -> bool:
    """Refuse a file that has changed or on which HDF5 fails; a missing file is accepted here.

    Returns:
        whether the file has a seal; a file from another program or an earlier version has none.

    Raises:
        UserError: the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return False
    status = path.stat()
    return _check(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=16)
def _check(path: Path, changed: int, size: int) -> bool:
    intact = is_intact(path)
    if intact is False:
        raise UserError(
            f"Region file {path}: it has changed since it was written (wrong sha256). Copy it again, or write it again "
            "with `xmodaler prepare regions`."
        )
    if intact is None:
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-c", _PROBE.format(root=root), str(path)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise UserError(f"Region file {path}: HDF5 does not open it within {SECONDS} s; is it damaged?") from None
        if done.returncode < 0:
            name = signal.Signals(-done.returncode).name
            raise UserError(f"Region file {path}: opening it ends the process ({name}); it is damaged.")
    return bool(intact)
