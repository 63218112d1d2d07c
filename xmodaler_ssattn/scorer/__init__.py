"""The reward of a sampled caption: CIDEr-D against the training references, and the grounding of its words."""

from xmodaler_ssattn.scorer.caption_reward import CiderD, GroundedScorer

__all__ = ["CiderD", "GroundedScorer"]
