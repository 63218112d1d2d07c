"""The reward of a sampled caption: CIDEr-D against the training references, and how well its words are grounded."""

from xmodaler_ssattn.scorer.caption_reward import CiderD, GroundedScorer

__all__ = ["CiderD", "GroundedScorer"]
