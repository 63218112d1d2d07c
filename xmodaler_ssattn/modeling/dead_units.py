"""A watch on dead ReLUs of the SS attention: a scalar ReLU that is 0 on every region never learns again.

Letters: B images, K regions.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from xmodaler_ssattn.host import get_event_storage
from xmodaler_ssattn.modeling.ss_attention import SpatialSemanticAttention

# How often the share is measured; one small product each time.
STEPS_BETWEEN_CHECKS = 200


@torch.no_grad()
def dead_share(
    attention: SpatialSemanticAttention, spatial: Tensor, semantic: Tensor, mask: Tensor
) -> tuple[float, float]:
    """The share of valid regions on which all of W_c's, and all of W_p's, ReLUs are 0.

    Args:
        spatial, semantic: (B, K, ...) what the two slots read.
        mask: (B, K), 1 for a region.

    Returns:
        (share for W_c, share for W_p), each in 0..1.
    """
    dead_c, dead_p = (part.eq(0).all(-1) for part in attention.hidden(spatial, semantic).chunk(2, dim=-1))
    valid = mask > 0
    count = valid.sum().clamp(min=1)
    return float((dead_c & valid).sum() / count), float((dead_p & valid).sum() / count)


def dead_share_warning(share_c: float, share_p: float) -> str | None:
    """A sentence to log when a slot of the SS attention is dead on every region, else None."""
    dead = [name for name, share in (("W_c", share_c), ("W_p", share_p)) if share >= 1.0]
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

    def __call__(self, attention: SpatialSemanticAttention, slots: tuple[Tensor, Tensor], mask: Tensor) -> None:
        self.steps += 1
        if self.steps % STEPS_BETWEEN_CHECKS != 1:
            return
        dead_c, dead_p = dead_share(attention, *slots, mask)
        warning = dead_share_warning(dead_c, dead_p)
        if warning:
            logging.getLogger(__name__).warning(warning)
        try:
            storage = get_event_storage()
        except (AssertionError, RuntimeError):  # no trainer around us (each host says so in its own way)
            return
        storage.put_scalars(smoothing_hint=False, **{"ss_attention/dead_W_c": dead_c, "ss_attention/dead_W_p": dead_p})
