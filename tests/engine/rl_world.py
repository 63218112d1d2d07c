"""Four images of three regions, six words, and a trainer on them: some dozens of steps teach it something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from toys import CLASSES, RAW, WORDS, toy_config, toy_model
from xmodaler_ssattn.data.annotations import annotation_header
from xmodaler_ssattn.data.json_list import json_list
from xmodaler_ssattn.host import build_engine
from xmodaler_ssattn.packs.store import RegionWriter

A, MAN, DOG, RUNS, WITH, UNK = range(1, 7)
REGIONS = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [0, 50, 10, 60]], dtype=np.float32)
MAN_BOX, DOG_BOX = [0, 0, 10, 9], [51, 50, 61, 60]  # answered by regions 0 and 1

# "sleeps" is not in the vocabulary.
CAPTIONS = {
    11: ["a man runs", "a man"],
    12: ["a dog runs", "a dog"],
    13: ["a man with a dog", "a man with a dog sleeps"],
    14: ["a dog", "a dog with a dog"],
}
BOX_OF = {"man": MAN_BOX, "dog": DOG_BOX}


def caption(text: str) -> dict[str, Any]:
    tokens = text.split()
    phrases = [
        {"start": i, "end": i + 1, "head": i, "class": token, "chain": str(i), "boxes": [BOX_OF[token]]}
        for i, token in enumerate(tokens)
        if token in BOX_OF
    ]
    return {"raw": text, "tokens": tokens, "phrases": phrases}


def write_world(folder: Path, captions: dict[int, list[str]] = CAPTIONS) -> Path:
    """Annotations, vocabulary and regions of the images; features depend on the image alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with json_list(folder / "train.json", annotation_header("train", "t", False, "r", ["man", "dog"]), "images") as out:
        for image_id, texts in captions.items():
            out.add({"image_id": image_id, "width": 100, "height": 80, "captions": [caption(t) for t in texts]})
    (folder / "vocabulary.txt").write_text("".join(f"{word}\n" for word in WORDS))
    with RegionWriter(folder / "regions.h5", list(captions), 3, RAW, CLASSES, source="test") as writer:
        for image_id in captions:
            rng = np.random.default_rng(image_id)
            probs = rng.random((3, CLASSES))
            writer.write(image_id, 100, 80, REGIONS, rng.standard_normal((3, RAW)), probs / probs.sum(1, keepdims=True))
    return folder


def rl_options(folder: Path, **overrides: Any) -> dict[str, Any]:
    """Dotted keys (``__`` for the dot) of a self-critical run on the world in ``folder``, for ``toy_config``."""
    values = {
        "DATASETS__TRAIN": "Flickr30kEntitiesDataset",
        "DATALOADER__ANNO_FOLDER": str(folder),
        "DATALOADER__REGIONS": str(folder / "regions.h5"),
        "DATALOADER__TRAIN_BATCH_SIZE": 4,
        "DATALOADER__NUM_WORKERS": 0,
        "DATALOADER__SEQ_PER_SAMPLE": 12,
        "ENGINE__NAME": "SelfCriticalTrainer",
        "LOSSES__NAMES": ["SelfCriticalLoss", "GroundingLoss"],
        "SCORER__NAME": "GroundedScorer",
        "SCORER__TYPES": ["CiderD"],
        "SCORER__GT_PATH": "",
        "SCORER__CIDER_CACHED": "",
        "SOLVER__BASE_LR": 0.03,
        "SOLVER__GRAD_CLIP": 0.0,
        "SOLVER__EPOCH": 40,
        "SOLVER__CHECKPOINT_PERIOD": 1000,
        "LR_SCHEDULER__NAME": "FixLR",
        "OUTPUT_DIR": str(folder / "out"),
        "SEED": 3,
    }
    return values | overrides


def rl_config(folder: Path, *, weights: bool = True, **overrides: Any) -> Any:
    """The config of a run; with ``weights`` a checkpoint of a random model lies ready as MODEL.WEIGHTS."""
    if not (folder / "train.json").is_file():
        write_world(folder)
    options = rl_options(folder, **overrides)
    if weights and "MODEL__WEIGHTS" not in overrides:
        options["MODEL__WEIGHTS"] = str(folder / "start.pth")
        architecture = {key: value for key, value in overrides.items() if key.startswith("MODEL__")}
        torch.save({"model": toy_model(folder, **architecture).state_dict()}, folder / "start.pth")
    Path(options["OUTPUT_DIR"]).mkdir(exist_ok=True)
    return toy_config(folder, **options)


def rl_trainer(folder: Path, **overrides: Any) -> Any:
    """The trainer of such a run, its weights loaded, its random numbers seeded."""
    cfg = rl_config(folder, **overrides)
    torch.manual_seed(cfg.SEED)
    trainer = build_engine(cfg)
    trainer.resume_or_load(resume=False)
    return trainer


def all_images(trainer: Any) -> dict:
    """One preprocessed batch of all images, in the order of their ids, whatever the loader's shuffle."""
    dataset = trainer.train_data_loader.dataset
    return trainer.model.preprocess_batch([dataset[index] for index in range(len(dataset))])
