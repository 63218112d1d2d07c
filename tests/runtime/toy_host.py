"""A stock Up-Down model, a mapper and an evaluator of a few numbers, on the embedded runtime.

With RUNTIME_TOY_HOST=upstream the same on upstream X-modaler, for the comparison of the two.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

if os.environ.get("RUNTIME_TOY_HOST") == "upstream":
    from runtime.upstream_on_cpu import (
        DATASETS_REGISTRY,
        EVALUATION_REGISTRY,
        CfgNode,
        DefaultTrainer,
        add_config,
        build_engine,
        default_setup,
        get_cfg,
        kfg,
    )
else:
    from xmodaler_ssattn.runtime import (
        DATASETS_REGISTRY,
        EVALUATION_REGISTRY,
        CfgNode,
        DefaultTrainer,
        add_config,
        build_engine,
        default_setup,
        get_cfg,
        kfg,
    )

WORDS = [f"w{i}" for i in range(1, 12)]
VOCAB_SIZE = len(WORDS) + 1
TRAIN_IMAGES, VAL_IMAGES = 13, 5


@DATASETS_REGISTRY.register()
class RuntimeToyDataset:
    """13 training images of 2 to 4 regions; 2 captions of an image are drawn at random each time."""

    def __init__(self, cfg: CfgNode, stage: str) -> None:
        self.stage = stage

    def load_data(self, cfg: CfgNode) -> list[dict[str, int]]:
        return [{"image_id": i} for i in range(TRAIN_IMAGES if self.stage == "train" else VAL_IMAGES)]

    def __call__(self, record: dict[str, int]) -> dict[str, Any]:
        image = record["image_id"]
        draw = np.random.RandomState(image)
        sample: dict[str, Any] = {kfg.IDS: image, kfg.ATT_FEATS: draw.randn(2 + image % 3, 6).astype("float32")}
        if self.stage == "train":
            captions = [draw.randint(1, VOCAB_SIZE, size=draw.randint(1, 5)) for _ in range(4)]
            chosen = random.sample(captions, 2)
            sample[kfg.SEQ_PER_SAMPLE] = 2
            sample[kfg.G_TOKENS_IDS] = [np.concatenate([[0], caption]) for caption in chosen]
            sample[kfg.G_TARGET_IDS] = [np.concatenate([caption, [0]]) for caption in chosen]
        else:
            random.random()  # evaluation consumes random numbers, as real mappers may
        return {
            key: [torch.as_tensor(item) for item in value] if isinstance(value, list) else torch.as_tensor(value)
            for key, value in sample.items()
        }


@EVALUATION_REGISTRY.register()
class RuntimeToyEvaler:
    """Counts words; remembers each call in ``calls`` as (annotation file, epoch), and the last sentences."""

    calls: ClassVar[list[tuple[str, int]]] = []
    sentences: ClassVar[list[str]] = []
    fail_at_epoch: ClassVar[int | None] = None

    def __init__(self, cfg: CfgNode, annfile: str, output_dir: str | None) -> None:
        self.annfile = annfile

    def eval(self, results: list[dict[str, Any]], epoch: int) -> dict[str, Any]:
        if epoch == self.fail_at_epoch:
            raise OSError("the disk is full")
        self.calls.append((self.annfile, epoch))
        self.sentences[:] = [result["caption"] for result in results]
        np.random.rand()
        return {"words": {"mean": np.mean([len(result["caption"].split()) for result in results])}}


CONFIG = {
    "DATASETS": {"TRAIN": "RuntimeToyDataset", "VAL": "RuntimeToyDataset", "TEST": ""},
    "DATALOADER": {"TRAIN_BATCH_SIZE": 3, "TEST_BATCH_SIZE": 2, "NUM_WORKERS": 0},
    "SCHEDULED_SAMPLING": {"INC_EVERY_EPOCH": 1, "INC_PROB": 0.3, "MAX_PROB": 0.5},
    "MODEL": {
        "DEVICE": "cpu",
        "VOCAB_SIZE": VOCAB_SIZE,
        "META_ARCHITECTURE": "RnnAttEncoderDecoder",
        "ENCODER": "UpDownEncoder",
        "DECODER": "UpDownDecoder",
        "DECODER_DIM": 8,
        "PREDICTOR": "BasePredictor",
        "PRED_DROPOUT": 0.5,
        "MAX_SEQ_LEN": 4,
        "TOKEN_EMBED": {"NAME": "TokenBaseEmbedding", "DIM": 5, "ACTIVATION": "relu", "DROPOUT": 0.5},
        "VISUAL_EMBED": {
            "NAME": "VisualBaseEmbedding", "IN_DIM": 6, "OUT_DIM": 7, "ACTIVATION": "relu", "DROPOUT": 0.5,
        },
        "UPDOWN": {"ATT_EMBED_SIZE": 4},
    },
    "SOLVER": {"EPOCH": 2, "BASE_LR": 0.01, "WRITE_PERIOD": 3},
    "LR_SCHEDULER": {"STEP_SIZE": 1, "GAMMA": 0.5},
    "LOSSES": {"NAMES": ["CrossEntropy"]},
    "DECODE_STRATEGY": {"BEAM_SIZE": 2},
    "INFERENCE": {"NAME": "RuntimeToyEvaler", "VAL_ANNFILE": "val", "TEST_ANNFILE": "test"},
    "SEED": 1,
}  # fmt: skip


def toy_config(folder: Path, *opts: Any) -> CfgNode:
    """The frozen config; ``opts`` are KEY, value pairs. Everything is written to ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocabulary.txt"
    vocabulary.write_text("\n".join(WORDS))
    cfg = get_cfg()
    values = CfgNode(CONFIG)
    add_config(cfg, values)
    cfg.merge_from_other_cfg(values)
    cfg.merge_from_list(["INFERENCE.VOCAB", str(vocabulary), "OUTPUT_DIR", str(folder), *opts])
    cfg.freeze()
    return cfg


def toy_trainer(cfg: CfgNode, resume: bool = False) -> DefaultTrainer:
    """Set up and build as the training script does; not trained yet."""
    default_setup(cfg, argparse.Namespace(eval_only=False))
    trainer = build_engine(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def losses_of(trainer: DefaultTrainer) -> list[float]:
    """``total_loss`` of every step that this trainer did."""
    return [value for value, _ in trainer.storage.history("total_loss").values()]
