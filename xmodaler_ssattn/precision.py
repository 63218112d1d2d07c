"""Which type a computation has under autocast. Only torch.

Products run in the type of the autocast (bfloat16 with SOLVER.AMP); softmax, losses and LSTM states stay float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 when it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product_dtype(x: Tensor) -> torch.dtype:
    """The type of a matrix product with ``x``: that of the autocast on its device, else its own.

    The type of ``x`` alone does not tell: under autocast a layer norm returns float32 on CUDA and bfloat16 on a CPU.
    """
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype
