"""Load a trained captioner from its checkpoint, and caption regions without a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xmodaler_ssattn.caption import Caption
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.data.inputs import RegionInputs, region_inputs, region_sample
from xmodaler_ssattn.engine.weights import check_weights
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.host import build_model, kfg
from xmodaler_ssattn.packs.store import Regions
from xmodaler_ssattn.safe_load import safe_load, weights_of

CONFIG, VOCABULARY = "config.yaml", "vocabulary.txt"
CHECKPOINTS = ("model_best.pth", "model_final.pth")  # the first of these that exists in the folder is loaded


class Captioner(NamedTuple):
    """A model that is ready to caption."""

    model: Any  # the host's, in evaluation mode
    cfg: Any  # its config, with the paths of this machine
    inputs: RegionInputs  # which parts of the regions it reads


def load_captioner(
    weights: str | os.PathLike,
    *,
    config_file: str | None = None,
    vocabulary: str | None = None,
    device: str | None = None,
    opts: Sequence[str] = (),
) -> Captioner:
    """Build the model of a checkpoint and load it.

    Args:
        weights: a checkpoint, or the folder of a run.
        config_file: default: ``config.yaml`` beside the checkpoint, which every run writes.
        vocabulary: default: the config's, see ``find_vocabulary``.
        device, opts: see ``load_config``.

    Raises:
        UserError: a file is missing, or weights, config and vocabulary do not belong together.
    """
    checkpoint = find_checkpoint(Path(weights))
    if config_file is None:
        config_file = str(checkpoint.parent / CONFIG)
        if not Path(config_file).is_file():
            raise UserError(
                f"There is no {config_file}, which training writes next to its checkpoints; give the "
                "model's config with --config-file."
            )
    cfg = load_config(config_file, [*opts, "MODEL.WEIGHTS", str(checkpoint)], device=device)
    cfg.INFERENCE.VOCAB = vocabulary or str(find_vocabulary(cfg.INFERENCE.VOCAB, cfg.OUTPUT_DIR, checkpoint.parent))
    try:
        model = build_model(cfg)
    except (KeyError, AssertionError) as error:
        raise UserError(f"{config_file}: the model cannot be built from this config: {error}") from error
    if not getattr(model, "carries_region_inputs", False):
        raise UserError(
            f"{config_file}: MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, whose captions "
            "have no boxes; a GroundedCaptioner is needed."
        )
    check_weights(str(checkpoint), model)
    model.load_state_dict(safe_load(checkpoint, part=weights_of))
    model.eval()
    return Captioner(model, cfg, region_inputs(cfg))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint itself, or the best (else the last) one of a run's folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"--weights: {path} does not exist; give a checkpoint, or the folder of a run.")
    for name in CHECKPOINTS:
        if (path / name).is_file():
            return path / name
    raise UserError(f"--weights: {path} contains none of {', '.join(CHECKPOINTS)}; give the path of a checkpoint.")


def find_vocabulary(path: str, output_dir: str, folder: Path) -> Path:
    """The vocabulary of a run whose folder may have been moved, or whose config has relative paths.

    Args:
        path, output_dir: INFERENCE.VOCAB and OUTPUT_DIR of the run's config.
        folder: the checkpoint's folder now.
    """
    from_run = os.path.relpath(path, output_dir) if path and output_dir else VOCABULARY
    # Relative to the run first: relative to the working directory, the path may lead to another run's vocabulary.
    places = dict.fromkeys([Path(os.path.normpath(folder / from_run)), folder / VOCABULARY, Path(path)])
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        "The captioner's vocabulary was not found in any of these places: "
        f"{', '.join(map(str, places))}. Give it with --vocabulary."
    )


def check_fit(captioner: Captioner, feature_dim: int, num_classes: int | None, source: str) -> None:
    """Refuse regions of D numbers and C classes (with background; None: no probabilities) that do not fit."""
    problems = []
    wanted_dim, wanted_classes = captioner.inputs.feature_dim, captioner.inputs.num_classes
    if feature_dim != wanted_dim:
        problems.append(f"the features have {feature_dim} numbers, the captioner was trained on {wanted_dim}")
    if wanted_classes is not None and num_classes is None:
        problems.append(
            f"the captioner reads {wanted_classes} class probabilities per region, and there are none; the detector's "
            "classifier adds them (`xmodaler prepare classifier`, then `xmodaler prepare regions --format regions "
            "--classifier FILE`)"
        )
    elif wanted_classes is not None and num_classes != wanted_classes:
        problems.append(
            f"there are {num_classes} class probabilities (background included), the captioner was trained on "
            f"{wanted_classes}"
        )
    raise_all(problems, f"The captioner does not fit the regions of {source}")


@torch.inference_mode()
def caption_regions(captioner: Captioner, images: Sequence[Regions]) -> list[Caption]:
    """One caption per image, by beam search, with the greedy caption as its attribute ``greedy``.

    Raises:
        UserError: an image has no region, or a number that is not finite.
    """
    samples = [region_sample(regions, captioner.inputs, "the regions to caption") for regions in images]
    batch = captioner.model.preprocess_batch(samples)
    return captioner.model(batch, use_beam_search=True, output_sents=True)[kfg.OUTPUT]
