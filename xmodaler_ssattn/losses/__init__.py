"""The grounding loss of the paper's section 2.3, and the loss of self-critical training."""

from xmodaler_ssattn.losses.grounding import GroundingLoss, grounding_loss
from xmodaler_ssattn.losses.reward import SelfCriticalLoss, reward_loss

__all__ = ["GroundingLoss", "SelfCriticalLoss", "grounding_loss", "reward_loss"]
