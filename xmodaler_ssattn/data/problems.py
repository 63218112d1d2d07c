"""How long lists of problems are shown."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 20


def numbered(problems: Sequence[str]) -> str:
    """The first problems, one a line with its number, and how many more there are."""
    lines = [f"  {number}. {problem}" for number, problem in enumerate(problems[:SHOWN], 1)]
    if len(problems) > SHOWN:
        lines.append(f"  ... and {len(problems) - SHOWN} more")
    return "\n".join(lines)
