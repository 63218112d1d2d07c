"""Spatial-Semantic Attention for grounded image captioning, as a plugin of X-modaler.

Importing this package registers its classes in X-modaler's registries (upstream's when it can be
imported, else those of the embedded runtime; see ``host.py``):

    SSAttentionDecoder, GroundedCaptioner, GroundedBeamSearcher, GroundedGreedyDecoder   modeling/
    GroundingLoss, SelfCriticalLoss                                                      losses/
    SelfCriticalTrainer                                                                  engine/
    GroundedScorer, CiderD                                                               scorer/
    Flickr30kEntitiesDataset                                                             data/
    Flickr30kEntitiesEvaler                                                              evaluation/
    FusedCrossEntropy, FusedAdam                                                         fast/
    LSTMADecoder, SpatialGraphEmbedding, SentinelDecoder, PointerLoss                    methods/

After that their names can be used in any X-modaler yaml and in any script that builds from the registries.
"""

from xmodaler_ssattn._version import __version__
from xmodaler_ssattn.caption import GroundedCaption, GroundedWord
from xmodaler_ssattn.data.mapper import Flickr30kEntitiesDataset
from xmodaler_ssattn.engine.rl_trainer import SelfCriticalTrainer
from xmodaler_ssattn.evaluation.evaler import Flickr30kEntitiesEvaler
from xmodaler_ssattn.fast.cross_entropy import FusedCrossEntropy
from xmodaler_ssattn.fast.optim import FusedAdam
from xmodaler_ssattn.losses import GroundingLoss, SelfCriticalLoss
from xmodaler_ssattn.methods import LSTMADecoder, SpatialGraphEmbedding
from xmodaler_ssattn.modeling import (
    GroundedBeamSearcher,
    GroundedCaptioner,
    GroundedGreedyDecoder,
    SSAttentionDecoder,
)
from xmodaler_ssattn.scorer import CiderD, GroundedScorer

__all__ = [
    "CiderD",
    "Flickr30kEntitiesDataset",
    "Flickr30kEntitiesEvaler",
    "FusedAdam",
    "FusedCrossEntropy",
    "GroundedBeamSearcher",
    "GroundedCaption",
    "GroundedCaptioner",
    "GroundedGreedyDecoder",
    "GroundedScorer",
    "GroundedWord",
    "GroundingLoss",
    "LSTMADecoder",
    "SSAttentionDecoder",
    "SelfCriticalLoss",
    "SelfCriticalTrainer",
    "SpatialGraphEmbedding",
    "__version__",
]
