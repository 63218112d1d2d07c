"""The exception classes for errors that a user can fix, and the format of messages.

Problems with files, configs or command lines raise ``UserError``, whose text says what was expected, what was found,
where, and what to do. The command line prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

LISTED = 5  # up to this number, all problems of one kind are listed; otherwise the first ones and their number
EXAMPLES = 3
SHOWN = 20
# The parts that differ between problems of one kind: numbers (ids, lines, sizes) and quoted texts.
_VARYING = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|\d+(?:[.,]\d+)*""")


class UserError(ValueError):
    """An error in the input; the message must contain everything that is needed to fix it."""


class HostError(UserError, RuntimeError):
    """X-modaler was requested but cannot be used, or the settings contradict each other."""


def require(module: str, extra: str, what: str) -> Any:
    """Import an optional library; a ``UserError`` has the command that installs it.

    Args:
        extra: the extra of this package that installs it.
        what: what needs it, the beginning of a sentence.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs {module}, which is not installed: `pip install {module}`, or install this package with the "
            f"extra {extra}."
        ) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known word, if one is similar.

    >>> "unknown command 'trian'" + did_you_mean("trian", ["demo", "train"])
    "unknown command 'trian'; did you mean train?"
    """
    import difflib  # imported here because most commands run without an error

    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def raise_all(problems: Iterable[str], heading: str) -> None:
    """Raise one ``UserError`` that lists every problem, or do nothing when there is none.

    Args:
        problems: one sentence each, in reading order.
        heading: the failed operation, e.g. ``"The training data cannot be used"``.
    """
    problems = list(problems)
    if len(problems) == 1:
        raise UserError(f"{heading}: {problems[0]}")
    if problems:
        raise UserError(f"{heading}; {len(problems):,} problems:\n{numbered(problems, shown=5 * SHOWN)}")


def numbered(problems: Sequence[str], shown: int = SHOWN) -> str:
    """The problems as numbered lines; of many that differ only in numbers and quoted texts, three examples.

    >>> print(numbered(["no head", *(f"image {i} has no box" for i in range(1, 30_000))]))
      1. no head
      2. image 1 has no box
      3. image 2 has no box
      4. image 3 has no box
         ... and 29,996 more of this kind
    """
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(_VARYING.sub("#", problem), []).append(problem)
    lines: list[str] = []
    number = left = 0
    for kind in kinds.values():
        listed = kind if len(kind) <= LISTED else kind[:EXAMPLES]
        if number + len(listed) > shown:
            left += len(kind)
            continue
        lines += [f"  {number + at}. {problem}" for at, problem in enumerate(listed, 1)]
        number += len(listed)
        if len(listed) < len(kind):
            lines.append(f"     ... and {len(kind) - len(listed):,} more of this kind")
    if left:
        lines.append(f"  ... and {left:,} more")
    return "\n".join(lines)


# Control characters could move the cursor or hide text, and marks of direction reverse it; line ends and tabs are kept.
_UNSEEN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")


def visible(text: str) -> str:
    """Text for a terminal: control characters, which names and words from files may contain, are escaped.

    >>> visible("a \\x1b[2J dog")
    'a \\\\x1b[2J dog'
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
