"""A run's curves, one point per epoch: means of losses and learning rate from metrics.json, and the scores on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from xmodaler_ssattn.engine.best import BEST_RECORD
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.report.curves import read_run
from xmodaler_ssattn.report.plot import Point


def best_record(run: Path) -> dict[str, Any]:
    """``best.json`` of a run, or an empty record without it."""
    path = run / BEST_RECORD
    return read_json(path, "The best checkpoint's record") if path.is_file() else {"best": None, "epochs": {}}


def epochs_of(run: Path) -> dict[str, dict[str, Any]]:
    """Epoch (as text) -> {"train": {name: mean over the epoch's points}, "val": {name: score}}.

    ``metrics.json`` has a point every SOLVER.WRITE_PERIOD steps, smoothed by the host; the record of the best
    checkpoint says where the epochs end.
    """
    scored = best_record(run)["epochs"]
    ends = {int(epoch): int(entry["iteration"]) for epoch, entry in scored.items()}
    series = read_run(run).series if (run / "metrics.json").is_file() else {}
    found = split_epochs(series, ends)
    return {
        str(epoch): {"train": values, "val": scored.get(str(epoch), {}).get("scores", {})}
        for epoch, values in found.items()
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
