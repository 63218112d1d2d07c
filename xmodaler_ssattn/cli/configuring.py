"""From a yaml file and KEY VALUE pairs to a config, the same way on both hosts.

The host's own loading differs in ways that bite (specs of the host in the README of ``runtime``):
upstream loads yaml unsafely, refuses an integer where the default is a float, takes the keys of an
architecture from the raw yaml alone, and names unknown keys without saying which were meant.
"""

from __future__ import annotations

import ast
import difflib
import os
from pathlib import Path
from typing import Any

from xmodaler_ssattn import host
from xmodaler_ssattn.cli.options import pairs_of
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.files import read_yaml
from xmodaler_ssattn.host import add_config, get_cfg

_ARCHITECTURE_KEYS = ("META_ARCHITECTURE", "ENCODER", "DECODER", "PREDICTOR")


def load_config(config_file: str, opts: list[str] = (), *, data: str | None = None, device: str | None = None) -> Any:
    """The full, unfrozen config.

    Args:
        config_file: a yaml file, with ``_BASE_`` if it likes.
        opts: KEY VALUE pairs, flat.
        data: folder that `xmodaler prepare` wrote; sets every data path at once. ``opts`` win over it.
        device: ``cpu``, ``cuda``, ...; None takes the config's MODEL.DEVICE, or the CPU when that is
            ``cuda`` and there is none.

    Raises:
        UserError: missing file, unsafe or broken yaml, unknown keys, values of the wrong type, weights
            in a pickle file.
    """
    pairs = pairs_of(opts)
    cfg = get_cfg()
    loaded = _read_yaml(cfg, config_file)
    model = loaded.setdefault("MODEL", type(cfg)())
    if not isinstance(model, dict):
        raise UserError(f"{config_file}: MODEL must hold keys of its own, got {model!r}.")
    for name in _ARCHITECTURE_KEYS:
        model.setdefault(name, cfg.MODEL[name])
    for key, value in pairs:
        if key in (f"MODEL.{name}" for name in _ARCHITECTURE_KEYS):
            model[key.removeprefix("MODEL.")] = value
    try:
        add_config(cfg, loaded)
    except KeyError as error:
        raise UserError(f"{config_file}: no registered class of that name: {error}.") from error

    flat = dict(_flatten(loaded))
    if data is not None:
        flat.update(data_paths(data))
    flat.update({key: _literal(value) for key, value in pairs})
    _merge(cfg, flat, config_file)

    if device is not None:
        cfg.MODEL.DEVICE = device
    elif cfg.MODEL.DEVICE == "cuda" and not _cuda_available():
        cfg.MODEL.DEVICE = "cpu"
    _check_device(cfg.MODEL.DEVICE)
    _check_names(cfg, config_file)
    _check_numbers(cfg, config_file)
    if cfg.MODEL.WEIGHTS.endswith(".pkl"):
        raise UserError(
            f"MODEL.WEIGHTS: {cfg.MODEL.WEIGHTS} is a pickle file, and reading one runs whatever code it holds. "
            "Give a .pth checkpoint; torch reads those as plain data."
        )
    if cfg.MODEL.WEIGHTS and not Path(cfg.MODEL.WEIGHTS).is_file():
        raise UserError(f"MODEL.WEIGHTS: the file {cfg.MODEL.WEIGHTS} does not exist.")
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


def _cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()


def _check_device(name: str) -> None:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"MODEL.DEVICE: expected a device such as cpu, cuda or cuda:1, got {name!r}.") from None
    if device.type == "cuda" and not _cuda_available():
        raise UserError(f"MODEL.DEVICE is {name}, but PyTorch sees no CUDA device; take --device cpu.")


