"""The dtypes of computations under autocast. Only torch.

Products run in the dtype of the autocast (bfloat16 with SOLVER.AMP); softmax, losses and LSTM states are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 when it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a matrix product with ``x``: that of the autocast on its device, else that of ``x``.

    It does not follow from the dtype of ``x``: under autocast a layer norm returns float32 on CUDA, bfloat16 on a CPU.
    """
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype
