"""What a drawn caption is worth: CIDEr-D against the training references, and whether its object words are grounded."""

from xmodaler_ssattn.scorer.caption_reward import CiderD, GroundedScorer

__all__ = ["CiderD", "GroundedScorer"]
