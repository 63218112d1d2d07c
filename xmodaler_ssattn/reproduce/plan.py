"""A plan: the rows to train, their seeds, the scores, and the claimed orderings.

One yaml file (configs in it are relative to it, or names of shipped ones, see ``shipped.py``; ``{data}`` in a value is
the data folder)::

    title: Tables 1 and 2
    base: other.yaml            optional: apply each row's difference to this config instead of its own base.yaml
    seeds: [0, 1, 2]
    common: {SOLVER.EPOCH: 20}  for every row
    rows:
      NAME:
        config: ss_attn.yaml    required
        label: SS Attn.         the name in the tables; default NAME
        set: {KEY: VALUE}       on top of config and common
        seeds: [0]              instead of the plan's
        start: OTHER            a second stage: start from the best weights of that row, same seed
        of: OTHER               the row to compare with
        note: one sentence
        evaluations: {alpha: {INFERENCE.GROUND_BY: alpha}}   more passes over test with the best weights
        paper: {C: 65.6}        the paper's numbers, in percent, by metric
      QUOTED: {label: NBT, paper: {C: 57.5}}    without a config: a row of the paper that is not run
    evaluations: {...}          the same for every row
    tables: [{title: Table 1, rows: [NAME, ...], metrics: [B@4, C]}]    default: one table of all rows
    orderings:
      - {name: ..., a: ROW, b: ROW/EVALUATION, metrics: [C, F1_loc], claim: greater, note: ...}

Metrics are B@1 to B@4, M(ETEOR), R(OUGE-L), C(IDEr), S(PICE), F1_all, F1_loc, the same per sentence (F1_all/s,
F1_loc/s), named (the share of the annotated classes that the captions name), and acc, the attention accuracy on forced
reference captions, for evaluations with INFERENCE.GT_ATTENTION.

An ordering claims that b is above a in each of its metrics (``greater``), or that b does not gain
(``no_gain``: at most ``margin`` points, default 0).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xmodaler_ssattn.configuring import read_yaml
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.evaluation.metrics import score_titles
from xmodaler_ssattn.shipped import find

# Title in tables and plans -> the evaluator's score name.
METRICS = {
    **score_titles(), "F1_all": "F1_all", "F1_loc": "F1_loc", "F1_all/s": "F1_all_per_sentence",
    "F1_loc/s": "F1_loc_per_sentence", "named": "classes_named", "acc": "attention_accuracy",
}  # fmt: skip
ACCURACY = "acc"  # only in further evaluations: forcing the reference captions is a separate pass
GROUNDING_METRICS = ("F1_all", "F1_loc", "F1_all/s", "F1_loc/s", "named", ACCURACY)
PAPER_METRICS = ("B@1", "B@4", "M", "C", "S", "F1_all", "F1_loc")
GREATER, NO_GAIN = "greater", "no_gain"
BEST, LAST = "best", "last"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Row:
    """One line of a table; see the module's docstring. ``evaluations`` includes those of the plan.

    ``config`` is None, and there are no seeds and no evaluations, for a row that is only quoted.
    """

    name: str
    config: Path | None
    label: str
    set: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    of: str | None = None
    start: str | None = None
    note: str = ""
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ordering:
    """A claim about two rows (or ``ROW/EVALUATION``), for each of some metrics."""

    name: str
    a: str
    b: str
    metrics: tuple[str, ...]
    claim: str = GREATER
    margin: float = 0.0  # points, for no_gain
    note: str = ""


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[str, ...]
    metrics: tuple[str, ...] = PAPER_METRICS


@dataclass(frozen=True)
class Plan:
    """A whole plan; ``rows`` in the file's order."""

    title: str
    path: Path
    rows: Mapping[str, Row]
    common: Mapping[str, Any] = field(default_factory=dict)
    base: Path | None = None
    tables: tuple[Table, ...] = ()
    orderings: tuple[Ordering, ...] = ()
    note: str = ""


