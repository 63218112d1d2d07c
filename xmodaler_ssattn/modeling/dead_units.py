"""A check for dead ReLUs of the SS attention: a scalar ReLU that is 0 on every region never learns again.

Letters: B images, K regions.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from xmodaler_ssattn.host import get_event_storage
from xmodaler_ssattn.modeling.ss_attention import SLOTS, SpatialSemanticAttention

# Steps between two measurements; each costs one small product.
STEPS_BETWEEN_CHECKS = 200


@torch.no_grad()
def dead_shares(attention: SpatialSemanticAttention, slots: tuple[Tensor, ...], mask: Tensor) -> dict[str, float]:
    """For each matrix of ``SLOTS``, the share (0 to 1) of valid regions on which all its ReLUs are 0.

    Args:
        slots, mask: the inputs of the slots, (B, K, ...) each, and (B, K), 1 for a region.
    """
    valid = mask > 0
    dead = [part.eq(0).all(-1) & valid for part in attention.hidden(*slots).chunk(len(SLOTS), dim=-1)]
    return {name: float(part.sum() / valid.sum().clamp(min=1)) for name, part in zip(SLOTS, dead, strict=True)}


def dead_share_warning(shares: dict[str, float]) -> str | None:
    """A sentence to log when a slot of the SS attention is dead on every region, else None."""
    dead = [name for name, share in shares.items() if share >= 1.0]
    if not dead:
        return None
    return (
        f"{' and '.join(dead)} of the spatial-semantic attention: the ReLU is 0 on every region of the batch, so no "
        "gradient reaches it now. Training continues, but the slot may stay dead. To avoid it try another "
        "MODEL.SS_ATTENTION.SEED, a larger MODEL.SS_ATTENTION.POSITIVE_BIAS_INIT, or a larger MODEL.SS_ATTENTION.DIM."
    )


class DeadUnitWatch:
    """Measures the share at the first training step and then every ``STEPS_BETWEEN_CHECKS``, and reports it."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, attention: SpatialSemanticAttention, slots: tuple[Tensor, ...], mask: Tensor) -> None:
        self.steps += 1
        if self.steps % STEPS_BETWEEN_CHECKS != 1:
            return
        shares = dead_shares(attention, slots, mask)
        warning = dead_share_warning(shares)
        if warning:
            logging.getLogger(__name__).warning(warning)
        try:
            storage = get_event_storage()
        except (AssertionError, RuntimeError):  # without a trainer (each host raises its own error)
            return
        scalars = {f"ss_attention/dead_{name}": share for name, share in shares.items()}
        storage.put_scalars(smoothing_hint=False, **scalars)
