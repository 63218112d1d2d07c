"""Faster versions of functions in modeling/ and losses/; each states the function that it equals, and when.

Importing this package attaches them to the captioner (``modeling/accelerators.py``).
"""

from xmodaler_ssattn.fast.cross_entropy import FusedCrossEntropy, linear_cross_entropy
from xmodaler_ssattn.fast.graphs import CapturedForcing
from xmodaler_ssattn.fast.optim import FusedAdam
from xmodaler_ssattn.fast.teacher_forcing import FastForcing
from xmodaler_ssattn.modeling.accelerators import ATTACHED

ATTACHED.forcing = lambda capture_graphs: FastForcing(CapturedForcing() if capture_graphs else None)
ATTACHED.linear_cross_entropy = linear_cross_entropy

__all__ = ["FusedAdam", "FusedCrossEntropy"]
