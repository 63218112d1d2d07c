"""Which checkpoints of a run are kept, and from which one a run is resumed when the last one is damaged."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from xmodaler_ssattn.engine.best import BEST_WEIGHTS
from xmodaler_ssattn.engine.resume import LAST_CHECKPOINT, last_checkpoint
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import sync_folder, write_text
from xmodaler_ssattn.host import HookBase, comm
from xmodaler_ssattn.safe_load import read_checkpoint
from xmodaler_ssattn.sealed import is_intact

ON_DAMAGE = ("previous", "refuse")
_NAME = re.compile(r"model_(?:Epoch_(\d+)_)?Iter_(\d+)\.pth")
logger = logging.getLogger(__name__)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first; without ``model_final`` and ``model_best``."""
    found = [(int(match[2]), path) for path in folder.glob("model_*.pth") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def obsolete(folder: Path, last: int, every: int) -> list[Path]:
    """The checkpoints in ``folder`` that are not needed any more.

    Needed are the one that ``last_checkpoint`` names, the last ``last`` up to it (0: all), and those after every
    ``every``-th epoch (0: none). Without ``last_checkpoint``, which is written after the checkpoint that it names,
    nothing is obsolete.
    """
    pointer = last_checkpoint(folder)
    if pointer is None or not last:
        return []
    names = checkpoints(folder)
    if pointer in names:
        names = names[: names.index(pointer) + 1]
    else:  # it names model_final, which is one of the last
        last -= 1

    def milestone(path: Path) -> bool:
        match = _NAME.fullmatch(path.name)
        return bool(every and match and match[1] and int(match[1]) % every == 0)

    return [path for path in names[: len(names) - last] if not milestone(path)]


class KeepCheckpoints(HookBase):
    """Removes the checkpoints that are obsolete, after each new one. Works on both hosts.

    Args:
        folder: the run's OUTPUT_DIR.
        last, every: SOLVER.KEEP_LAST (0: keep all) and KEEP_EVERY.
        best: whether the run keeps its best weights; then nothing is removed before there are any.
    """

    def __init__(self, folder: Path, last: int, every: int, *, best: bool) -> None:
        self._folder, self._last, self._every, self._best = folder, last, every, best
        self._seen = -1  # time of change of last_checkpoint

    def after_step(self) -> None:
        if not comm.is_main_process() or not (self._folder / LAST_CHECKPOINT).is_file():
            return
        changed = (self._folder / LAST_CHECKPOINT).stat().st_mtime_ns
        if changed == self._seen or (self._best and not (self._folder / BEST_WEIGHTS).is_file()):
            return
        self._seen = changed
        for path in obsolete(self._folder, self._last, self._every):
            path.unlink(missing_ok=True)

    def after_train(self) -> None:
        self.after_step()


def damage(path: Path) -> str:
    """What is wrong with a checkpoint; '' for an intact one. Reads all of it, about 1 s per GB."""
    if (intact := is_intact(path)) is None:
        try:
            read_checkpoint(path)
        except UserError as error:
            return str(error)
    return "" if intact is not False else f"The checkpoint: {path} has changed since it was written (wrong sha256)."


def choose_intact(folder: Path, on_damage: str) -> None:
    """Let ``last_checkpoint`` name an intact checkpoint: if the last one is damaged, the newest intact one before it.

    Args:
        on_damage: SOLVER.DAMAGED_CHECKPOINT.

    Raises:
        UserError: the last checkpoint is damaged, and there is none before it or ``on_damage`` is "refuse".
    """
    last = last_checkpoint(folder)
    if last is None or not (problem := damage(last)):
        return
    earlier = checkpoints(folder)
    earlier = earlier[: earlier.index(last)] if last in earlier else earlier
    usable = next((path for path in reversed(earlier) if not damage(path)), None)
    if usable is None:
        raise UserError(f"{problem} There is no intact checkpoint before it in {folder}: start a new run.")
    if on_damage == "refuse":
        raise UserError(
            f"{problem} SOLVER.DAMAGED_CHECKPOINT is 'refuse'; with 'previous' the run continues from {usable.name}."
        )
    logger.warning("%s It is now %s.damaged. Continuing from the one before, %s.", problem, last.name, usable.name)
    write_text(folder / LAST_CHECKPOINT, usable.name)
    last.rename(last.with_name(f"{last.name}.damaged"))
    sync_folder(folder / LAST_CHECKPOINT)
