"""Checkpoints: written atomically, read as plain data, with every mismatch to the model reported."""

from __future__ import annotations

import os
from typing import Any

from fvcore.common.checkpoint import Checkpointer, _IncompatibleKeys
from torch import nn

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import sync_folder, write_text
from xmodaler_ssattn.safe_load import read_checkpoint
from xmodaler_ssattn.sealed import save_sealed

from . import comm

LAST_CHECKPOINT = "last_checkpoint"


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be read, or does not fit; the message has the file and the reason."""


class XmodalerCheckpointer(Checkpointer):
    """fvcore's checkpointer with atomic writes, plain data and, in ``incompatible``, the mismatches of ``load``."""

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        writes = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=writes, **checkpointables)
        self.incompatible: _IncompatibleKeys | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<name>.pth`` with the model, the checkpointables and ``kwargs``, then name it in last_checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        save_sealed(path, {"model": self.model.state_dict(), **states, **kwargs})
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, LAST_CHECKPOINT)
        write_text(path, last_filename_basename)
        sync_folder(path)

    def get_checkpoint_file(self) -> str:
        """The file that last_checkpoint names, which is in the same folder; '' without one."""
        name = os.path.basename(super().get_checkpoint_file().strip())
        return os.path.join(self.save_dir, name) if name else ""

    def load(self, path: str, checkpointables: list[str] | None = None, *, strict: bool = False) -> dict[str, Any]:
        """Load weights, and the checkpointables (all, or those named) that the file has; returns the rest of the file.

        Args:
            path: a file, or a URL that fvcore's path manager fetches; '' loads nothing.
            strict: refuse a file that does not fit the model in every tensor, before any state is loaded; otherwise
                mismatches are logged.

        Raises:
            CheckpointError: the file is missing, cannot be read as plain data, or under ``strict`` does not fit.
        """
        if not path:
            self.logger.info("No checkpoint given; the weights stay as they were initialised")
            return {}
        if "://" in path:
            path = self.path_manager.get_local_path(path)
        if not os.path.isfile(path):
            raise CheckpointError(f"There is no checkpoint {path}.")
        self.logger.info("Loading checkpoint from %s", path)
        checkpoint = self._load_file(path)
        incompatible = self._load_model(checkpoint)
        if strict and any(incompatible):
            raise CheckpointError(
                f"Cannot resume from {path}, which is a checkpoint of another model:\n{_describe(incompatible)}\n"
                "Resume with the config it was trained with (config.yaml beside it), or start a new run from its "
                f"weights: MODEL.WEIGHTS {path} and another OUTPUT_DIR."
            )
        self._log_incompatible_keys(incompatible)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in checkpoint:
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
        return checkpoint

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With ``resume`` and a last_checkpoint, load all of it strictly; otherwise the weights of ``path``."""
        if resume and self.has_checkpoint():
            return self.load(self.get_checkpoint_file(), strict=True)
        return self.load(path, checkpointables=[])

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return read_checkpoint(filename)
        except UserError as error:
            raise CheckpointError(str(error)) from error

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys:
        found = super()._load_model(checkpoint)
        # fvcore removes tensors of the wrong shape, so torch lists them as missing too.
        wrong = {name for name, _, _ in found.incorrect_shapes}
        self.incompatible = found._replace(missing_keys=[name for name in found.missing_keys if name not in wrong])
        return self.incompatible

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        if any(incompatible):
            self.logger.warning("The checkpoint does not fit the model everywhere:\n%s", _describe(incompatible))


def _describe(incompatible: _IncompatibleKeys) -> str:
    lines = []
    if incompatible.missing_keys:
        lines.append(f"  not in the file, not changed: {', '.join(incompatible.missing_keys)}")
    if incompatible.unexpected_keys:
        lines.append(f"  not in the model, left out: {', '.join(incompatible.unexpected_keys)}")
    for name, in_file, in_model in incompatible.incorrect_shapes:
        lines.append(f"  {name}: shape {tuple(in_file)} in the file, {tuple(in_model)} in the model, left out")
    return "\n".join(lines)
