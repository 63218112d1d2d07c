"""A run's curves, one point an epoch: mean training losses and learning rate from metrics.json, val's scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodaler_ssattn.engine.best import BEST_RECORD
from xmodaler_ssattn.files import read_json
from xmodaler_ssattn.report.curves import read_run


def best_record(run: Path) -> dict[str, Any]:
    """``best.json`` of a run; without one, no epoch and no best."""
    path = run / BEST_RECORD
    return read_json(path, "The best checkpoint's record") if path.is_file() else {"best": None, "epochs": {}}


def epochs_of(run: Path) -> dict[str, dict[str, Any]]:
    """Epoch (as text) -> {"train": {name: mean over the epoch's steps that were logged}, "val": {name: score}}.

    ``metrics.json`` holds a point every SOLVER.WRITE_PERIOD steps, smoothed by the host. The epochs' ends are known
    from the record of the best checkpoint.
    """
    scored = best_record(run)["epochs"]
    ends = {int(epoch): int(entry["iteration"]) for epoch, entry in scored.items()}
    series = read_run(run).series if (run / "metrics.json").is_file() else {}
    found = split_epochs(series, ends)
    return {
        str(epoch): {"train": values, "val": scored.get(str(epoch), {}).get("scores", {})}
        for epoch, values in found.items()
    }


def split_epochs(series: Mapping[str, Any], ends: Mapping[int, int]) -> dict[int, dict[str, float]]:
    """Epoch -> name -> mean of the series' points in it.

    Args:
        series: name -> [(iteration, value), ...]; names with a split ("val/CIDEr") are passed over.
        ends: evaluated epoch -> its last iteration, counted from 0.
    """
    if not ends:
        return {}
    epoch, end = max(ends.items())
    steps = (end + 1) / epoch
    sums: dict[int, dict[str, list[float]]] = {number: {} for number in range(1, epoch + 1)}
    for name, points in series.items():
        if "/" in name:
            continue
        for iteration, value in points:
            number = min(int(iteration // steps) + 1, epoch)
            if math.isfinite(value):
                sums[number].setdefault(name, []).append(value)
    return {
        number: {name: sum(values) / len(values) for name, values in by_name.items()}
        for number, by_name in sums.items()
    }
