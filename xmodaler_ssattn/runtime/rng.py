"""Seed, get and set the random states of python, numpy and torch."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

logger = logging.getLogger(__name__)


def seed_all_rng(seed: int | None = None) -> None:
    """Seed python, numpy and torch (all devices); None takes a seed from the system and logs it."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
        logger.info("Using a generated random seed %d", seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)


def get_random_state() -> dict[str, Any]:
    """The present state as plain values and tensors, so that ``torch.load(weights_only=True)`` reads it back."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore a state from ``get_random_state``. Devices that are not in it keep their state."""
    version, values, gauss_next = state["python"]
    random.setstate((version, tuple(values), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    for index, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, index)


@contextlib.contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Within the block, python, numpy and torch's CPU generator draw from ``seed``; afterwards they continue as before.

    Args:
        seed: 0 to 2**32 - 1.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
