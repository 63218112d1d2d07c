"""A training run as curves: losses, learning rate and scores from ``metrics.json``, as a part of the page."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from msgspec import Struct

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_json, read_lines
from xmodaler_ssattn.report.plot import HEIGHT, INK, WIDTH, Line, Point, draw_panel, drawing, legend_key, to_svg
from xmodaler_ssattn.schema import typed

MOST_POINTS = 300
CROSS_ENTROPY, TOTAL = "CrossEntropy Loss(G)", "total_loss"
SKIPPED = ("data_time", "time", "eta_seconds", "iteration")
SCORES_FIRST = ("CIDEr", "Bleu_4", "METEOR", "ROUGE_L", "SPICE", "F1_all", "F1_loc")
FOLDED = 4
AXES = (0.15, 0.18, 0.83, 0.66)  # left, bottom, width, height in a panel; four times as fast as a computed layout


@dataclass(frozen=True, eq=False)
class Run:
    """The scalars of one run."""

    name: str  # as shown
    series: dict[str, list[Point]]  # scalar name -> [(iteration, value), ...] in order; finite values only
    epochs: dict[float, int]  # iteration of an evaluation -> its epoch, if the results files give it

    def epoch_at(self, iteration: float) -> float:
        """The number of epochs up to that iteration, with a fraction."""
        last, epoch = max(self.epochs.items())
        return self.epochs.get(iteration, (iteration + 1) * epoch / (last + 1))


class _BestEpoch(Struct):
    iteration: float


def cross_entropy_name(names: Collection[str]) -> str:
    """The name of a run's cross-entropy among its scalars: a trainer with a single loss records only the sum."""
    return CROSS_ENTROPY if any("loss" in name.lower() and name != TOTAL for name in names) else TOTAL


def read_run(folder: str | os.PathLike, name: str | None = None) -> Run:
    """Read ``folder/metrics.json``: one JSON object per line. An incomplete last line is ignored: a run may be writing.

    Raises:
        UserError: the file does not exist, or a line is not a JSON object.
    """
    folder = Path(folder)
    path = folder / "metrics.json"
    if not path.is_file():
        raise UserError(f"--run: {path} does not exist; expected the OUTPUT_DIR of a training run.")
    lines = read_lines(path, "--run")
    values: dict[str, dict[float, float]] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # also thousands of digits or brackets
            if number == len(lines):
                break
            raise UserError(f"--run: {path}, line {number} is not JSON ({getattr(error, 'msg', error)}).") from error
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), (int, float)):
            raise UserError(f"--run: {path}, line {number}: expected an object with an iteration.")
        for key, value in record.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                # A resumed run repeats some steps; the later value is used.
                values.setdefault(key, {})[float(record["iteration"])] = float(value)
    series = {key: sorted(points.items()) for key, points in values.items() if key not in SKIPPED}
    return Run(name or folder.resolve().name, series, _epochs(folder, series))


def _epochs(folder: Path, series: dict[str, list[Point]]) -> dict[float, int]:
    """Iteration -> epoch, from the record of the best epoch; else the n-th evaluation wrote the n-th results file.

    {} when there is no record and the numbers of evaluations and files differ.
    """
    if (folder / "best.json").is_file():
        record = read_json(folder / "best.json", "The best checkpoint's record")
        try:
            entries = typed(record.get("epochs") if isinstance(record, dict) else None, dict[str, _BestEpoch])
        except UserError as error:
            raise UserError(f"--run: {folder / 'best.json'}: epochs: {error}.") from error
        return {entry.iteration: int(epoch) for epoch, entry in entries.items() if epoch.isdecimal()}
    epochs: dict[float, int] = {}
    for split in ("val", "test"):
        names = [path.stem.rpartition("_")[2] for path in folder.glob(f"results/{split}_epoch_*.json")]
        numbers = sorted(int(name) for name in names if name.isdecimal())
        steps = sorted({x for key, points in series.items() if key.startswith(f"{split}/") for x, _ in points})
        if len(numbers) == len(steps):
            epochs.update(zip(steps, numbers))
    return epochs


