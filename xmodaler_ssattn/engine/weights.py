"""Whether weights fit the model that is to load them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xmodaler_ssattn.engine.resume import warn_of_another_model
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.host import comm
from xmodaler_ssattn.modeling.word_list import STATE, check_words, from_state
from xmodaler_ssattn.safe_load import safe_load, weights_of

logger = logging.getLogger(__name__)


def accept_weights(trainer: Any, path: str, *, partial: bool) -> None:
    """Refuse weights that do not fit; log which are missing and how their model differed."""
    logger.info("Weights: %s", path)
    fresh = check_weights(path, comm.unwrap_model(trainer.model), partial=partial)
    if fresh:
        logger.info("%s lacks %d weights, which keep their initial values: %s", path, len(fresh), ", ".join(fresh))
    warn_of_another_model(trainer.cfg, Path(path))


def check_weights(path: str, model: nn.Module, *, partial: bool = False) -> list[str]:
    """Refuse weights that do not fit the model; the hosts would load those that fit and leave the rest random.

    Args:
        partial: the file may lack weights of the model; a stock Up-Down model lacks those of the SS attention.

    Returns:
        the names of the weights that the file lacks; empty unless ``partial``.

    Raises:
        UserError: it is not a checkpoint, or one of another word list or model; names and shapes are listed.
    """
    stored = safe_load(path, "MODEL.WEIGHTS", part=weights_of)
    if not isinstance(stored, dict) or not all(isinstance(weight, torch.Tensor) for weight in stored.values()):
        raise UserError(f'MODEL.WEIGHTS: {path} has no weights by name; a checkpoint has them under "model".')
    wanted = model.state_dict()
    for name, module in model.named_modules():  # parts that only losses read
        for prefix in (f"{name}.{part}.".lstrip(".") for part in getattr(module, "OF_LOSSES", ())):
            wanted, stored = (
                {key: weight for key, weight in weights.items() if not key.startswith(prefix)}
                for weights in (wanted, stored)
            )
    own, trained = wanted.pop(STATE, None), stored.pop(STATE, None)
    if own is not None and trained is not None:
        check_words(from_state(trained), from_state(own), f"MODEL.WEIGHTS {path}")
    problems = []
    fresh = sorted(wanted.keys() - stored.keys())
    if partial and len(fresh) == len(wanted):
        problems.append("it contains none of the model's weights")
    for what, names in (("lacks", [] if partial else fresh), ("has unknown", stored.keys() - wanted.keys())):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            problems.append(f"it {what} {len(names)} weights: {shown}")
    for name in sorted(wanted.keys() & stored.keys()):
        if stored[name].shape != wanted[name].shape:
            problems.append(f"{name} is {tuple(stored[name].shape)}, expected {tuple(wanted[name].shape)}")
    raise_all(problems, f"MODEL.WEIGHTS: {path} does not fit this config's model")
    return fresh if partial else []
