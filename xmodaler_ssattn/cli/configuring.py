"""``load_config``: the full config of a command, on either host, checked before the run starts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from xmodaler_ssattn import host
from xmodaler_ssattn.cli.ranges import out_of_range
from xmodaler_ssattn.configuring import Setting, merge, nested, pairs_of, read_config
from xmodaler_ssattn.engine.kept import ON_DAMAGE
from xmodaler_ssattn.errors import UserError, raise_all

_ARCHITECTURE = ("MODEL.META_ARCHITECTURE", "MODEL.ENCODER", "MODEL.DECODER", "MODEL.PREDICTOR")


def load_config(
    config_file: str, opts: Sequence[str] = (), *, data: str | None = None, device: str | None = None
) -> Any:
    """The full, unfrozen config.

    Args:
        config_file: a yaml file, which may name others with ``_BASE_``, or the name of a shipped one.
        opts: KEY VALUE pairs, flat.
        data: folder that `xmodaler prepare` wrote; sets every data path at once. ``opts`` win over it.
        device: ``cpu``, ``cuda``, ...; None: the config's MODEL.DEVICE, or the CPU when that is
            ``cuda`` and there is no GPU.

    Raises:
        UserError: missing file, unsafe or broken yaml, unknown keys, values of the wrong type, weights
            in a pickle file.
    """
    if not config_file:
        raise UserError("--config-file: give a yaml file, such as configs/sample/ss_attn.yaml.")
    settings = read_config(config_file)
    if data is not None:
        settings |= {key: Setting(path, "--data") for key, path in data_paths(data).items()}
    settings |= pairs_of(opts)
    cfg = default_config({key: setting.value for key, setting in settings.items()}, config_file)
    merge(cfg, settings)

    if device is not None:
        cfg.MODEL.DEVICE = device
    elif cfg.MODEL.DEVICE == "cuda" and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    _check_device(cfg.MODEL.DEVICE)
    _check_names(cfg, config_file)
    _check_numbers(cfg, config_file)
    if cfg.MODEL.WEIGHTS.endswith(".pkl"):
        raise UserError(
            f"MODEL.WEIGHTS: {cfg.MODEL.WEIGHTS} is a pickle file, and loading it runs any code that it contains. "
            "Give a .pth checkpoint; torch reads those as plain data."
        )
    if cfg.MODEL.WEIGHTS and not Path(cfg.MODEL.WEIGHTS).is_file():
        raise UserError(f"MODEL.WEIGHTS: the file {cfg.MODEL.WEIGHTS} does not exist.")
    return cfg


def default_config(values: Mapping[str, Any], where: str) -> Any:
    """The defaults of the host and of the architecture, encoder, decoder and predictor that ``values`` name.

    Args:
        values: a raw config by dotted key; parts that it does not name are the host's defaults.
        where: the name of the config, for the message.

    Raises:
        UserError: a name is not registered.
    """
    cfg = host.get_cfg()
    named = {key: cfg.MODEL[key.removeprefix("MODEL.")] for key in _ARCHITECTURE}
    try:
        host.add_config(cfg, type(cfg)(nested({**named, **values}, where)))
    except KeyError as error:
        raise UserError(f"{where}: no class is registered under this name: {error}.") from error
    return cfg


def data_paths(folder: str | os.PathLike) -> dict[str, str]:
    """The config values that point to a folder written by `xmodaler prepare`."""
    folder = Path(folder)
    return {
        "DATALOADER.ANNO_FOLDER": str(folder),
        "DATALOADER.REGIONS": str(folder / "regions.h5"),
        "INFERENCE.VOCAB": str(folder / "vocabulary.txt"),
        "INFERENCE.VAL_ANNFILE": str(folder / "captions_val.json"),
        "INFERENCE.TEST_ANNFILE": str(folder / "captions_test.json"),
    }


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"MODEL.DEVICE: expected a device such as cpu, cuda or cuda:1, got {name!r}.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"MODEL.DEVICE is {name}, but PyTorch sees no CUDA device; give --device cpu.")


def _check_names(cfg: Any, config_file: str) -> None:
    """Check the names of classes, which the host would look up later and one by one; list all unknown ones at once."""
    registries = {
        "ENGINE.NAME": host.ENGINE_REGISTRY,
        "SOLVER.NAME": host.SOLVER_REGISTRY,
        "LR_SCHEDULER.NAME": host.LR_SCHEDULER_REGISTRY,
        "LOSSES.NAMES": host.LOSSES_REGISTRY,
        "INFERENCE.NAME": host.EVALUATION_REGISTRY,
        "DECODE_STRATEGY.NAME": host.DECODE_STRATEGY_REGISTRY,
        **{f"DATASETS.{stage}": host.DATASETS_REGISTRY for stage in ("TRAIN", "VAL", "TEST")},
    }
    problems = []
    for key, registry in registries.items():
        group, last = key.split(".")
        value = cfg[group][last]
        for name in value if isinstance(value, (list, tuple)) else [value]:
            if name and name not in registry:
                known = ", ".join(sorted(known for known, _ in registry))
                problems.append(f"{key}: no class is registered as {name!r}; known are {known}.")
    raise_all(problems, f"{config_file} and the KEY VALUE options")


def _check_numbers(cfg: Any, config_file: str) -> None:
    problems = out_of_range(cfg)
    beams, words = cfg.DECODE_STRATEGY.BEAM_SIZE, cfg.MODEL.VOCAB_SIZE
    if not 1 <= beams <= words:
        problems.append(f"DECODE_STRATEGY.BEAM_SIZE: expected 1 to MODEL.VOCAB_SIZE, {words}; got {beams}.")
    if cfg.SOLVER.DAMAGED_CHECKPOINT not in ON_DAMAGE:
        problems.append(
            f"SOLVER.DAMAGED_CHECKPOINT: expected one of {ON_DAMAGE}, got {cfg.SOLVER.DAMAGED_CHECKPOINT!r}."
        )
    raise_all(problems, f"{config_file} and the KEY VALUE options")
