"""``xmodaler eval``: caption and score val and test with trained weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from xmodaler_ssattn.cli import train
from xmodaler_ssattn.errors import UserError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("eval", description="The same as `xmodaler train --eval-only MODEL.WEIGHTS FILE`.")
    parser.add_argument("--weights", required=True, metavar="FILE", help="a checkpoint, or the folder of a run")
    train.add_arguments(parser, training=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if "MODEL.WEIGHTS" in args.opts:
        raise UserError("--weights and MODEL.WEIGHTS are both given; use one.")
    from xmodaler_ssattn.cli.captioning import find_checkpoint

    args.opts = [*args.opts, "MODEL.WEIGHTS", str(find_checkpoint(Path(args.weights)))]
    return train.run(args)
