"""A training run as curves: losses, learning rate and scores from ``metrics.json``, as inline SVG."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.report.plot import HEIGHT, WIDTH, Line, Point, axes_and_lines, polyline

MOST_POINTS = 300
# Of no interest beside losses and scores.
SKIPPED = ("data_time", "time", "eta_seconds", "iteration")
SCORES_FIRST = ("CIDEr", "Bleu_4", "METEOR", "ROUGE_L", "SPICE", "F1_all", "F1_loc")


@dataclass(frozen=True)
class Run:
    """The scalars of one run.

    Attributes:
        name: as shown.
        series: scalar name -> [(iteration, value), ...] in order of iteration; finite values only.
        epochs: iteration of an evaluation -> its epoch, when the results files tell.
    """

    name: str
    series: dict[str, list[Point]]
    epochs: dict[float, int]


def read_run(folder: str | os.PathLike, name: str | None = None) -> Run:
    """Read ``folder/metrics.json``: one JSON object a line, as both hosts write it.

    Raises:
        UserError: no such file, or a line that is no JSON object (a last line cut short is passed over: the run may
            still be writing it).
    """
    folder = Path(folder)
    path = folder / "metrics.json"
    if not path.is_file():
        raise UserError(f"--run: there is no {path}; expected the OUTPUT_DIR of a training run.")
    lines = read_lines(path, "--run")
    values: dict[str, dict[float, float]] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"--run: {path}, line {number} is no JSON ({error.msg}).") from error
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), (int, float)):
            raise UserError(f"--run: {path}, line {number}: expected an object with an iteration.")
        for key, value in record.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                # A resumed run writes its steps again; the later value holds.
                values.setdefault(key, {})[float(record["iteration"])] = float(value)
    series = {key: sorted(points.items()) for key, points in values.items() if key not in SKIPPED}
    return Run(name or folder.resolve().name, series, _epochs(folder, series))


def _epochs(folder: Path, series: dict[str, list[Point]]) -> dict[float, int]:
    """The evaluations are in order, and so are the results files named by epoch; {} when their numbers differ."""
    epochs: dict[float, int] = {}
    for split in ("val", "test"):
        found = [
            re.fullmatch(rf"{split}_epoch_(\d+)\.json", p.name) for p in folder.glob(f"results/{split}_epoch_*.json")
        ]
        numbers = sorted(int(match.group(1)) for match in found if match)
        steps = sorted({x for key, points in series.items() if key.startswith(f"{split}/") for x, _ in points})
        if len(numbers) == len(steps):
            epochs.update(zip(steps, numbers))
    return epochs


def curves_html(runs: Sequence[Run], *, opened: bool = True) -> str:
    """All plots of all runs, in a fold; "" for no run. Every text is escaped."""
    if not runs:
        return ""
    names = list(dict.fromkeys(key for run in runs for key in run.series))
    losses = [n for n in names if "loss" in n.lower()]
    losses.sort(key=lambda n: n != "total_loss")
    scores = sorted((n for n in names if n.startswith(("val/", "test/"))), key=_score_order)
    rates = [n for n in names if n == "lr"]
    rest = [n for n in names if n not in (*losses, *scores, *rates)]
    shown = [n for n in scores if n.split("/")[1] in SCORES_FIRST and n.startswith("val/")]
    folded = [n for n in scores if n not in shown] + rest
    fold = '<details id="run" open>' if opened else '<details id="run">'
    parts = [f"{fold}<summary><h2>Training</h2></summary>", _legend(runs)]
    parts += ['<div class="plots">', *(_plot(n, runs) for n in (*losses, *rates, *shown)), "</div>"]
    if folded:
        parts.append(f"<details><summary>{len(folded)} more curves</summary>")
        parts += ['<div class="plots">', *(_plot(n, runs) for n in folded), "</div></details>"]
    return "\n".join([*parts, "</details>"])


def _score_order(name: str) -> tuple:
    split, _, score = name.partition("/")
    place = SCORES_FIRST.index(score) if score in SCORES_FIRST else len(SCORES_FIRST)
    return split != "val", place, name


def _legend(runs: Sequence[Run]) -> str:
    items = [
        f'<li><svg width="28" height="10" aria-hidden="true">{polyline([(1, 5), (27, 5)], i)}</svg>'
        f"{escape(run.name)}</li>"
        for i, run in enumerate(runs)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points, each the mean of its neighbours; short series stay as they are."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _plot(name: str, runs: Sequence[Run]) -> str:
    by_epoch = all(x in run.epochs for run in runs for x, _ in run.series.get(name, ()))
    series = []
    for run in runs:
        points = [(float(run.epochs[x]) if by_epoch else x + 1, y) for x, y in run.series.get(name, ())]
        series.append(thin(points))
    drawn = axes_and_lines(
        [Line(run.name, points, i) for i, (run, points) in enumerate(zip(runs, series))],
        "epoch" if by_epoch else "step",
    )
    if not drawn:
        return ""
    label = escape(name)
    box = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn}</svg>'
    return f"<figure><figcaption>{label}</figcaption>{box}</figure>"
