"""Open HDF5 files without risk: the library can end the process or hang on a damaged file.

A region file with a seal is compared with its sha256. Another file is first opened in a process of its own, which reads
its attributes and the shapes of its data sets.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.sealed import is_intact

# Limits for opening one file: processor time in seconds (usually less than one, on a busy machine not more), and bytes
# beside those of the process (usually less than 100 MB).
SECONDS, MEMORY = 20, 1 << 30
PATIENCE = 15  # the limit by the clock is this number of times larger
SMALL = 64 << 20  # bytes that are hashed in the time that a new process takes
NO_END = "HDF5 does not come to an end with it"
TOO_MUCH = 76  # exit code of the process
_PROBE = f"""
import resource, signal, sys, h5py
def peak():
    try:  # on Linux ru_maxrss begins with the peak of the program that started this process
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
before = peak()
try:
    with open("/proc/self/statm") as pages:
        most = int(pages.read().split()[0]) * resource.getpagesize() + {MEMORY}
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
except (OSError, ValueError):
    pass  # not Linux, or there is a lower limit
signal.signal(signal.SIGPROF, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
signal.alarm(int(sys.argv[2]))  # ends it also when the program that started it has died
def look(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        item.shape, item.dtype, item.chunks, item.external, item.is_virtual, item.id.get_offset()
        small = item.size * item.dtype.itemsize < 10**8
        if item.ndim == 1 and item.size and small and not item.external and not item.is_virtual:
            item[...]
for path in sys.argv[3:]:
    print(path, flush=True)
    try:
        with h5py.File(path, "r", locking=False) as file:
            look("", file)
            file.visititems(look)
    except Exception as error:  # reported when the program itself opens the file
        if isinstance(error, MemoryError) or "alloc" in str(error):
            sys.exit({TOO_MUCH})
    if peak() - before > {MEMORY} // 2:
        sys.exit({TOO_MUCH})
"""
_trusted: set[tuple[str, int, int]] = set()


def _identity(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.resolve()), status.st_mtime_ns, status.st_size


def trust(path: str | os.PathLike) -> None:
    """Note that this process has written the file."""
    _trusted.add(_identity(Path(path)))


def check_region_file(path: str | os.PathLike) -> bool:
    """Compare a region file with its sha256, about 1 s per GB; a missing file is accepted here.

    Returns:
        whether the file has a seal; a file from another program or an earlier version has none.

    Raises:
        UserError: the file has changed since it was written.
    """
    path = Path(path)
    if not path.is_file():
        return False
    identity, intact = _identity(path), is_intact(path)
    if intact is False:
        raise UserError(
            f"Region file {path}: it has changed since it was written (wrong sha256). Copy it again, or write it again "
            "with `xmodaler prepare regions`."
        )
    if intact:
        _trusted.add(identity)
    return bool(intact)


def check_openable(paths: Sequence[str | os.PathLike], what: str) -> None:
    """Raise a ``UserError`` that names the first HDF5 file on which the library would crash or hang.

    Missing files are accepted here. One process looks at all files together; ``what`` is their name in the message.
    """
    unknown = [path for path in map(Path, paths) if path.is_file() and _identity(path) not in _trusted]
    unknown = [path for path in unknown if path.stat().st_size > SMALL or not is_intact(path)]
    if not unknown:
        return
    identities = [_identity(path) for path in unknown]
    seen, how = _open_elsewhere(unknown, SECONDS * len(unknown))
    if how:
        last = seen.decode("utf-8", "replace").splitlines()[-1:] or [str(unknown[0])]
        raise UserError(f"{what}: {last[0]} is damaged: {how}. Copy, download or write it again.")
    _trusted.update(identities)


def _open_elsewhere(paths: Sequence[Path], seconds: int) -> tuple[bytes, str]:
    """The files' names up to the last one that was opened, a line each, and what opening it does ("" when nothing)."""
    clock = seconds * PATIENCE
    command = [sys.executable, "-c", _PROBE, str(seconds), str(clock + 5), *map(str, paths)]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **streams) as process:
        try:
            seen, _ = process.communicate(timeout=clock)
        except subprocess.TimeoutExpired as error:
            process.kill()
            rest, _ = process.communicate()
            return rest or error.stdout or b"", NO_END
    return seen, how_it_ended(process.returncode)


def how_it_ended(code: int) -> str:
    """What opening a file does to the process that ended with this code; "" when nothing."""
    if code == TOO_MUCH:
        return f"opening it takes more than {MEMORY // 2 >> 20} MiB of memory"
    if code in (-signal.SIGPROF, -signal.SIGALRM):
        return NO_END
    return "" if code >= 0 else f"opening it ends the process ({signal.Signals(-code).name})"