def read_plan(path: str | os.PathLike) -> Plan:
    """Read and check a plan file.

    Raises:
        UserError: the file is missing or broken, or has unknown entries, names or rows; lists all problems at once. A
            row whose config file is missing is not an error here: the tables report it, and the other rows run.
    """
    path = find(path, "--plan")
    data = read_yaml(path, "--plan")
    if not isinstance(data, dict) or not isinstance(data.get("rows"), dict) or not data["rows"]:
        raise UserError(f"--plan: {path}: expected rows: with at least one row; see xmodaler_ssattn/reproduce/plan.py.")
    problems: list[str] = []
    known = ("title", "note", "base", "seeds", "common", "rows", "evaluations", "tables", "orderings")
    _only(data, known, "", problems)
    seeds = _seeds(data.get("seeds", [0, 1, 2]), "seeds", problems)
    shared = _evaluations(data.get("evaluations"), "evaluations", problems)
    rows = {str(name): _row(str(name), entry, path, seeds, shared, problems) for name, entry in data["rows"].items()}
    rows = {name: row for name, row in rows.items() if row is not None}
    for row in rows.values():
        for key, other in (("of", row.of), ("start", row.start)):
            if other is not None and (other not in rows or other == row.name or rows[other].config is None):
                problems.append(f"rows.{row.name}.{key}: there is no other row named {other} with a config.")
        if row.start in rows and rows[row.start].start is not None:
            problems.append(f"rows.{row.name}.start: {row.start} is a second stage; there is no third stage.")
    tables = _tables(data.get("tables"), rows, problems)
    orderings = _orderings(data.get("orderings"), rows, problems)
    common = _settings(data.get("common"), "common", problems)
    raise_all(problems, f"--plan: {path}")
    base = find(data["base"], f"--plan: {path}: base", path.parent) if data.get("base") else None
    title, note = str(data.get("title", path.stem)), str(data.get("note", ""))
    return Plan(title, path, rows, common, base, tables, orderings, note)


def restricted(plan: Plan, rows: Sequence[str] | None, seeds: Sequence[int] | None) -> Plan:
    """The plan with some rows and other seeds.

    The seeds replace those of every row with more than one seed; a row with one seed of its own takes the first.

    Raises UserError: a row that the plan does not have.
    """
    unknown = [name for name in rows or () if name not in plan.rows]
    if unknown:
        raise UserError(f"--rows: no row {', '.join(unknown)} in {plan.path}; it has {', '.join(plan.rows)}.")
    kept = {name: row for name, row in plan.rows.items() if not rows or name in rows}
    if seeds:
        kept = {
            name: replace(row, seeds=tuple(seeds) if len(row.seeds) > 1 else tuple(seeds[: len(row.seeds)]))
            for name, row in kept.items()
        }
    return replace(plan, rows=kept)


def split_reference(reference: str) -> tuple[str, str]:
    """ "ROW" -> (ROW, "best"), "ROW/EVALUATION" -> both."""
    row, _, evaluation = reference.partition("/")
    return row, evaluation or BEST


def _only(entry: Mapping[str, Any], known: Sequence[str], where: str, problems: list[str]) -> None:
    for key in entry:
        if key not in known:
            problems.append(f"{where}{key}: unknown entry; known are {', '.join(known)}.")


def _seeds(value: Any, where: str, problems: list[str]) -> tuple[int, ...]:
    ok = isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value)
    if not ok or len(set(value)) != len(value):
        problems.append(f"{where}: expected a list of different seeds >= 0, got {value!r}.")
        return ()
    return tuple(value)


