"""``xmodaler``: find the command and run it. PyTorch is imported only after the command line has been parsed."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from xmodaler_ssattn._version import __version__
from xmodaler_ssattn.cli.options import SHELLS, Parser, PrintCompletion
from xmodaler_ssattn.cli.output import accept_all_characters, exit_code_of
from xmodaler_ssattn.progress import doing

# Command -> (module in this folder, one line of help), in the order in which a new user needs them. A module with a dot
# before it is in a folder beside this one.
COMMANDS = {
    "demo": ("demo", "draw sample scenes, train Up-Down and SS attention on them, caption and score"),
    "prepare": ("prepare", "make annotations and region files from official files and packs"),
    "extract": ("extract", "extract region features of your photographs"),
    "check": ("check", "check everything that a config needs before training"),
    "train": ("train", "train and evaluate a model from a config"),
    "eval": ("evaluate", "caption and score val and test with trained weights"),
    "score": ("score", "score result files: grounding, captions, or compare two"),
    "report": ("report", "make a page of captions, boxes, attention and curves, or figures for papers"),
    "caption": ("caption", "caption your photographs, with boxes"),
    "app": ("app", "caption pictures in a local web page, with boxes and attention"),
    "export": ("export", "write results for other tools: COCO, FiftyOne, ODVG, GVD"),
    "reproduce": (".reproduce.flags", "train and score all rows of the paper's tables, or of another plan"),
}
# They read and write files only, so that no class of a host has to be registered.
WITHOUT_PYTORCH = {"prepare", "score", "report", "export"}

EPILOG = """\
typical order with the real data set:
  xmodaler prepare annotations --help     official files -> annotations and vocabulary
  xmodaler prepare regions --help         any feature pack -> one HDF5 file
  xmodaler check --config-file configs/flickr30k_entities/ss_attn.yaml
  xmodaler train --config-file configs/flickr30k_entities/ss_attn.yaml
  xmodaler report RESULTS --images DIR    a page of captions, boxes and attention
tab completion in bash, once:
  xmodaler --print-completion bash > ~/.local/share/bash-completion/completions/xmodaler
with your own photographs:
  xmodaler caption photo.jpg --weights CAPTIONER --detector WEIGHTS --report page.html
  xmodaler extract --images DIR --weights WEIGHTS --out regions.h5
without either:
  xmodaler demo --out demo                draws sample scenes, trains, captions, scores
"""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line. Imports only the module of the command; ``run`` in the result runs it.

    Raises:
        SystemExit: after --help and --version (code 0), or an error message (code 2).
    """
    parser = Parser(
        prog="xmodaler",
        description="Spatial-Semantic Attention for grounded image captioning, on X-modaler.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xmodaler_ssattn {__version__}")
    parser.add_argument(
        "--print-completion", choices=SHELLS, action=PrintCompletion, help="print a script for tab completion"
    )
    completing = words[:1] == ["--print-completion"]
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, line) in COMMANDS.items():
        if completing or name in words[:1]:
            importlib.import_module(f".{module}", __package__).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=line)
    args = parser.parse_args(words or ["--help"])
    args.words = list(words)  # for the record of a run
    return args


def main(argv: Sequence[str] | None = None, register_classes: Callable[[], None] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments; None for those of the process.
        register_classes: called before the command runs; see ``xmodaler_ssattn_command.py``.

    Returns:
        the exit code: 0 done, 2 a mistake in the input, 3 done except for the pictures listed, 130 interrupted.
    """
    accept_all_characters()
    words = list(sys.argv[1:] if argv is None else argv)

    def run() -> int | None:
        args = parse(words)
        if register_classes is not None and args.words[0] not in WITHOUT_PYTORCH:
            with doing("Loading PyTorch"):
                register_classes()
        return args.run(args)

    return exit_code_of(run)
