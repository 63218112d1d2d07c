"""The flags of ``xmodaler reproduce``, apart from the command so that ``--help`` answers without PyTorch."""

from __future__ import annotations

import argparse
from typing import Any

from xmodaler_ssattn import shipped

TABLES_PLAN = "flickr30k_entities/tables.plan.yaml"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "reproduce",
        description="Train each row of a plan with each seed, score the best and the last weights on test, and write "
        "the tables and curves (OUT/tables.md, summary.json, curves.svg) and a model card per row (OUT/cards/ROW.md). "
        "Exit code 0: all runs are done; 3: some failed or are missing (see the tables); 2: an error in the input.",
        epilog="Machines that share OUT take one shard each. Without a shared folder, gather the run folders "
        "(OUT/ROW/seed_N) in one OUT afterwards and write the tables with --table-only. A run whose loss diverged is "
        "not repeated; to repeat it, remove its folder. Plans of the package: "
        + ", ".join(name for name in shipped.names() if name.endswith(shipped.PLAN))
        + ".",
    )
    parser.add_argument("--data", metavar="DIR", help="folder written by `xmodaler prepare`")
    parser.add_argument(
        "--plan",
        default=TABLES_PLAN,
        metavar="FILE",
        help=f"a plan, or the name of one of the package's, such as study/real.plan.yaml (default: {TABLES_PLAN})",
    )
    parser.add_argument(
        "--base",
        metavar="CONFIG",
        help="apply the rows to this config, such as study/real.yaml, instead of the plan's base or their own",
    )
    parser.add_argument("--out", metavar="DIR", help="default: output/tables, with --smoke output/smoke")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="instead of the plan's")
    parser.add_argument("--resume", action="store_true", help="continue the runs in OUT")
    parser.add_argument(
        "--table-only", action="store_true", help="only write the tables of the runs in OUT (also needs --data)"
    )
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="only every n-th run, from the i-th")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: 1, with --smoke 2)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of each run")
    parser.add_argument("--device", help="cpu or cuda; default: cuda when there is one")
    parser.add_argument(
        "--smoke", action="store_true", help="all rows on small sample scenes, in minutes; draws its data into OUT/data"
    )
    parser.add_argument("--metrics", nargs="+", metavar="M", help="caption metrics on test (default: all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn.reproduce.command import main

    return main(args)
