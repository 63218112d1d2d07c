"""The runs of a plan, those of this machine, and a run's folder: its record, its curves, its remaining work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from xmodaler_ssattn.engine.best import BEST_RECORD
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json, write_json
from xmodaler_ssattn.report.curves import read_run
from xmodaler_ssattn.report.plot import Point
from xmodaler_ssattn.reproduce.plan import Plan

RUN_FILE = "run.json"
SCHEMA, VERSION = "xmodaler_ssattn/run", 1
# The status of a run in its record.
RUNNING, DONE, FAILED, DIVERGED = "running", "done", "failed", "diverged"
# Further values in a table.
MISSING, OTHER, NO_CONFIG = "missing", "other config", "no config"
MOST_SHOWN = 5  # differing keys of two configs


class Job(NamedTuple):
    """One run: a row with one seed."""

    row: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row} seed {self.seed}"

    def folder(self, out: Path) -> Path:
        return out / self.row / f"seed_{self.seed}"


def job_list(plan: Plan) -> list[Job]:
    """All runs, the first seed of every row before the second of any, so that an unfinished study has all rows."""
    most = max(len(row.seeds) for row in plan.rows.values())
    return [Job(row.name, row.seeds[i]) for i in range(most) for row in plan.rows.values() if i < len(row.seeds)]


def parse_shard(text: str) -> tuple[int, int]:
    """ "2/3" -> (2, 3), the second of three machines.

    Raises UserError: the text is not two numbers with 1 <= i <= n.
    """
    first, slash, second = text.partition("/")
    if slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise UserError(f"--shard: expected i/n with 1 <= i <= n, such as 2/3, got {text!r}.")


def shard_of(jobs: Sequence[Job], shard: tuple[int, int]) -> list[Job]:
    """Every n-th run, from the i-th: the shards 1/n to n/n contain every run once."""
    i, n = shard
    return list(jobs[i - 1 :: n])


def read_record(folder: Path) -> dict[str, Any] | None:
    """The run's record; None when there is none. Raises UserError: the file is not such a record."""
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    record = read_json(path, "A run's record")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or record.get("version") != VERSION:
        raise UserError(f'{path}: expected an object with "schema": "{SCHEMA}" and "version": {VERSION}.')
    return record


def new_record(job: Job, identity: Mapping[str, Any], config_sha256: str) -> dict[str, Any]:
    """The record of a run that has not begun."""
    return {
        "schema": SCHEMA, "version": VERSION, "row": job.row, "seed": job.seed, "status": RUNNING, "reason": "",
        "config_sha256": config_sha256, "config": dict(identity), "trained": False, "host": "",
        "seconds": {"train": 0.0, "evaluate": 0.0}, "best_epoch": None, "epochs": {}, "evaluations": {},
    }  # fmt: skip


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    write_json(folder / RUN_FILE, record, indent=1)


def best_record(run: Path) -> dict[str, Any]:
    """``best.json`` of a run, or an empty record without it."""
    path = run / BEST_RECORD
    return read_json(path, "The best checkpoint's record") if path.is_file() else {"best": None, "epochs": {}}


def epochs_of(run: Path) -> dict[str, dict[str, Any]]:
    """A run's curves: epoch (as text) -> {"train": {name: mean over the epoch's points}, "val": {name: score}}.

    ``metrics.json`` has losses and learning rate every SOLVER.WRITE_PERIOD steps, smoothed by the host; the record of
    the best checkpoint has the scores and says where the epochs end.
    """
    scored = best_record(run)["epochs"]
    ends = {int(epoch): int(entry["iteration"]) for epoch, entry in scored.items()}
    series = read_run(run).series if (run / "metrics.json").is_file() else {}
    return {
        str(epoch): {"train": values, "val": scored.get(str(epoch), {}).get("scores", {})}
        for epoch, values in split_epochs(series, ends).items()
    }


def split_epochs(series: Mapping[str, Sequence[Point]], ends: Mapping[int, int]) -> dict[int, dict[str, float]]:
    """Epoch -> name -> mean of the series' points in it.

    Args:
        series: name -> [(iteration, finite value), ...]; names with a split ("val/CIDEr") are left out.
        ends: evaluated epoch -> its last iteration, counted from 0.
    """
    if not ends:
        return {}
    last, end = max(ends.items())
    found: dict[int, dict[str, list[float]]] = {epoch: {} for epoch in range(1, last + 1)}
    for name, points in series.items():
        for iteration, value in points if "/" not in name else ():
            epoch = min(int(iteration * last // (end + 1)) + 1, last)
            found[epoch].setdefault(name, []).append(value)
    return {epoch: {name: fmean(values) for name, values in means.items()} for epoch, means in found.items()}


@dataclass(frozen=True)
class Decision:
    """What to do with a run."""

    train: bool = False  # from its last checkpoint, if any
    evaluate: tuple[str, ...] = ()  # names of evaluations
    status: str = DONE  # the entry in the table when there is nothing to do
    reason: str = ""  # of the status


def decide(
    record: Mapping[str, Any] | None, changed: Sequence[str], evaluations: Mapping[str, Mapping[str, Any]]
) -> Decision:
    """Decide what to do with a run.

    Args:
        record: of the run's folder; None when it has none.
        changed: ``settings.differences`` between the record's config and the wanted one.
        evaluations: name -> settings of all wanted evaluations, including best and last.
    """
    if record is None:
        return Decision(True, tuple(evaluations))
    if changed:
        more = f"; and {len(changed) - MOST_SHOWN} more" if len(changed) > MOST_SHOWN else ""
        return Decision(status=OTHER, reason="; ".join(changed[:MOST_SHOWN]) + more)
    if record["status"] == DIVERGED:  # it would diverge again: a run depends only on its config and seed
        return Decision(status=DIVERGED, reason=record["reason"])
    done = record["evaluations"]
    wanted = json.loads(json.dumps({name: dict(settings) for name, settings in evaluations.items()}))
    open_ones = tuple(
        name for name, settings in wanted.items()
        if name not in done or done[name].get("failed") or done[name]["set"] != settings
    )  # fmt: skip
    return Decision(not record["trained"], open_ones)
