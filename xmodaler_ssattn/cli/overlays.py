"""Draw a few captions onto their pictures after every evaluation, for TensorBoard; on both hosts."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xmodaler_ssattn.evaluation.results import read_results
from xmodaler_ssattn.host import HookBase, comm
from xmodaler_ssattn.report.figure import draw_captions
from xmodaler_ssattn.report.pictures import find_pictures

PICTURES_PER_EVALUATION = 4


def overlay_hook(cfg: Any) -> Overlays | None:
    """The hook for a config, or None without pictures or TensorBoard, and in all but the main process."""
    folder = Path(cfg.INFERENCE.PICTURES or Path(cfg.DATALOADER.ANNO_FOLDER) / "Images")
    if not comm.is_main_process() or not folder.is_dir():
        return None
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        return None
    return Overlays(Path(cfg.OUTPUT_DIR), folder)


class Overlays(HookBase):
    """Draws the first ``pictures`` (a folder, named by image id) of each new file in ``output_dir / results``."""

    def __init__(self, output_dir: Path, pictures: Path):
        self._output_dir, self._pictures, self._writer = output_dir, pictures, None
        self._seen = set(self._files())  # written before the run was resumed

    def _files(self) -> list[Path]:
        return sorted((self._output_dir / "results").glob("*_epoch_*.json"))

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.trainer.iters_per_epoch == 0:
            self._draw_new()  # evaluations come at the ends of epochs

    def after_train(self) -> None:
        self._draw_new()
        if self._writer is not None:
            self._writer.close()

    def _draw_new(self) -> None:
        for path in self._files():
            if path not in self._seen:
                self._seen.add(path)
                self._draw(path)

    def _draw(self, path: Path) -> None:
        split, epoch = re.fullmatch(r"(\w+)_epoch_(\d+)", path.stem).groups()
        results = read_results(path)
        grounded = {image.image_id: image.grounded for image in results.images if image.grounded is not None}
        if not grounded:  # by a decoder without attention
            return
        found = find_pictures(self._pictures, list(grounded)[:PICTURES_PER_EVALUATION])
        if not found:
            logging.getLogger(__name__).warning("No overlays: no picture of %s in %s.", path.name, self._pictures)
        for image_id, file in found.items():
            caption = grounded[image_id]
            with Image.open(file) as picture:
                sheet = draw_captions(picture, {f"epoch {epoch}": caption}, results.object_words)
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._output_dir), filename_suffix=".overlays")
            self._writer.add_image(f"{split}/{image_id}", np.asarray(sheet), int(epoch), dataformats="HWC")