def curves_html(runs: Sequence[Run], models: Sequence[str] = (), *, opened: bool = True) -> str:
    """All plots of all runs, in a collapsible part of the page; "" without a run. Every text is escaped.

    ``models`` are names in the order of the page's colours; a run with the name of a model gets that model's colour.
    """
    if not runs:
        return ""
    places = {name: place for place, name in enumerate(dict.fromkeys((*models, *(run.name for run in runs))))}
    names = sorted({name for run in runs for name in run.series}, key=_order)
    # The total losses of models with different losses cannot be compared, but their cross-entropies can.
    shown = [n for n in names if _order(n)[0] < FOLDED and (n != TOTAL or CROSS_ENTROPY not in names)]
    folded = [n for n in names if n not in shown]
    with drawing():
        fold = '<details id="run" open>' if opened else '<details id="run">'
        parts = [f"{fold}<summary><h2>Training</h2></summary>", _legend(runs, places)]
        parts.append(_plots(shown, runs, places))
        if folded:
            parts.append(f"<details><summary>{len(folded)} more curves</summary>")
            parts += [_plots(folded, runs, places), "</details>"]
    return "\n".join([*parts, "</details>"])


def _plots(names: Sequence[str], runs: Sequence[Run], places: Mapping[str, int]) -> str:
    """The plots, then the scalars that have only single values."""
    plots = sorted((_plot(name, runs, places) for name in names), key=lambda plot: plot.startswith("<p"))
    return "\n".join(['<div class="plots">', *plots, "</div>"])


def _order(name: str) -> tuple[int, int, str]:
    """Cross-entropy, other losses, learning rate, the main scores on val; from FOLDED on everything else."""
    split, _, score = name.rpartition("/")
    place = SCORES_FIRST.index(score) if score in SCORES_FIRST else len(SCORES_FIRST)
    if split in ("val", "test"):
        main = split == "val" and score in SCORES_FIRST
        return (3 if main else FOLDED + (split == "test")), place, name
    if "loss" in name.lower():
        return int(name not in (CROSS_ENTROPY, TOTAL)), 0, name
    return (2 if name == "lr" else FOLDED + 2), 0, name


def _legend(runs: Sequence[Run], places: Mapping[str, int]) -> str:
    from matplotlib.figure import Figure

    items = []
    for run in runs:
        sample = Figure((0.4, 0.14), frameon=False)
        line = legend_key(places[run.name], run.name)
        line.set_data([0.02, 0.98], [0.5, 0.5])
        sample.add_artist(line)
        items.append(f"<li>{to_svg(sample, run.name)}{escape(run.name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points, each the mean of its neighbours; short series are unchanged."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def title_unit_scale(name: str) -> tuple[str, str, float]:
    """The display of a scalar: the title of its panel, the unit of its axis, and the factor to that unit."""
    split, _, score = name.rpartition("/")
    if split in ("val", "test"):
        return f"{score.replace('Bleu_', 'BLEU-').replace('_', ' ')}, {split}", "percent", 100.0
    if name == CROSS_ENTROPY:
        return "cross-entropy, training", "nats per word", 1.0
    if name == "lr":
        return "learning rate", "learning rate", 1.0
    if "loss" in name.lower():
        return f"{name[0].upper()}{name[1:].lower()}".replace("_", " "), "loss", 1.0
    return name, "value", 1.0


def _plot(name: str, runs: Sequence[Run], places: Mapping[str, int]) -> str:
    from matplotlib.figure import Figure

    title, unit, scale = title_unit_scale(name)
    series = {}
    for run in runs:
        own = cross_entropy_name(run.series) if name == CROSS_ENTROPY else name
        if own in run.series:
            series[run] = run.series[own]
    by_epoch = all(run.epochs for run in series)
    x_title = "epoch" if by_epoch else "step"
    lines, values = [], []
    for run, points in series.items():
        placed = [(run.epoch_at(x) if by_epoch else x + 1, scale * y) for x, y in points]
        if len(placed) > 1:
            lines.append(Line(run.name, thin(placed), places[run.name]))
        else:
            values += [f"{run.name} {y:.4g} ({x_title} {x:g})" for x, y in placed]
    text = escape(f"{title}: {'; '.join(values)}")
    if not lines:
        return f'<p class="hint">{text}</p>'
    figure = Figure((WIDTH, HEIGHT), frameon=False)
    draw_panel(figure.add_axes(AXES), lines, title, x_title, unit)
    svg = to_svg(figure, name).replace(INK, "currentColor")
    below = f'<figcaption class="hint">{text}</figcaption>' if values else ""
    return f'<figure role="img" aria-label="{escape(title)}">{svg}{below}</figure>'
