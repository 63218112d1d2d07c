"""Keep the weights with the best validation score, which is read from the results file of the epoch's evaluation.

``OUTPUT_DIR/best.json``::

    {"metric": "val/CIDEr", "best": 3, "epochs": {"1": {"iteration": 119, "scores": {"CIDEr": 0.31, ...}}, ...}}

``OUTPUT_DIR/model_best.pth``: ``{"model": weights, "epoch": 3}`` of the epoch named by ``best``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.evaler import Flickr30kEntitiesEvaler, scores_after_each_epoch
from xmodaler_ssattn.files import read_json, write_json
from xmodaler_ssattn.host import HookBase, comm
from xmodaler_ssattn.sealed import save_sealed

BEST_WEIGHTS, BEST_RECORD = "model_best.pth", "best.json"
logger = logging.getLogger(__name__)


def best_epoch(scores: Mapping[int, float | None]) -> int | None:
    """The earliest epoch with the highest score; None when no epoch has a finite score."""
    finite = {epoch: value for epoch, value in scores.items() if value is not None and math.isfinite(value)}
    return min(finite, key=lambda epoch: (-finite[epoch], epoch)) if finite else None


def best_hook(cfg: Any) -> KeepBest | None:
    """The hook for a config, or None when ``SOLVER.KEEP_BEST`` is empty; a score that it would not have is refused."""
    name = cfg.SOLVER.get("KEEP_BEST", "")
    if not name:
        return None
    split, _, metric = name.partition("/")
    if split not in ("val", "test") or not metric:
        raise UserError(f"SOLVER.KEEP_BEST: expected a split and a score such as val/CIDEr, got {name!r}.")
    if not cfg.DATASETS[split.upper()]:
        raise UserError(f"SOLVER.KEEP_BEST is {name}, but DATASETS.{split.upper()} is empty: nothing would be scored.")
    if cfg.INFERENCE.NAME == Flickr30kEntitiesEvaler.__name__:
        given = scores_after_each_epoch(cfg, split)
        if metric not in given:
            raise UserError(
                f"SOLVER.KEEP_BEST is {name}, but INFERENCE.METRICS does not give {metric} after every epoch; it gives "
                f"{', '.join(given) or 'nothing'}."
            )
    return KeepBest(Path(cfg.OUTPUT_DIR), split, metric, period=cfg.SOLVER.EVAL_PERIOD)


class KeepBest(HookBase):
    """After every evaluated epoch: keep its weights if they are the best so far.

    Args:
        folder: the run's OUTPUT_DIR.
        split, metric: the score to compare, e.g. ``"val"`` and ``"CIDEr"``.
        period: SOLVER.EVAL_PERIOD, the epochs between evaluations. The last epoch is always evaluated.
    """

    def __init__(self, folder: Path, split: str, metric: str, period: int) -> None:
        self._folder, self._split, self._metric, self._period = folder, split, metric, period
        self._epochs: dict[int, dict[str, Any]] = {}
        self._caught_up = False

    def before_train(self) -> None:
        record = self._folder / BEST_RECORD
        if self.trainer.start_iter == 0:  # a new run: remove the files of an earlier one
            if comm.is_main_process():
                record.unlink(missing_ok=True)
                (self._folder / BEST_WEIGHTS).unlink(missing_ok=True)
        elif record.is_file():
            stored = read_json(record, "The best checkpoint's record")
            self._epochs = {int(epoch): entry for epoch, entry in stored["epochs"].items()}

    def before_step(self) -> None:
        # If the run was killed between an epoch's checkpoint and this hook, the weights are still those of that epoch.
        if not self._caught_up:
            self._caught_up = True
            self._take_epoch(self.trainer.start_iter)

    def after_step(self) -> None:
        self._take_epoch(self.trainer.iter + 1)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # not after an error
            self._take_epoch(self.trainer.max_iter)

    def _take_epoch(self, iterations: int) -> None:
        epoch, rest = divmod(iterations, self.trainer.iters_per_epoch)
        if rest or not epoch or not comm.is_main_process():
            return
        due = iterations >= self.trainer.max_iter or (self._period > 0 and epoch % self._period == 0)
        results = self._folder / "results" / f"{self._split}_epoch_{epoch}.json"
        if due and epoch not in self._epochs and results.is_file():
            self._record(epoch, iterations - 1, read_json(results, "The epoch's results").get("scores") or {})

    def _record(self, epoch: int, iteration: int, scores: Mapping[str, float | None]) -> None:
        name = f"{self._split}/{self._metric}"
        self._epochs[epoch] = {"iteration": iteration, "scores": dict(scores)}
        best = best_epoch({number: entry["scores"].get(self._metric) for number, entry in self._epochs.items()})
        if best == epoch:
            # The weights first: a record must never name weights that do not exist yet.
            weights = comm.unwrap_model(self.trainer.model).state_dict()
            save_sealed(self._folder / BEST_WEIGHTS, {"model": weights, "epoch": epoch})
        if best is None:
            known = ", ".join(sorted(score for score, value in scores.items() if value is not None)) or "none"
            logger.warning(
                "SOLVER.KEEP_BEST: no %s after epoch %d, so no best weights are kept; scores are: %s.",
                name,
                epoch,
                known,
            )
        write_json(self._folder / BEST_RECORD, {"metric": name, "best": best, "epochs": self._epochs}, indent=1)
