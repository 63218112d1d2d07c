"""``load_config``: the full config of a command, on either host, checked before the run starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from xmodaler_ssattn import host
from xmodaler_ssattn.cli.options import check_device
from xmodaler_ssattn.configuring import Setting, merge, nested, pairs_of, read_config
from xmodaler_ssattn.engine.kept import ON_DAMAGE
from xmodaler_ssattn.errors import UserError, raise_all

INF = math.inf
# The hosts notice a wrong number late, some after minutes of training.
# Key -> (lowest, highest, whether the lowest itself is allowed). A list is checked number by number.
RANGES: dict[str, tuple[float, float, bool]] = {
    **{f"DATALOADER.{key}": (1, INF, True) for key in ("TRAIN_BATCH_SIZE", "TEST_BATCH_SIZE", "SEQ_PER_SAMPLE")},
    "DATALOADER.NUM_WORKERS": (0, INF, True),
    **{f"SOLVER.{key}": (0, INF, True) for key in (
        "EPOCH", "EVAL_PERIOD", "CHECKPOINT_STEPS", "CHECKPOINT_MINUTES", "KEEP_LAST", "KEEP_EVERY", "WEIGHT_DECAY",
        "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS", "BIAS_LR_FACTOR",
    )},
    **{f"SOLVER.{key}": (1, INF, True) for key in ("CHECKPOINT_PERIOD", "WRITE_PERIOD")},
    "SOLVER.BASE_LR": (0, INF, False),
    "SOLVER.EPS": (0, INF, False),
    "SOLVER.BETAS": (0, 1, True),
    "SOLVER.MOMENTUM": (0, 1, True),
    "SOLVER.GRAD_CLIP": (-INF, INF, True),
    "LR_SCHEDULER.STEP_SIZE": (1, INF, True),
    "LR_SCHEDULER.GAMMA": (0, INF, False),
    "SCHEDULED_SAMPLING.INC_EVERY_EPOCH": (1, INF, True),
    "SCHEDULED_SAMPLING.INC_PROB": (0, 1, True),
    "SCHEDULED_SAMPLING.MAX_PROB": (0, 1, True),
    "MODEL.CPU_THREADS": (0, INF, True),
    **{f"MODEL.{key}": (1, INF, True) for key in ("MAX_SEQ_LEN", "ENCODER_DIM", "DECODER_DIM")},
    "MODEL.VOCAB_SIZE": (2, INF, True),
    **{f"MODEL.{key}": (0, 1, True) for key in (
        "PRED_DROPOUT", "TOKEN_EMBED.DROPOUT", "VISUAL_EMBED.DROPOUT", "UPDOWN.DROPOUT1", "UPDOWN.DROPOUT2",
        "UPDOWN.ATT_EMBED_DROPOUT",
    )},
    "MODEL.UPDOWN.ATT_EMBED_SIZE": (1, INF, True),
    "MODEL.SS_ATTENTION.LAMBDA": (-INF, INF, True),
    "LOSSES.GROUNDING.MU": (0, INF, True),
    "INFERENCE.REGION_CLASS_POWER": (0, INF, True),
}  # fmt: skip
_ARCHITECTURE = ("MODEL.META_ARCHITECTURE", "MODEL.ENCODER", "MODEL.DECODER", "MODEL.PREDICTOR")


def load_config(
    config_file: str, opts: Sequence[str] = (), *, data: str | None = None, device: str | None = None
) -> Any:
    """The full, unfrozen config.

    Args:
        config_file: a yaml file, which may name others with ``_BASE_``, or the name of a shipped one.
        opts: KEY VALUE pairs, flat.
        data: folder that `xmodaler prepare` wrote; sets every data path at once. ``opts`` win over it.
        device: None: the config's MODEL.DEVICE, or the CPU when that is ``cuda`` and there is no GPU.

    Raises:
        UserError: missing file, unsafe or broken yaml, unknown keys, wrong values, weights in a pickle file.
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
    check_device(cfg.MODEL.DEVICE, "MODEL.DEVICE")
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
    problems = _out_of_range(cfg)
    beams, words = cfg.DECODE_STRATEGY.BEAM_SIZE, cfg.MODEL.VOCAB_SIZE
    if not 1 <= beams <= words:
        problems.append(f"DECODE_STRATEGY.BEAM_SIZE: expected 1 to MODEL.VOCAB_SIZE, {words}; got {beams}.")
    if (on_damage := cfg.SOLVER.DAMAGED_CHECKPOINT) not in ON_DAMAGE:
        problems.append(f"SOLVER.DAMAGED_CHECKPOINT: expected one of {ON_DAMAGE}, got {on_damage!r}.")
    raise_all(problems, f"{config_file} and the KEY VALUE options")


def _out_of_range(cfg: Any) -> list[str]:
    """One sentence for each number of ``cfg`` that no run can use. Keys that the config lacks are not checked."""
    problems = []
    for key, (lowest, highest, included) in RANGES.items():
        node = cfg
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        for value in node if isinstance(node, (list, tuple)) else [node]:
            if not isinstance(value, (int, float)):
                continue
            if not (lowest <= value <= highest and (included or value > lowest)) or not math.isfinite(value):
                problems.append(f"{key}: expected {_words(lowest, highest, included)}, got {value}.")
    return problems


def _words(lowest: float, highest: float, included: bool) -> str:
    if highest < INF:
        return f"a number from {lowest:g} to {highest:g}"
    if lowest == -INF:
        return "a finite number"
    return f"{lowest:g} or more" if included else f"a finite number above {lowest:g}"
