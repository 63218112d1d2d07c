"""The base class of the export formats, and the options that several of them have."""

from __future__ import annotations

import abc
import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import write_json

if TYPE_CHECKING:
    from xmodaler_ssattn.evaluation.results import Results

NO_OBJECTS = (
    "no caption names an object. Results contain object words if they were evaluated with "
    "grounding_{val,test}.json in DATALOADER.ANNO_FOLDER"
)


def no_boxes(outside: int) -> str:
    """Why an export has no box; ``outside`` object words were left out for theirs."""
    if not outside:
        return NO_OBJECTS
    return f"the boxes of all {outside} object words are outside their pictures, or thinner than a pixel"


class Written(NamedTuple):
    """What an export did."""

    done: str  # a sentence about what was written; empty when it went to standard output
    doubts: tuple[str, ...] = ()  # warnings, sentences without a full stop


class Export(abc.ABC):
    """One format; its file in ``formats/`` is all that it needs.

    Attributes:
        name: on the command line.
        summary: one line for the list of formats in ``xmodaler export --help``.
        description: for the format's own ``--help``: what is written, and what reads it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    description: ClassVar[str]

    @classmethod
    @abc.abstractmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the format's options; ``args.results`` is there already."""

    @classmethod
    @abc.abstractmethod
    def write(cls, results: Results, args: argparse.Namespace) -> Written:
        """Write the results, the content of the file ``args.results``.

        Raises:
            UserError: the results lack something that the format needs; all problems are listed.
        """


def add_greedy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--greedy", action="store_true", help="the greedy captions, instead of those of beam search (the main ones)"
    )


def add_images(parser: argparse.ArgumentParser, *, required: bool = False, default: str = "") -> None:
    where = "the pictures, named by image id: a folder, zip or tar archive, or parquet files"
    parser.add_argument("--images", required=required, metavar="PATH", help=where + default)


def add_annotations(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--annotations", metavar="DIR", help=f"folder written by `xmodaler prepare`; {what}")


def add_out_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", help="where to write; default: standard output")


def add_out_folder(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", default=default, metavar="DIR", help=f"a new folder (default: {default})")


def write_or_print(value: Any, out: str | None, what: str) -> str:
    """Write JSON to a file, or print it when ``out`` is None; returns ``Written.done``."""
    if out:
        write_json(out, value)
        return f"{what} written to {out}"
    print(json.dumps(value, allow_nan=False))
    return ""


def check_new_folder(out: str) -> None:
    """Raise a ``UserError`` when the folder exists, because a folder is never replaced."""
    if Path(out).exists():
        raise UserError(f"--out: {out} exists already; give the name of a new folder, or remove it first.")
