"""Other systems that the paper compares with, one file each: registered classes that a config names, off by default.

Each file says what of its system it contains and what it leaves out; docs/methods.md has the list.
"""

from xmodaler_ssattn.methods.gvd import GVDContextEncoder, GVDRegionEmbedding
from xmodaler_ssattn.methods.gvd_loss import GVDClassLoss
from xmodaler_ssattn.methods.matching_reward import MatchingScorer

__all__ = ["GVDClassLoss", "GVDContextEncoder", "GVDRegionEmbedding", "MatchingScorer"]
