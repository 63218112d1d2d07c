"""Check plain data (from JSON) against a type, with messages that state the place and the value."""

from __future__ import annotations

import re
from typing import Any

from xmodaler_ssattn.errors import UserError

_PATH = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_EXPECTED = re.compile(r"Expected `(.+?)`(.*?)(?:, got .+)?")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "array": "a list",
    "object": "an object",
    "bool": "true or false",
}


def typed(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``: a TypedDict, ``list[str]``, ``Annotated[int, msgspec.Meta(ge=0)]``, and so on.

    Keys of an object that are not in its TypedDict are dropped.

    Raises:
        UserError: the message is a phrase about the first part that does not fit, to follow the file and the record.

    >>> typed([[1, 2], [3]], list[list[int]])
    [[1, 2], [3]]
    >>> typed([[1, 2], [3, "4"]], list[list[int]])
    Traceback (most recent call last):
    xmodaler_ssattn.errors.UserError: [1][1] must be a whole number, found '4'
    """
    import msgspec

    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UserError(_explained(str(error), value)) from error


def _explained(message: str, value: Any) -> str:
    """Our form of a message of msgspec, such as "Expected `int` >= 1, got `str` - at `$.captions[0]`"."""
    reason, _, path = message.partition(" - at `")
    path = path.rstrip("`").removeprefix("$")
    place = path.removeprefix(".")
    if missing := _MISSING.fullmatch(reason):
        return f"{place + ': ' if place else ''}the key {missing[1]!r} is missing"
    if (expected := _EXPECTED.fullmatch(reason)) is None:
        return message
    kinds = expected[1].replace("int | float", "float").split(" | ")
    wanted = " or ".join(_WORDS.get(kind, kind) for kind in kinds) + expected[2]
    if "..." in path:  # msgspec does not give the key of an object
        return f"{place.replace('[...]', ' (one of its values)')} must be {wanted}".strip()
    for key, index in _PATH.findall(path):
        value = value[key] if key else value[int(index)]
    shown = repr(value)
    return f"{place or 'it'} must be {wanted}, found {shown if len(shown) <= 80 else shown[:77] + '...'}"
