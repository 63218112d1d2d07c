"""Output to any terminal, and how a program ends."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

from xmodaler_ssattn.errors import UserError, visible

# Problems with a path that a user can fix: no permission, a read-only or full disk, a file where a folder should be.
FIXABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR),
    *(errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG),
)
FULL = (errno.ENOSPC, errno.EFBIG, *((errno.EDQUOT,) if hasattr(errno, "EDQUOT") else ()))


def exit_code_of(run: Callable[[], int | None], how_to_resume: str = "", program: str = "xmodaler") -> int:
    """Run a program; errors that a user can fix become one message on stderr.

    Args:
        run: returns the exit code, or None for 0.
        how_to_resume: a sentence for the messages of a run that did not finish.
        program: its name, with which the messages begin.

    Returns:
        the program's exit code; 2 after a mistake in the input, 130 when interrupted, 141 when the reader of the output
        has closed it.
    """

    def say(message: str) -> None:
        print(visible(f"{program}: {message}"), file=sys.stderr)

    more = f" {how_to_resume}" if how_to_resume else ""
    try:
        code = run() or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a closed pipe is not an error
        return code
    except UserError as error:
        say(f"error: {error}")
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in (*FIXABLE, *FULL):
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        if error.errno in FULL:
            from xmodaler_ssattn.files import mount_of

            place = f" {mount_of(error.filename)}" if isinstance(error.filename, str) else " the disk"
            reason = f"no space left on{place} ({error.strerror})"
            say(f"error: {where}{reason}. Free some space, or give another path.{more}")
        else:
            in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
            said = "a file is where a folder is needed" if in_the_way else error.strerror
            way_out = "Give another path." if in_the_way else "Give another path, or change the permissions."
            say(f"error: {where}{said}. {way_out}{more}")
        return 2
    except KeyboardInterrupt:
        say(f"interrupted.{more}")
        return 130


def warn(message: str) -> None:
    print(visible(f"xmodaler: warning: {message}"), file=sys.stderr, flush=True)


def accept_all_characters() -> None:
    """Let ``print`` escape characters that the terminal cannot encode, such as \\u2713, instead of failing.

    A closed stream, which Python calls None, becomes one that nobody reads.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (open until the end)
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def printable(path: str | os.PathLike) -> str:
    """A path as valid text: bytes of its name that are not UTF-8 are escaped.

    >>> printable("photo.jpg")
    'photo.jpg'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
