"""What goes to the terminal, whatever characters it knows."""

from __future__ import annotations

import io
import os
import sys


def accept_all_characters() -> None:
    """Let ``print`` write what the terminal's encoding lacks as an escape, such as \\u2713, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def printable(path: str | os.PathLike) -> str:
    """A path as text that every file and terminal takes: bytes of its name that are not UTF-8 become escapes.

    >>> printable("photo.jpg")
    'photo.jpg'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
