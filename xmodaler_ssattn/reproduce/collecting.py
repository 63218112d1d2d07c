"""The summary of a study: everything about its runs, except single images, as one JSON value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.reproduce import jobs, orderings
from xmodaler_ssattn.reproduce.evaluate import evaluation_folder
from xmodaler_ssattn.reproduce.plan import ACCURACY, BEST, METRICS, PAPER_METRICS, Ordering, Plan, Row, split_reference
from xmodaler_ssattn.reproduce.replicates import REPLICATES_FILE, read_replicates, same_images
from xmodaler_ssattn.reproduce.study import Study, decision_of, evaluations_of, prepare

SCHEMA, VERSION = "xmodaler_ssattn/study", 1
# The scores on val to keep for each epoch, so that the summary is small enough to be committed.
CURVE_SCORES = ("CIDEr", "greedy_CIDEr", "F1_all", "F1_loc")
NO_BEST = "no epoch has a CIDEr on val, so the last weights stand for the best"
# The entries of a run in the summary, if its record has them; its curves and its config are only in its record.
RUN_KEYS = ("status", "reason", "config_sha256", "host", "seconds", "best_epoch", "machines")
EVALUATION_KEYS = ("scores", "not_computed", "failed", "images", "places", "seconds")


def collect(study: Study, floors: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every run of the plan, missing ones included, and of other seeds with a folder; means, orderings, comparisons.

    Args:
        floors: those of the data, see ``floors.kept_floors``; included unchanged.
    """
    seeds_of = {name: _seeds(study.out / name, row) for name, row in study.plan.rows.items()}
    runs = {(name, seed): _run(study, jobs.Job(name, seed)) for name, seeds in seeds_of.items() for seed in seeds}
    rows = {}
    for name, row in study.plan.rows.items():
        seeds = {str(seed): runs[name, seed] for seed in seeds_of[name]}
        rows[name] = {
            "label": row.label, "note": row.note, "of": row.of, "paper": dict(row.paper), "set": dict(row.set),
            "seeds": seeds, "evaluations": {e: _over_seeds(_parts("scores", e, seeds)) for e in evaluations_of(row)},
            "quoted": row.config is None,
            "places": {e: found for e in evaluations_of(row) if (found := _places(e, seeds))},
        }  # fmt: skip
    arrays = _Arrays(study.out, runs)
    for name, row in rows.items():
        for evaluation, scores in row["evaluations"].items():
            for score in scores.keys() & set(METRICS.values()):
                scores[score] |= arrays.interval(name, evaluation, score)
    claims = [entry for ordering in study.plan.orderings for entry in _ordering(study.plan, ordering, arrays)]
    comparisons = _comparisons(study.plan, arrays)
    data = {"folder": study.data.path.name, "sha256": study.data.sha256, "sizes": dict(study.data.sizes)}
    return _finite({
        "schema": SCHEMA, "version": VERSION, "title": study.plan.title, "note": study.plan.note,
        "plan": study.plan.path.name, "common": dict(study.plan.common), "data": data, "rows": rows,
        "floors": {} if floors is None else dict(floors),
        "orderings": claims, "comparisons": comparisons, "problems": arrays.problems,
    })  # fmt: skip


def _seeds(folder: Path, row: Row) -> list[int]:
    if row.config is None:
        return []
    found = (re.fullmatch(r"seed_(\d+)", path.parent.name) for path in folder.glob(f"seed_*/{jobs.RUN_FILE}"))
    return sorted({*row.seeds, *(int(match.group(1)) for match in found if match)})


def _run(study: Study, job: jobs.Job) -> dict[str, Any]:
    nothing = {"evaluations": {}, "curves": {}}
    try:
        decision, record = decision_of(study, prepare(study, job))
    except UserError as error:
        return {"status": jobs.FAILED, "reason": public(str(error)), **nothing}
    if decision.status in (jobs.OTHER, jobs.NO_CONFIG) or (record is None and decision.reason):
        return {"status": decision.status, "reason": public(decision.reason), **nothing}
    if record is None:
        return {"status": jobs.MISSING, "reason": "not run yet", **nothing}
    evaluations = {
        name: {key: entry[key] for key in EVALUATION_KEYS if key in entry}
        for name, entry in record["evaluations"].items()
    }
    for entry in evaluations.values():
        for metric, reason in entry.get("not_computed", {}).items():
            entry["not_computed"][metric] = public(reason.split(";")[0])
        if "failed" in entry:
            entry["failed"] = public(entry["failed"])
    if evaluations and record["best_epoch"] is None:
        record["reason"] = "; ".join(filter(None, (record["reason"], NO_BEST)))
    kept = {key: record[key] for key in RUN_KEYS if key in record} | {"reason": public(record["reason"])}
    return {**kept, "evaluations": evaluations, "curves": columns(record["epochs"])}


