"""The vocabulary product and the cross-entropy in one function, without storing the (M, V) logits.

Equals ``F.cross_entropy(F.linear(h, W, b), y)`` and its gradients up to rounding, for any h, W, b.

    z = h W^T + b,   L = - 1/M sum_m log softmax(z_m)[y_m],   dL/dz = (softmax(z) - onehot(y)) / M

The plain loss keeps log softmax(z), M x V numbers, for the backward pass. This one processes the vocabulary in slices,
keeps one number per word (the logarithm of the softmax's denominator), and recomputes each slice of z in the backward
pass: four products of that size instead of three. Each slice of W's gradient is written only once.

Letters: M words to predict, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import LOSSES_REGISTRY
from xmodaler_ssattn.losses.base import Loss
from xmodaler_ssattn.partners import losses_of, require_grounded_captioner
from xmodaler_ssattn.precision import product_dtype

# Vocabulary words per slice: wide enough for a fast product; needs memory for M x 1024 numbers.
SLICE = 1024
IGNORED = -1
# Losses that read the logits, which do not exist with this loss.
NEED_LOGITS = ("CrossEntropy", "LabelSmoothing", "SelfCriticalLoss")


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The mean of -log softmax(h W^T + b)[y] over the words whose target is not -1.

    Under autocast the products have the autocast type; the softmax and the sums are always float32.

    Args:
        hidden: (M, H). weight: (V, H). bias: (V,). targets: (M,) int64.

    Returns:
        () float32 (float64 when ``hidden`` is). NaN when there is no target, as torch's mean.
    """
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, product_dtype(hidden))


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, product: torch.dtype
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        log_sum = torch.full(targets.shape, float("-inf"), dtype=wide, device=hidden.device)
        chosen = torch.zeros_like(log_sum)
        for part, z in _slices(hidden, weight, bias, product):
            log_sum = torch.logaddexp(log_sum, z.logsumexp(1))
            place = targets - part.start
            here = (place >= 0) & (place < z.shape[1])
            found = z.gather(1, place.clamp(0, z.shape[1] - 1).unsqueeze(1)).squeeze(1)
            chosen = torch.where(here, found, chosen)
        counted = (targets != IGNORED).to(wide)
        words = counted.sum()
        ctx.save_for_backward(hidden, weight, bias, targets, log_sum, counted / words)
        ctx.product = product
        return ((log_sum - chosen) * counted).sum() / words

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_sum, share = ctx.saved_tensors
        scale = (grad * share).unsqueeze(1)
        states = hidden.to(ctx.product)
        d_hidden = torch.zeros(hidden.shape, dtype=log_sum.dtype, device=hidden.device)
        d_weight, d_bias = torch.empty_like(weight), torch.empty_like(bias)
        for part, z in _slices(hidden, weight, bias, ctx.product):
            dz = z.sub_(log_sum.unsqueeze(1)).exp_()
            place = (targets - part.start).unsqueeze(1)
            here = (place >= 0) & (place < z.shape[1])
            dz.scatter_add_(1, place.clamp(0, z.shape[1] - 1), -here.to(dz.dtype))
            dz *= scale
            d_bias[part] = dz.sum(0)
            dz = dz.to(ctx.product)
            d_hidden += dz @ weight[part].to(ctx.product)
            d_weight[part] = dz.t() @ states
        return d_hidden.to(hidden.dtype), d_weight, d_bias, None, None


def _slices(hidden: Tensor, weight: Tensor, bias: Tensor, product: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """(slice of the vocabulary, its logits (M, SLICE) in float32 or wider)."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    states = hidden.to(product)
    for start in range(0, len(weight), SLICE):
        part = slice(start, min(start + SLICE, len(weight)))
        yield part, F.linear(states, weight[part].to(product), bias[part].to(product)).to(wide)


@LOSSES_REGISTRY.register()
class FusedCrossEntropy(Loss):
    """The host's CrossEntropy with less memory: the captioner returns the loss instead of the logits.

    In LOSSES.NAMES it replaces CrossEntropy; metrics keep the name of that loss. It computes a third more products of
    the vocabulary's size, so use it only when the batch would not fit otherwise.
    """

    learns_from_captions = "words"
    source = "GroundedCaptioner returns it when LOSSES.NAMES of its config contains FusedCrossEntropy."

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        require_grounded_captioner(cfg, "FusedCrossEntropy", "which returns the logits and not the loss")
        if both := losses_of(cfg, *NEED_LOGITS):
            raise UserError(
                f"LOSSES.NAMES contains FusedCrossEntropy and {' and '.join(both)}, which reads logits that do not "
                "exist with the fused loss. Keep one of them."
            )
        return {}

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's training output; returns ``{"CrossEntropy Loss(G)": L}``."""
        return {"CrossEntropy Loss(G)": self.read(outputs_dict, keys.CROSS_ENTROPY)[0]}
