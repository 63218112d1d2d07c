"""The model: the paper's attention, the decoder around it, the captioner, and the decoding."""

from xmodaler_ssattn.modeling.captioner import GroundedCaptioner
from xmodaler_ssattn.modeling.decoder import SSAttentionDecoder
from xmodaler_ssattn.modeling.searchers import GroundedBeamSearcher, GroundedGreedyDecoder
from xmodaler_ssattn.modeling.visual_embed import SpatialSemanticEmbedding

__all__ = [
    "GroundedBeamSearcher",
    "GroundedCaptioner",
    "GroundedGreedyDecoder",
    "SSAttentionDecoder",
    "SpatialSemanticEmbedding",
]