def columns(epochs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """A run's epochs as columns: "epoch", the training means by name, and "val/NAME" for ``CURVE_SCORES``."""
    if not epochs:
        return {}
    ordered = [epochs[epoch] for epoch in sorted(epochs, key=int)]
    table: dict[str, list[float | None]] = {"epoch": sorted(map(int, epochs))}
    for name in dict.fromkeys(name for entry in ordered for name in entry["train"]):
        table[name] = [entry["train"].get(name) for entry in ordered]
    return table | {f"val/{name}": [entry["val"].get(name) for entry in ordered] for name in CURVE_SCORES}


def public(text: str) -> str:
    """``text`` with absolute paths reduced to file names, without the folders of this machine."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/]+/)+(?=[^\s/])", "", text)


def _parts(part: str, evaluation: str, seeds: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [run["evaluations"].get(evaluation, {}).get(part, {}) for run in seeds.values()]


def _places(evaluation: str, seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """group -> words, and mean and deviation of its attention accuracy; see ``accuracy_by_place``."""
    found = _parts("places", evaluation, seeds)
    spread = _over_seeds([{name: group["accuracy"] for name, group in entry.items()} for entry in found])
    words = {name: group["words"] for entry in found for name, group in entry.items()}
    return {name: {"words": words[name], **entry} for name, entry in spread.items()}


def _over_seeds(found: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """name -> mean and deviation over the seeds that have it, in percent, and their number."""
    spread = {}
    for name in dict.fromkeys(name for entry in found for name in entry):
        values = [100 * entry[name] for entry in found if entry.get(name) is not None]
        mean, deviation = orderings.mean_and_deviation(values)
        spread[name] = {"mean": mean, "deviation": deviation, "seeds": len(values)}
    return spread


class _Arrays:
    """The replicates of all runs, read on demand and cached."""

    def __init__(self, out: Path, runs: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
        self._out, self._runs = out, runs
        self._read: dict[tuple[str, int, str], Any] = {}
        self.problems: list[str] = []

    def seeds(self, row: str) -> list[int]:
        return [seed for name, seed in self._runs if name == row]

    def one(self, row: str, seed: int, evaluation: str, score: str) -> Any:
        """(score, replicates, images) or None."""
        entry = self._runs.get((row, seed), {"evaluations": {}})["evaluations"].get(evaluation)
        if entry is None or entry.get("scores", {}).get(score) is None:
            return None
        key = (row, seed, evaluation)
        if key not in self._read:
            folder = evaluation_folder(jobs.Job(row, seed).folder(self._out), evaluation)
            try:
                self._read[key] = read_replicates(folder / REPLICATES_FILE)
            except UserError as error:
                self.problems.append(public(str(error)))
                self._read[key] = {}, {}
        values, images = self._read[key]
        return (entry["scores"][score], values[score], images) if score in values else None

    def interval(self, row: str, evaluation: str, score: str) -> dict[str, float]:
        """The 95 % interval of the mean over seeds, in percent; empty when the seeds were scored on other images."""
        found = [entry for seed in self.seeds(row) if (entry := self.one(row, seed, evaluation, score)) is not None]
        if not found or not all(same_images(found[0][2], images, score) for _, _, images in found):
            return {}
        low, high = orderings.around_the_mean([value for value, _, _ in found], [values for _, values, _ in found])
        return {"low": 100 * low, "high": 100 * high}

    def difference(self, a: str, b: str, score: str) -> orderings.Difference:
        """b - a over the seeds that both have, on the same images."""
        (row_a, eval_a), (row_b, eval_b) = split_reference(a), split_reference(b)
        pairs = {}
        for seed in self.seeds(row_a):
            one, other = self.one(row_a, seed, eval_a, score), self.one(row_b, seed, eval_b, score)
            if one is not None and other is not None and same_images(one[2], other[2], score):
                pairs[seed] = orderings.Pair(one[0], other[0], one[1], other[1])
        return orderings.paired(pairs)


def _ordering(plan: Plan, ordering: Ordering, arrays: _Arrays) -> list[dict[str, Any]]:
    entries = []
    for metric in ordering.metrics:
        found = arrays.difference(ordering.a, ordering.b, METRICS[metric])
        verdict = orderings.verdict(found, ordering.claim, ordering.margin)
        papers = []
        for reference in (ordering.a, ordering.b):
            row, evaluation = split_reference(reference)
            papers.append(plan.rows[row].paper.get(metric) if evaluation == BEST and row in plan.rows else None)
        entries.append({
            "name": ordering.name, "metric": metric, "a": ordering.a, "b": ordering.b, "claim": ordering.claim,
            "margin": ordering.margin, "note": ordering.note, "verdict": verdict,
            "paper": orderings.in_the_paper(*papers), **asdict(found),
        })  # fmt: skip
    return entries


def _comparisons(plan: Plan, arrays: _Arrays) -> list[dict[str, Any]]:
    """Every row against the row that its ``of`` names, and every further evaluation against its row's best weights."""
    pairs = [(row.of, name) for name, row in plan.rows.items() if row.of is not None]
    pairs += [(name, f"{name}/{evaluation}") for name, row in plan.rows.items() for evaluation in row.evaluations]
    entries = []
    for a, b in pairs:
        for metric in (*PAPER_METRICS, ACCURACY):
            found = arrays.difference(a, b, METRICS[metric])
            if found.by_seed:
                entries.append({"a": a, "b": b, "metric": metric, **asdict(found)})
    return entries


def as_text(summary: Mapping[str, Any]) -> str:
    """The summary as JSON: one entry per line, a list of plain values on one line."""
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    lists = re.compile(r"\[\n\s+([^\[\]{}]*?)\n\s+\]")
    return lists.sub(lambda match: "[" + re.sub(r"\n\s+", " ", match.group(1)) + "]", text) + "\n"


def _finite(value: Any) -> Any:
    """NaN -> None, numbers rounded to six decimals, through dicts and lists."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
