"""The exception classes for mistakes that a user can fix, and the words of their messages.

Everything that depends on files, configs or command lines given by a person raises ``UserError``
with a text that says what was expected, what came, where, and what to do. The command line prints
that text without a traceback and exits with code 2; libraries may catch it as a ``ValueError``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LISTED = 5  # problems of one kind that are all listed; of more the first ones are shown, and their number
EXAMPLES = 3
SHOWN = 20
# What differs between problems of one kind: numbers (ids, lines, sizes) and quoted texts.
_VARYING = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|\d+(?:[.,]\d+)*""")


class UserError(ValueError):
    """A mistake in the input; the message alone must be enough to fix it."""


class HostError(UserError, RuntimeError):
    """X-modaler was asked for and cannot be used, or the settings contradict each other."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the nearest known one, if one is near.

    >>> "unknown command 'trian'" + did_you_mean("trian", ["demo", "train"])
    "unknown command 'trian'; did you mean train?"
    """
    import difflib  # here: most commands run without a mistake

    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def raise_all(problems: Iterable[str], heading: str) -> None:
    """Raise one ``UserError`` that lists every problem, or do nothing when there is none.

    Args:
        problems: one sentence each, in the order in which they should be read.
        heading: what was being attempted, e.g. ``"The training data cannot be used"``.
    """
    problems = list(problems)
    if not problems:
        return
    if len(problems) == 1:
        raise UserError(f"{heading}: {problems[0]}")
    raise UserError(f"{heading}; {len(problems):,} problems:\n{numbered(problems, shown=5 * SHOWN)}")


def numbered(problems: Sequence[str], shown: int = SHOWN) -> str:
    """The problems, one per line with its number; of many that differ in numbers and quoted texts only, three examples.

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
