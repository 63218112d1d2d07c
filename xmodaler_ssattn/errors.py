"""The one exception class for mistakes that a user can mend.

Everything that depends on files, configs or command lines given by a person raises ``UserError``
with a text that says what was expected, what came, where, and what to do. The command line prints
that text without a traceback and exits with code 2; libraries may catch it as a ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input; the message alone must be enough to mend it."""


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
    lines = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
    raise UserError(f"{heading}; {len(problems)} problems:\n{lines}")
