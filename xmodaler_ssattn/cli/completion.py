"""``xmodaler --print-completion``: a script that lets a shell complete commands, options, choices and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from xmodaler_ssattn.errors import require

SHELLS = ("bash", "zsh", "tcsh")
# What the values of an option are, by its name in the help; other values have choices or cannot be completed.
FOLDERS, FILES = ("DIR", "OUTPUT_DIR"), ("FILE", "FILES", "PATH", "RESULTS", "PHOTO", "A", "B", "S", "R")


class PrintCompletion(argparse.Action):
    """Print the script for the shell and end. The parser must have the arguments of all commands."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        print(script(parser, values))
        parser.exit()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of a parser, made by shtab.

    Raises:
        UserError: shtab is not installed.
    """
    shtab = require("shtab", "completion", "--print-completion")
    for action in _actions(parser):
        kind = shtab.DIRECTORY if action.metavar in FOLDERS else shtab.FILE if action.metavar in FILES else None
        if kind is not None:
            action.complete = kind  # type: ignore[attr-defined]  (shtab reads it)
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            listed = {listed.dest for listed in action._get_subactions()}
            for name, inner in action.choices.items():
                if name not in listed:  # shtab leaves out a command without a line of help
                    action._choices_actions.append(action._ChoicesPseudoAction(name, [], inner.description))
                yield from _actions(inner)
