"""The parser of the command line: KEY VALUE pairs and options in any order, and completion in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from xmodaler_ssattn.errors import UserError, did_you_mean, require

SHELLS = ("bash", "zsh", "tcsh")
# What the values of an option are, by its name in the help; other values have choices or cannot be completed.
FOLDERS, FILES = ("DIR", "OUTPUT_DIR"), ("FILE", "FILES", "PATH", "RESULTS", "PHOTO", "A", "B", "S", "R")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Let a command accept KEY VALUE pairs, which are stored in ``args.opts`` as a flat list."""
    parser.add_argument_group(
        "config options", "KEY VALUE pairs, before, between or after the options, such as SOLVER.EPOCH 10"
    )
    parser.set_defaults(opts=[], takes_pairs=True)


def positive(text: str) -> int:
    """The type of an option that is a number of at least 1."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def check_device(name: str, option: str) -> None:
    """Refuse a device that PyTorch does not know or have."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{option}: expected cpu, cuda, cuda:1 or another device of PyTorch, got {name!r}.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{option} is {name}, but PyTorch sees no CUDA device; give --device cpu.")


class Parser(argparse.ArgumentParser):
    """Puts the words that are not options into ``args.opts``, for commands with ``add_config_options``.

    argparse has REMAINDER for this, but then every option after the first pair becomes a config key.
    """

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        known, rest = self.parse_known_args(args, namespace)
        if getattr(known, "takes_pairs", False):
            known.opts = [word for word in rest if word != "--"]
        elif rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's check of a command or a choice, with the nearest one in the message."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            near = did_you_mean(str(value), choices)
            raise argparse.ArgumentError(action, f"unknown {value!r}{near} (choose from {', '.join(choices)})")


class PrintCompletion(argparse.Action):
    """Print the script for the shell and end. The parser must have the arguments of all commands."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        print(script(parser, values))
        parser.exit()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of a parser, made by shtab."""
    shtab = require("shtab", "completion", "--print-completion")
    for action in _actions(parser):
        kind = shtab.DIRECTORY if action.metavar in FOLDERS else shtab.FILE if action.metavar in FILES else None
        if kind is not None:
            action.complete = kind  # type: ignore[attr-defined]  # shtab reads it
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
