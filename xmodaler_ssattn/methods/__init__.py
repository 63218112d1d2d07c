"""Other systems that the paper compares with, one file each: registered classes that a config names, off by default.

Each file says what of its system it contains and what it leaves out; docs/methods.md has the list.
"""

from xmodaler_ssattn.methods.cyclical import CyclicalCaptioner, CyclicalLoss
from xmodaler_ssattn.methods.distributed import ConsistencyLoss, DistributedDecoder
from xmodaler_ssattn.methods.gcn_lstm import SpatialGraphEmbedding
from xmodaler_ssattn.methods.gvd import GVDContextEncoder, GVDRegionEmbedding
from xmodaler_ssattn.methods.gvd_loss import GVDClassLoss
from xmodaler_ssattn.methods.lstm_a import LSTMADecoder
from xmodaler_ssattn.methods.matching_reward import MatchingScorer
from xmodaler_ssattn.methods.nbt_style import PointerLoss, SentinelDecoder
from xmodaler_ssattn.methods.prophet import ProphetCaptioner, ProphetLoss

__all__ = [
    "ConsistencyLoss",
    "CyclicalCaptioner",
    "CyclicalLoss",
    "DistributedDecoder",
    "GVDClassLoss",
    "GVDContextEncoder",
    "GVDRegionEmbedding",
    "LSTMADecoder",
    "MatchingScorer",
    "PointerLoss",
    "ProphetCaptioner",
    "ProphetLoss",
    "SentinelDecoder",
    "SpatialGraphEmbedding",
]
