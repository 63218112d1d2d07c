"""A plan on a data set with a folder for its runs, and the remaining work of each run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmodaler_ssattn.engine.best import BEST_WEIGHTS
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.metrics import metric_names
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.reproduce import jobs, settings
from xmodaler_ssattn.reproduce.evaluate import EVALUATION_FILE, evaluation_folder
from xmodaler_ssattn.reproduce.jobs import Job
from xmodaler_ssattn.reproduce.plan import BEST, LAST, Plan, Row
from xmodaler_ssattn.reproduce.replicates import REPLICATES_FILE

LOCK = ".lock"


@dataclass(frozen=True)
class Study:
    """A plan on a data set, with a folder for its runs."""

    plan: Plan
    data: settings.DataFolder
    out: Path
    machine: settings.Machine = field(default_factory=settings.Machine)
    metrics: tuple[str, ...] = field(default_factory=metric_names)


@dataclass(frozen=True)
class Prepared:
    """A run to do; ``problem``: the reason why it cannot be done, ``status``: its entry in the tables then."""

    job: Job
    folder: Path
    config: str = ""
    values: Mapping[str, Any] | None = None
    identity: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] | None = None
    problem: str = ""
    status: str = jobs.NO_CONFIG


def prepare(study: Study, job: Job) -> Prepared:
    """The config of a run, checked; a row whose config is missing or broken becomes a ``problem``."""
    row, folder = study.plan.rows[job.row], job.folder(study.out)
    try:
        config, values = settings.settings_of(study.plan, row, job.seed, study.data)
        if row.start is not None:
            weights = Job(row.start, job.seed).folder(study.out) / BEST_WEIGHTS
            if not weights.is_file():
                problem = f"it starts from the best weights of {row.start} seed {job.seed}, which do not exist yet"
                return Prepared(job, folder, problem=problem, status=jobs.MISSING)
            values["MODEL.WEIGHTS"] = str(weights)
        training = settings.training_values(values, folder)
        cfg = settings.config_of(config, training, study.data, study.machine)
    except UserError as error:
        return Prepared(job, folder, problem=str(error))
    identity = settings.identity_of(cfg, study.data)
    identity["MODEL.WEIGHTS"] = identity["MODEL.WEIGHTS"].replace(str(study.out), "{out}")
    return Prepared(job, folder, config, values, identity, settings.defaults_of(cfg))


def evaluations_of(row: Row) -> dict[str, Mapping[str, Any]]:
    """Name -> settings of all evaluations of a row: best, last, and the plan's."""
    return {BEST: {}, LAST: {}, **row.evaluations}


def decision_of(study: Study, prepared: Prepared) -> tuple[jobs.Decision, dict[str, Any] | None]:
    """(what to do with the run, its record)."""
    if prepared.problem:
        return jobs.Decision(status=prepared.status, reason=prepared.problem), None
    record = jobs.read_record(prepared.folder)
    if record is None and prepared.folder.is_dir() and any(p.name != LOCK for p in prepared.folder.iterdir()):
        reason = f"{prepared.folder} contains files that were not written by a run of a plan"
        return jobs.Decision(status=jobs.OTHER, reason=reason), None
    evaluations, changed = evaluations_of(study.plan.rows[prepared.job.row]), []
    if record is not None:
        changed = settings.differences(record["config"], prepared.identity, prepared.defaults)
        for name in evaluations:
            entry = record["evaluations"].get(name)
            if entry is None:  # it may be done, but was killed before the record was written
                take_evaluation(prepared.folder, name, record)
            elif not (evaluation_folder(prepared.folder, name) / REPLICATES_FILE).is_file():
                record["evaluations"].pop(name)
    return jobs.decide(record, changed, evaluations), record


def take_evaluation(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Add a finished evaluation in a run's folder to its record."""
    path = evaluation_folder(folder, name) / EVALUATION_FILE
    if path.is_file():
        record["evaluations"][name] = read_json(path, "An evaluation")
