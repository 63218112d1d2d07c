"""Toy models, samples and configs that a person can follow: 2 to 5 regions, 4 classes, 6 words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.data.inputs import RegionInputs
from xmodaler_ssattn.data.mapper import Flickr30kEntitiesDataset
from xmodaler_ssattn.host import add_config, build_losses, build_model, get_cfg, kfg

WORDS = ["a", "man", "dog", "runs", "with", "UNK"]
VOCAB_SIZE = len(WORDS) + 1
RAW, CLASSES = 6, 4


def write_vocabulary(folder: Path, words: list[str] = WORDS) -> Path:
    path = Path(folder) / "vocabulary.txt"
    path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return path


def toy_config(folder: Path, **overrides: Any) -> Any:
    """A captioner small enough to check by hand; ``overrides`` are dotted keys with ``__`` for the dot."""
    cfg = get_cfg()
    node = type(cfg)
    architecture = node(
        {
            "MODEL": node(
                {
                    "META_ARCHITECTURE": "GroundedCaptioner",
                    "ENCODER": "UpDownEncoder",
                    "DECODER": "SSAttentionDecoder",
                    "PREDICTOR": "BasePredictor",
                }
            )
        }
    )
    add_config(cfg, architecture)
    cfg.merge_from_other_cfg(architecture)
    values = {
        "MODEL.DEVICE": "cpu",
        "MODEL.VOCAB_SIZE": VOCAB_SIZE,
        "MODEL.MAX_SEQ_LEN": 6,
        "MODEL.DECODER_DIM": 8,
        "MODEL.TOKEN_EMBED.NAME": "TokenBaseEmbedding",
        "MODEL.TOKEN_EMBED.DIM": 7,
        "MODEL.TOKEN_EMBED.ACTIVATION": "relu",
        "MODEL.VISUAL_EMBED.NAME": "VisualBaseEmbedding",
        "MODEL.VISUAL_EMBED.IN_DIM": RAW,
        "MODEL.VISUAL_EMBED.OUT_DIM": 5,
        "MODEL.VISUAL_EMBED.ACTIVATION": "relu",
        "MODEL.UPDOWN.ATT_EMBED_SIZE": 4,
        "MODEL.SS_ATTENTION.NUM_CLASSES": CLASSES,
        # A positive bias keeps the tiny ReLUs alive, whatever the seed.
        "MODEL.SS_ATTENTION.POSITIVE_BIAS_INIT": 1.0,
        "DECODE_STRATEGY.NAME": "GroundedBeamSearcher",
        "DECODE_STRATEGY.BEAM_SIZE": 3,
        "INFERENCE.VOCAB": str(write_vocabulary(folder)),
        "LOSSES.NAMES": ["CrossEntropy", "GroundingLoss"],
    }
    values.update({key.replace("__", "."): value for key, value in overrides.items()})
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def toy_model(folder: Path, seed: int = 0, **overrides: Any) -> torch.nn.Module:
    cfg = toy_config(folder, **overrides)
    torch.manual_seed(seed)
    return build_model(cfg)


def toy_sample(
    image_id: int, regions: int, captions: list[list[int]] = ((1, 2, 4), (1, 3)), *, sigma: list[float] | None = None
) -> dict:
    """What the mapper returns for one image; contents depend only on ``image_id``, not on any global seed."""
    generator = torch.Generator().manual_seed(image_id)

    def random(*shape):
        return torch.rand(*shape, generator=generator)

    corners = random(regions, 2) * 50
    boxes = torch.cat([corners, corners + 1 + random(regions, 2) * 49], dim=1)
    x1, y1, x2, y2 = (boxes / 100).unbind(1)
    sigma = sigma if sigma is not None else [1.0] + [0.0] * (regions - 1)
    return {
        kfg.IDS: image_id,
        kfg.ATT_FEATS: torch.randn(regions, RAW, generator=generator),
        keys.BOXES_PX: boxes,
        keys.SPATIAL: torch.stack([x1, x2, y1, y2, (x2 - x1) * (y2 - y1)], dim=1),
        keys.CLASS_PROBS: random(regions, CLASSES).softmax(dim=1),
        keys.IMAGE_SIZE: torch.tensor([100.0, 100.0]),
        kfg.SEQ_PER_SAMPLE: torch.tensor(len(captions)),
        kfg.G_TOKENS_IDS: [torch.tensor([0, *words]) for words in captions],
        kfg.G_TARGET_IDS: [torch.tensor([*words, 0]) for words in captions],
        keys.SIGMA: torch.tensor([sigma]),
        keys.HAS_BOXES: torch.tensor([float(any(sigma))]),
        keys.REF_TOKENS_IDS: [torch.tensor([0, *words]) for words in captions],
    }


def for_test(sample: dict) -> dict:
    """The same image as the mapper returns it for val and test: no captions to learn from."""
    training = (kfg.SEQ_PER_SAMPLE, kfg.G_TOKENS_IDS, kfg.G_TARGET_IDS, keys.SIGMA, keys.HAS_BOXES)
    return {key: value for key, value in sample.items() if key not in training}


# Five and two regions; captions of 4, 3, 2 and 5 words with the end.
TWO_IMAGES = [toy_sample(1, 5, [[1, 2, 4], [1, 3]]), toy_sample(2, 2, [[5], [3, 3, 1, 2]])]


def losses_of(cfg, model, samples=TWO_IMAGES, ss_prob: float = 0.0) -> dict[str, torch.Tensor]:
    """The named losses of one training step."""
    out = model({**model.preprocess_batch(samples), kfg.SS_PROB: ss_prob})
    losses = {}
    for loss in build_losses(cfg):
        losses.update(loss(out))
    return losses


def trained_once(cfg, model, samples=TWO_IMAGES, ss_prob: float = 0.0) -> tuple[dict, dict]:
    """The losses of one training step, and all gradients that it gives."""
    model.zero_grad()
    losses = losses_of(cfg, model, samples, ss_prob)
    sum(losses.values()).backward()
    return {name: value.detach() for name, value in losses.items()}, gradients_of(model)


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def captions_of(model, samples) -> list:
    """GroundedCaptions by beam search, as the stock test loop asks for them."""
    return model(model.preprocess_batch(samples), use_beam_search=True, output_sents=True)[kfg.OUTPUT]


def toy_dataset(files, stage="train", vocab_size=6, **change):
    """The mapper of a test's files; ``change`` may hold fields of its inputs (6 numbers, 5 classes, all regions)."""
    inputs = {"feature_dim": 6, "num_classes": 5, "max_regions": None}
    inputs |= {name: change.pop(name) for name in inputs if name in change}
    return Flickr30kEntitiesDataset(
        **{
            "stage": stage,
            "annotation_file": str(files / f"{stage}.json"),
            "regions_file": str(files / "regions.h5"),
            "vocabulary_file": str(files / "vocabulary.txt"),
            "seq_per_sample": 2,
            "inputs": RegionInputs(**inputs),
            "max_seq_len": 20,
            "vocab_size": vocab_size,
            "targets": "image",
            **change,
        }
    )
