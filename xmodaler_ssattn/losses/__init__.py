"""The grounding loss of the paper's section 2.3, supervision per word, and the loss of self-critical training."""

from xmodaler_ssattn.losses.base import Loss
from xmodaler_ssattn.losses.grounding import GroundingLoss, grounding_loss
from xmodaler_ssattn.losses.reward import SelfCriticalLoss, reward_loss
from xmodaler_ssattn.losses.word_attention import WordAttentionLoss, word_attention_loss

__all__ = [
    "GroundingLoss",
    "Loss",
    "SelfCriticalLoss",
    "WordAttentionLoss",
    "grounding_loss",
    "reward_loss",
    "word_attention_loss",
]
