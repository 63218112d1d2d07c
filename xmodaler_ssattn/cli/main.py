"""``xmodaler``: the entry point that collects the subcommands and turns user errors into plain text."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys

from xmodaler_ssattn import __version__
from xmodaler_ssattn.cli.options import Parser
from xmodaler_ssattn.cli.output import accept_all_characters
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import HOST_ERRORS, HostError

# What a person can mend about a path: no rights, a read-only or full disk, a file where a folder should be.
MENDABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
)
# In the order in which a person meets them.
COMMANDS = ("demo", "prepare", "extract", "check", "train", "evaluate", "score", "report", "caption", "export")

EPILOG = """\
typical order with the real data set:
  xmodaler prepare annotations --help     official files -> annotations and vocabulary
  xmodaler prepare regions --help         any feature pack -> one HDF5 file
  xmodaler check --config-file configs/flickr30k_entities/ss_attn.yaml
  xmodaler train --config-file configs/flickr30k_entities/ss_attn.yaml
  xmodaler report RESULTS --images DIR    a page of captions, boxes and attention
with own photographs:
  xmodaler caption photo.jpg --weights CAPTIONER --detector WEIGHTS --report page.html
  xmodaler extract --images DIR --weights WEIGHTS --out regions.h5
without either:
  xmodaler demo --out demo                draws sample scenes, trains, captions, scores
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="xmodaler",
        description="Spatial-Semantic Attention for grounded image captioning, on X-modaler.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xmodaler_ssattn {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"xmodaler_ssattn.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 2 a mistake in the input, 3 done but for the pictures listed, 130
    interrupted."""
    accept_all_characters()
    args = build_parser().parse_args(argv)
    try:
        code = args.run(args) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that has gone is no error
        return code
    except (UserError, HostError, *HOST_ERRORS) as error:
        print(f"xmodaler: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(
            f"xmodaler: error: {where}{error.strerror}. Give another path, or make room or rights for it.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("xmodaler: interrupted.", file=sys.stderr)
        return 130
