"""Read the named tensors of a detector's weights file, in any of the published formats."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.safe_load import safe_load

# Keys under which a file may have the weights.
WRAPPERS = ("model", "state_dict")
# The prefix of all names in a network that was trained on several GPUs.
PARALLEL = "module."
WHAT = "Detector weights"


def read_weights(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Every named tensor of a weights file, on the CPU, in the file's dtype; nothing in the file is run.

    ``module.`` before every name is dropped.

    Args:
        path: a ``.pth`` or ``.bin`` by torch.save, or a ``.pkl`` of numpy arrays as detectron2 reads. Training state
            beside the weights (optimizer, iteration) is not read.

    Raises:
        UserError: the file is missing, damaged or incomplete, asks for code, or contains something other than named
            tensors; the message names the file and the refused name.
    """
    if os.fspath(path).endswith(".caffemodel"):
        raise UserError(f"{WHAT}: {path} is a model of Caffe; give a converted .pth or .pkl file (see the README).")
    weights = safe_load(path, WHAT, part=lambda content: _named(path, content), checksums=True)
    problems: list[str] = []
    tensors: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        if not isinstance(name, str):
            problems.append(f"a {type(name).__name__} is not a name")
        elif isinstance(value, (torch.Tensor, np.ndarray, np.generic, int, float)):
            tensors[name] = torch.as_tensor(value)
        else:
            problems.append(f"{name!r} is {_kind(value)}, expected a tensor")
    raise_all(problems, f"{WHAT}: {path} cannot be used")
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return tensors


def _named(path: str | os.PathLike, content: Any) -> Mapping:
    """The dictionary of weights in a file's content."""
    wrapped = [content[wrapper] for wrapper in WRAPPERS if isinstance(content, Mapping) and wrapper in content]
    named = next((weights for weights in wrapped if isinstance(weights, Mapping)), content)
    if not isinstance(named, Mapping) or not named:
        raise UserError(
            f"{WHAT}: {path} holds {_kind(content)}, expected tensors by name, directly or under "
            f"{' or '.join(repr(wrapper) for wrapper in WRAPPERS)}."
        )
    return named


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        names = [key for key in value if isinstance(key, str)]
        return f"a dictionary with the keys {', '.join(names[:6]) or '(none)'}"
    return "nothing" if value is None else f"a {type(value).__name__}"