def _settings(value: Any, where: str, problems: list[str]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        problems.append(f"{where}: expected config keys with their values, got {value!r}.")
        return {}
    nested = [key for key, setting in value.items() if isinstance(setting, dict)]
    if nested:
        problems.append(f"{where}.{nested[0]}: write the keys with dots, such as {nested[0]}.NAME: VALUE.")
    return value


def _evaluations(value: Any, where: str, problems: list[str]) -> dict[str, Mapping[str, Any]]:
    found = {}
    for name, setting in _dict(value, where, problems).items():
        if name in (BEST, LAST) or not _NAME.fullmatch(str(name)):
            problems.append(f"{where}.{name}: expected a name of letters and digits, and not best or last.")
        found[str(name)] = _settings(setting, f"{where}.{name}", problems)
    return found


def _dict(value: Any, where: str, problems: list[str]) -> dict:
    if value is not None and not isinstance(value, dict):
        problems.append(f"{where}: expected names with entries, got {value!r}.")
    return value if isinstance(value, dict) else {}


def _row(name: str, entry: Any, path: Path, seeds: tuple[int, ...], shared: Mapping, problems: list[str]) -> Row | None:
    where = f"rows.{name}"
    if not _NAME.fullmatch(name):
        problems.append(f"{where}: the name of a row is also a folder name; use letters, digits, '.', '_' and '-'.")
    quoted = isinstance(entry, dict) and "config" not in entry and "paper" in entry
    if not quoted and (not isinstance(entry, dict) or not isinstance(entry.get("config"), str)):
        problems.append(f"{where}: expected at least config: FILE, or paper: for a row that is not run, got {entry!r}.")
        return None
    known: tuple[str, ...] = ("config", "label", "set", "seeds", "start", "of", "note", "evaluations", "paper")
    known = ("label", "note", "paper") if quoted else known
    _only(entry, known, f"{where}.", problems)
    paper = _dict(entry.get("paper"), f"{where}.paper", problems)
    for metric, value in paper.items():
        if metric not in METRICS or isinstance(value, bool) or not isinstance(value, (int, float)):
            problems.append(f"{where}.paper.{metric}: expected a number for one of {', '.join(METRICS)}.")
    if quoted:
        return Row(name, None, str(entry.get("label", name)), note=str(entry.get("note", "")), paper=paper)
    return Row(
        name,
        _config(entry["config"], path),
        str(entry.get("label", name)),
        _settings(entry.get("set"), f"{where}.set", problems),
        _seeds(entry["seeds"], f"{where}.seeds", problems) if "seeds" in entry else seeds,
        entry.get("of"),
        entry.get("start"),
        str(entry.get("note", "")),
        {**shared, **_evaluations(entry.get("evaluations"), f"{where}.evaluations", problems)},
        paper,
    )


def _config(name: str, plan: Path) -> Path:
    try:
        return find(name, "", plan.parent)
    except UserError:
        return plan.parent / name  # the tables report it, and the other rows run


def _metrics(value: Any, where: str, problems: list[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or any(metric not in METRICS for metric in value):
        problems.append(f"{where}: expected some of {', '.join(METRICS)}, got {value!r}.")
        return ()
    return tuple(value)


def _tables(value: Any, rows: Mapping[str, Row], problems: list[str]) -> tuple[Table, ...]:
    if value is None:
        return (Table("All rows", tuple(rows)),)
    tables = []
    for number, entry in enumerate(value if isinstance(value, list) else [value]):
        where = f"tables[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("rows"), list):
            problems.append(f"{where}: expected title: and rows: [...], got {entry!r}.")
            continue
        _only(entry, ("title", "rows", "metrics"), f"{where}.", problems)
        unknown = [str(name) for name in entry["rows"] if name not in rows]
        if unknown:
            problems.append(f"{where}.rows: there is no row {', '.join(unknown)}.")
        metrics = _metrics(entry.get("metrics", list(PAPER_METRICS)), f"{where}.metrics", problems)
        tables.append(Table(str(entry.get("title", f"Table {number + 1}")), tuple(entry["rows"]), metrics))
    return tuple(tables)


def _orderings(value: Any, rows: Mapping[str, Row], problems: list[str]) -> tuple[Ordering, ...]:
    orderings = []
    for number, entry in enumerate(value if isinstance(value, list) else [] if value is None else [value]):
        where = f"orderings[{number}]"
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "a", "b")):
            problems.append(f"{where}: expected name:, a: and b:, got {entry!r}.")
            continue
        _only(entry, ("name", "a", "b", "metrics", "claim", "margin", "note"), f"{where}.", problems)
        for side in ("a", "b"):
            row, evaluation = split_reference(entry[side])
            if row not in rows or rows[row].config is None:
                problems.append(f"{where}.{side}: there is no row {row} with a config.")
            elif evaluation not in (BEST, LAST, *rows[row].evaluations):
                problems.append(f"{where}.{side}: row {row} has no evaluation {evaluation}.")
        claim, margin = entry.get("claim", GREATER), entry.get("margin", 0.0)
        if claim not in (GREATER, NO_GAIN):
            problems.append(f"{where}.claim: expected {GREATER} or {NO_GAIN}, got {claim!r}.")
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or margin < 0:
            problems.append(f"{where}.margin: expected points >= 0, got {margin!r}.")
            margin = 0.0
        metrics = _metrics(entry.get("metrics", list(PAPER_METRICS)), f"{where}.metrics", problems)
        orderings.append(
            Ordering(entry["name"], entry["a"], entry["b"], metrics, claim, float(margin), str(entry.get("note", "")))
        )
    return tuple(orderings)
