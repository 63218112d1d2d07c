"""``xmodaler reproduce``: train and score the rows of a plan, and write their tables. Its flags are in ``flags.py``."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xmodaler_ssattn import host, shipped
from xmodaler_ssattn.cli.output import exit_code_of
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.metrics import metric_names
from xmodaler_ssattn.files import write_text
from xmodaler_ssattn.reproduce import jobs
from xmodaler_ssattn.reproduce.card import cards, facts_of
from xmodaler_ssattn.reproduce.collecting import as_text, collect, public
from xmodaler_ssattn.reproduce.figure import curves_svg
from xmodaler_ssattn.reproduce.floors import kept_floors
from xmodaler_ssattn.reproduce.plan import Plan, read_plan, restricted
from xmodaler_ssattn.reproduce.running import run_all
from xmodaler_ssattn.reproduce.settings import Machine, read_data_folder
from xmodaler_ssattn.reproduce.study import Study
from xmodaler_ssattn.reproduce.tables import markdown

SUMMARY, TABLES, CURVES, CARDS = "summary.json", "tables.md", "curves.svg", "cards"
EXIT_FAILED = 3
SMOKE_SCENES, SMOKE_FEATURES, SMOKE_SEEDS = 500, 256, (0, 1)
SMOKE_COMMON = {"SOLVER.EPOCH": 6, "SOLVER.EVAL_PERIOD": 2, "INFERENCE.METRICS": ["CIDEr", "F1"]}


def main(args: argparse.Namespace) -> int:
    """The command; SIGTERM ends it as Ctrl-C does, and says how it is resumed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return exit_code_of(lambda: run(args), "The same command with --resume continues.")
    finally:
        signal.signal(signal.SIGTERM, before)


def run(args: argparse.Namespace) -> int:
    """Check everything, run, write the tables; returns the exit code."""
    study = study_of(args)
    print(host.describe(), flush=True)
    shard = jobs.parse_shard(args.shard)
    wanted = jobs.shard_of(jobs.job_list(restricted(study.plan, args.rows, None)), shard)
    command = command_of(args.words)
    if not args.table_only:
        if not args.resume:
            refuse_old_runs(study, wanted)
        print(f"{len(wanted)} runs into {study.out}", flush=True)
        run_all(study, wanted, args.jobs, lambda: write(study, command))
    summary = write(study, command)
    bad = [
        f"{job.name}: {entry['status']}. {entry['reason']}"
        for job in wanted
        if (entry := summary["rows"][job.row]["seeds"][str(job.seed)])["status"] != jobs.DONE
    ]
    print(f"Tables: {study.out / TABLES}", flush=True)
    for line in bad:
        print(line, file=sys.stderr)
    return EXIT_FAILED if bad else 0


def study_of(args: argparse.Namespace) -> Study:
    """The study that the flags name. Raises UserError: no data, a bad plan, shard, row or number."""
    for name in ("jobs", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}.")
    jobs.parse_shard(args.shard)  # refuse an impossible shard before anything is read or drawn
    if args.seeds and (min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds)):
        raise UserError(f"--seeds: expected different numbers >= 0, got {' '.join(map(str, args.seeds))}.")
    if not args.data and not args.smoke:
        raise UserError("--data: give the folder written by `xmodaler prepare` (--smoke draws its own data).")
    if args.base and args.smoke:
        raise UserError("--base: --smoke brings the config of the sample scenes; give only one of the two.")
    plan = read_plan(args.plan)
    plan = replace(plan, base=shipped.find(args.base, "--base")) if args.base else plan
    plan = restricted(smoke_plan(plan) if args.smoke else plan, None, args.seeds)
    restricted(plan, args.rows, None)  # refuse an unknown row before anything is read or drawn
    out = Path(args.out or ("output/smoke" if args.smoke else "output/tables")).resolve()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file, expected a folder.")
    if args.smoke:
        args.data = args.data or str(out / "data")
        _draw_data(Path(args.data))
        args.jobs, args.threads = args.jobs or 2, args.threads or 1
    args.jobs = args.jobs or 1
    machine = Machine(args.device, args.threads or 0)
    return Study(plan, read_data_folder(args.data), out, machine, metric_names(args.metrics))


def smoke_plan(plan: Plan) -> Plan:
    """The plan in minutes: each row's difference from its base.yaml on the base config of the sample scenes."""
    seeds = {name: SMOKE_SEEDS[: min(len(row.seeds), len(SMOKE_SEEDS))] for name, row in plan.rows.items()}
    note = (
        f"A smoke test: {SMOKE_SCENES} drawn scenes, {SMOKE_COMMON['SOLVER.EPOCH']} epochs. It shows that every row "
        "trains and is scored; its numbers say nothing about the paper's claims."
    )
    return replace(
        plan,
        title=f"{plan.title} (smoke test)",
        note=note,
        base=shipped.folder() / "sample" / "base.yaml",
        common=SMOKE_COMMON,
        rows={name: replace(row, seeds=seeds[name]) for name, row in plan.rows.items()},
    )


def _draw_data(folder: Path) -> None:
    """Draw the sample scenes unless they exist."""
    from xmodaler_ssattn.worlds.drawn import draw_dataset

    print(f"Sample scenes: {SMOKE_SCENES} in {folder}", flush=True)
    draw_dataset(folder, num_images=SMOKE_SCENES, feature_dim=SMOKE_FEATURES)


def command_of(argv: Sequence[str]) -> str:
    """The command line for the record; absolute paths, which are specific to this machine, become file names."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in argv]
    return shlex.join(["xmodaler", *words])


def refuse_old_runs(study: Study, wanted: Sequence[jobs.Job]) -> None:
    """Raise UserError if the folder of a wanted run exists already."""
    there = [job for job in wanted if (job.folder(study.out) / jobs.RUN_FILE).is_file()]
    raise_all(
        [f"{job.folder(study.out)} already contains a run." for job in there],
        "--resume continues existing runs; another --out starts new ones",
    )


def write(study: Study, command: str) -> dict[str, Any]:
    """Write tables, model cards and curves of the results that exist; returns the summary."""
    summary = collect(study, kept_floors(study.data, study.out / SUMMARY))
    summary["command"] = command
    write_text(study.out / SUMMARY, as_text(summary))
    write_text(study.out / TABLES, markdown(study.plan, summary, command))
    try:
        facts = facts_of(study.data.path)
    except UserError as error:  # a damaged file must not cost the tables
        facts = {"limits": [f"The facts about the data could not be read: {public(str(error))}"]}
    for name, card in cards(study.plan, summary, facts, study.out).items():
        write_text(study.out / CARDS / f"{name}.md", card)
    if figure := curves_svg(study.plan, summary):
        write_text(study.out / CURVES, figure)
    return summary
