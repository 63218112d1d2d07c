"""The grounding loss of the paper's section 2.3."""

from xmodaler_ssattn.losses.grounding import GroundingLoss, grounding_loss

__all__ = ["GroundingLoss", "grounding_loss"]
