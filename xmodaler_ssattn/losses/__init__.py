"""The grounding loss of the paper's section 2.3, the loss of self-critical training, and a lean cross-entropy."""

from xmodaler_ssattn.losses.grounding import GroundingLoss, grounding_loss
from xmodaler_ssattn.losses.reward import SelfCriticalLoss, reward_loss
from xmodaler_ssattn.losses.vocabulary import FusedCrossEntropy, linear_cross_entropy

__all__ = [
    "FusedCrossEntropy",
    "GroundingLoss",
    "SelfCriticalLoss",
    "grounding_loss",
    "linear_cross_entropy",
    "reward_loss",
]
