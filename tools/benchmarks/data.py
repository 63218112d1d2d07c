"""Captions, batches and files at the paper's sizes for the benchmarks; features are noise."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

VOCAB, REGIONS, FEATURES, CLASSES, CAPTIONS = 8640, 36, 2048, 1601, 5
MOST_WORDS = 20


def read_captions(path: str) -> list[list[list[str]]]:
    """The captions of each image as lower-case words without punctuation."""
    from xmodaler_ssattn.files import read_json

    images = read_json(path, "The captions").values()
    word = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*")
    return [[word.findall(caption.lower()) for caption in image["captions"]] for image in images]


def caption_lengths(path: str | None) -> list[int]:
    """Number of words of each caption, at most 20; without a file normally distributed, mean 12.4, as on Flickr30k."""
    if path is None:
        rng = random.Random(0)
        return [min(MOST_WORDS, max(4, round(rng.gauss(12.4, 5)))) for _ in range(5000)]
    return [min(MOST_WORDS, len(words)) for image in read_captions(path) for words in image]


def write_vocabulary(folder: Path) -> Path:
    """w0, w1, ..., and the one-word names of object classes, each fifth word, for the methods that look for them."""
    from xmodaler_ssattn.classes import read_classes

    words = [f"w{i}" for i in range(VOCAB - 2)]
    names = [name for name in read_classes() if name.isalpha()]
    words[: 5 * len(names) : 5] = names
    path = folder / "vocabulary.txt"
    path.write_text("".join(f"{word}\n" for word in words) + "UNK\n")
    return path


def noise_batch(batch: int, lengths: list[int], device: str) -> dict[str, Any]:
    """The same arrays for all contestants: features, boxes, classes, tokens and targets of ``batch`` images."""
    generator = torch.Generator().manual_seed(0)
    rng = random.Random(0)
    captions = [[rng.randrange(1, VOCAB) for _ in range(n)] for n in rng.choices(lengths, k=batch * CAPTIONS)]
    tokens, targets = pad(captions)
    corners = torch.rand(batch, REGIONS, 2, generator=generator) * 0.6
    p = torch.cat([corners, corners + 0.3], -1)
    arrays = {
        "feats": torch.randn(batch, REGIONS, FEATURES, generator=generator).relu(),
        "boxes": p * 500,
        "p": torch.cat([p[..., [0, 2, 1, 3]], torch.full((batch, REGIONS, 1), 0.09)], -1),
        "c": torch.randn(batch, REGIONS, CLASSES, generator=generator).mul(3).softmax(-1),
        "sigma": (torch.rand(batch, 1, REGIONS, generator=generator) < 0.1).float(),
        "tokens": tokens,
        "targets": targets,
        "spans": torch.zeros(*targets.shape, 2, dtype=torch.long),
    }
    arrays["spans"][:, 1:3] = torch.tensor([1, 3])  # one phrase of two words in each caption
    from xmodaler_ssattn.modeling.collate import WordPairs

    arrays = {name: value.to(device) for name, value in arrays.items()}
    # As on Flickr30k: one of four words names an object, and two regions reach its box.
    named = torch.nonzero((targets > 0).flatten()).flatten()[::4].repeat(2).to(device)
    pairs = WordPairs(named, torch.arange(len(named), device=device) % REGIONS, torch.ones(len(named), device=device))
    return arrays | {"lengths": [len(words) + 1 for words in captions], "pairs": pairs}


def pad(captions: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Word ids of N captions -> tokens (N, T) that begin with 0, targets (N, T) that end with 0, then -1."""
    width = max(map(len, captions)) + 1
    tokens, targets = torch.zeros(len(captions), width, dtype=torch.long), torch.full((len(captions), width), -1)
    for row, words in enumerate(captions):
        tokens[row, 1 : len(words) + 1] = torch.tensor(words)
        targets[row, : len(words) + 1] = torch.tensor([*words, 0])
    return tokens, targets


def write_regions(path: Path, images: int, regions: int = REGIONS, dim: int = FEATURES, classes: int = CLASSES) -> Path:
    """A region file of noise with the image ids 0, 1, ..."""
    from xmodaler_ssattn.packs.store import RegionWriter

    rng = np.random.default_rng(0)
    with RegionWriter(path, range(images), regions, dim, classes, source="noise") as writer:
        for image_id in range(images):
            corner = rng.random((regions, 2), dtype=np.float32) * 200
            boxes_px = np.concatenate([corner, corner + 100], 1)
            probs = rng.random((regions, classes), dtype=np.float32)
            features = rng.random((regions, dim), dtype=np.float32)
            writer.write(image_id, 500, 375, boxes_px, features, probs / probs.sum(1, keepdims=True))
    return path


def write_training_files(folder: Path, images: int, lengths: list[int]) -> None:
    """train.json, regions.h5 and vocabulary.txt of ``images`` images, as written by `xmodaler prepare`."""
    from xmodaler_ssattn.data.annotations import annotation_header
    from xmodaler_ssattn.data.json_list import json_list

    write_vocabulary(folder)
    write_regions(folder / "regions.h5", images)
    rng = random.Random(0)
    with json_list(
        folder / "train.json", annotation_header("train", "benchmark", False, "noise", ["thing"]), "images"
    ) as out:
        for image_id in range(images):
            captions = []
            for _ in range(CAPTIONS):
                tokens = [f"w{rng.randrange(VOCAB - 2)}" for _ in range(max(rng.choice(lengths), 1))]
                x, y = rng.randrange(300), rng.randrange(200)
                phrase = {"start": 0, "end": 1, "head": 0, "class": "thing", "chain": "1"}
                phrases = [phrase | {"boxes": [[x, y, x + 99, y + 99]]}]
                captions.append({"raw": " ".join(tokens), "tokens": tokens, "phrases": phrases})
            out.add({"image_id": image_id, "width": 500, "height": 375, "captions": captions})
