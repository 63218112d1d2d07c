"""``xmodaler train``: the host's own trainer on a config, with the flags of X-modaler's train_net.py."""

from __future__ import annotations

import argparse
import os
from typing import Any

from xmodaler_ssattn.cli.options import add_config_options, positive
from xmodaler_ssattn.shipped import listing

CONFIG_HELP = (
    "a yaml config, or the name of one of the package's, such as flickr30k_entities/ss_attn.yaml "
    "(`xmodaler train --help` lists them)"
)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        description="Train with X-modaler's trainer. The data of the sample scenes are drawn on first use.",
        epilog=listing().replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser, *, training: bool = True) -> None:
    """Add the flags of X-modaler's train_net.py, --data and --device; without ``training`` only those to evaluate."""
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help=CONFIG_HELP)
    add("--data", metavar="DIR", help="folder written by `xmodaler prepare`; sets all data paths")
    add("--device", help="cpu or cuda; default: cuda when there is one")
    if training:
        add("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR")
        add(
            "--move-aside",
            action="store_true",
            help="rename the folder of an earlier run in OUTPUT_DIR, start a new one",
        )
        add("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS (or the last checkpoint)")
    else:
        parser.set_defaults(resume=False, move_aside=False, eval_only=True)
    add("--num-gpus", type=positive, default=1, help="GPUs per machine")
    add("--num-machines", type=positive, default=1)
    add("--machine-rank", type=int, default=0, help="rank of this machine")
    # One port per user, as in X-modaler, so that an orphaned run is noticed as a port in use.
    port = 2**15 + 2**14 + (os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="for several processes")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn import host
    from xmodaler_ssattn.cli.training import run_in_place
    from xmodaler_ssattn.engine.launched import place_of
    from xmodaler_ssattn.processes import joined

    place = place_of(os.environ)
    if place is not None:
        args.num_gpus, args.num_machines = place.local_size, place.size // place.local_size
        args.machine_rank = place.rank // place.local_size
        args.resume |= place.restarted and not args.eval_only
    with joined(place, host.comm):
        return run_in_place(args, place)
