"""The embedded host: a small version of X-modaler's public interface for encoder-decoder captioning, on any device.

README.md in this folder lists what is equal to upstream and what differs.
"""

# ruff: noqa: F401  (imported for others)

from . import comm, hooks
from .checkpoint import CheckpointError, XmodalerCheckpointer
from .config import CfgNode, get_cfg, kfg
from .configurable import configurable
from .data import DatasetFromList, MapDataset, build_xmodaler_train_loader, build_xmodaler_valtest_loader
from .decode_strategy import BeamSearcher, DecodeStrategy, GreedyDecoder
from .events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    default_writers,
    get_event_storage,
)
from .functional import decode_sequence, expand_tensor, load_vocab, pad_tensor, to_device
from .hooks import flatten_results_dict
from .launch import launch
from .losses import CrossEntropy, LabelSmoothing, build_losses
from .meta_arch import BaseEncoderDecoder, RnnAttEncoderDecoder, add_config, build_model
from .optim import SGD, Adam, AdamW, FixLR, StepLR, build_optimizer
from .parts import (
    BaseAttention,
    BasePredictor,
    Decoder,
    Encoder,
    TokenBaseEmbedding,
    UpDownDecoder,
    UpDownEncoder,
    VisualBaseEmbedding,
    VisualIdentityEmbedding,
)
from .registry import (
    DATASETS_REGISTRY,
    DECODE_STRATEGY_REGISTRY,
    DECODER_REGISTRY,
    EMBEDDING_REGISTRY,
    ENCODER_REGISTRY,
    ENGINE_REGISTRY,
    EVALUATION_REGISTRY,
    LOSSES_REGISTRY,
    LR_SCHEDULER_REGISTRY,
    META_ARCH_REGISTRY,
    PREDICTOR_REGISTRY,
    SCORER_REGISTRY,
    SOLVER_REGISTRY,
    Registry,
    build_engine,
    build_evaluation,
    build_lr_scheduler,
    build_scorer,
)
from .rng import seed_all_rng
from .setup import default_setup, setup_logger
from .train_loop import HookBase, TrainerBase
from .trainer import DefaultTrainer