def _check_names(cfg: Any, config_file: str) -> None:
    """Classes that the host would look up later, one at a time; all unknown ones in one error."""
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
    """Numbers that no run can work with; the hosts meet them late, some after minutes of training."""
    problems = []
    lowest = {"DATALOADER.TRAIN_BATCH_SIZE": 1, "DATALOADER.TEST_BATCH_SIZE": 1, "DATALOADER.NUM_WORKERS": 0}
    for key, least in {**lowest, "SOLVER.EPOCH": 0}.items():
        group, last = key.split(".")
        if cfg[group][last] < least:
            problems.append(f"{key}: expected {least} or more, got {cfg[group][last]}.")
    beams, words = cfg.DECODE_STRATEGY.BEAM_SIZE, cfg.MODEL.VOCAB_SIZE
    if not 1 <= beams <= words:
        problems.append(f"DECODE_STRATEGY.BEAM_SIZE: expected 1 to MODEL.VOCAB_SIZE, {words}; got {beams}.")
    if cfg.MODEL.MAX_SEQ_LEN < 1:
        problems.append(f"MODEL.MAX_SEQ_LEN: expected 1 or more words, got {cfg.MODEL.MAX_SEQ_LEN}.")
    raise_all(problems, f"{config_file} and the KEY VALUE options")


def _read_yaml(cfg: Any, config_file: str) -> Any:
    if not config_file:
        raise UserError("--config-file: which yaml file? Try configs/sample/ss_attn.yaml.")
    _check_files(Path(config_file), set())
    try:
        return cfg.load_from_file_tmp(config_file, allow_unsafe=False)
    except (AssertionError, OSError, ValueError) as error:  # the hosts' own words for a _BASE_ that cannot be read
        raise UserError(f"{config_file}: {error}") from error


def _check_files(path: Path, seen: set[Path]) -> None:
    """Our reader refuses what upstream's accepts silently in a file or its _BASE_, such as a key that stands twice."""
    seen.add(path.resolve())
    values = read_yaml(path, "--config-file")
    bases = values.get("_BASE_", []) if isinstance(values, dict) else []
    bases = [bases] if isinstance(bases, str) else bases
    for base in bases if isinstance(bases, list) else []:
        below = path.parent / Path(str(base)).expanduser()
        if below.is_file() and below.resolve() not in seen:
            _check_files(below, seen)


def _flatten(node: dict, prefix: str = "") -> list[tuple[str, Any]]:
    pairs = []
    for key, value in node.items():
        if isinstance(value, dict):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _literal(text: str) -> Any:
    """A value from the command line: a Python literal when it is one, else the text itself."""
    if not isinstance(text, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _merge(cfg: Any, flat: dict[str, Any], config_file: str) -> None:
    """Set every dotted key; all unknown keys and wrong types in one error."""
    known = dict(_flatten(cfg))
    problems = []
    for key, value in flat.items():
        if key not in known:
            near = difflib.get_close_matches(key.upper(), known, n=1)
            near = near or [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
            problems.append(f"unknown config key {key}" + (f"; did you mean {near[0]}?" if near else "."))
            continue
        try:
            converted = _convert(value, known[key])
        except TypeError as error:
            problems.append(f"{key}: {error}")
            continue
        *path, last = key.split(".")
        node = cfg
        for name in path:
            node = node[name]
        node[last] = converted
    raise_all(problems, f"{config_file} and the KEY VALUE options")


def _convert(value: Any, default: Any) -> Any:
    """``value`` in the type of ``default``; an integer may stand for a float, a list for a tuple."""
    if isinstance(default, bool) or isinstance(value, bool):
        if isinstance(default, bool) and isinstance(value, bool):
            return value
        raise TypeError(f"expected {_type_name(default)}, got {value!r}.")
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    if isinstance(default, float) and isinstance(value, str):
        try:
            return float(value)  # yaml reads 1e-8 (no dot) as text
        except ValueError:
            raise TypeError(f"expected a number, got {value!r}.") from None
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, list) and isinstance(value, tuple):
        return list(value)
    if isinstance(default, str) and isinstance(value, (int, float)):
        return str(value)
    if default is not None and type(default) is not type(value):
        raise TypeError(f"expected {_type_name(default)} such as {default!r}, got {value!r}.")
    return value


def _type_name(value: Any) -> str:
    names = {
        bool: "True or False",
        int: "an integer",
        float: "a number",
        str: "a text",
        list: "a list",
        tuple: "a list",
    }
    return names.get(type(value), type(value).__name__)
