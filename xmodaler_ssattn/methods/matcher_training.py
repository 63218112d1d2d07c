"""Train POS-SCAN's matcher (``scan.Matcher``) on images and captions, without boxes; a stopped training goes on.

As SCAN: Adam, 2e-4, times 0.1 in the second half, 128 pairs of an image and a caption, gradient norm at most 2. Source:
misc/SCAN/train.py:46-103 of YuanEZhou/Grounded-Image-Captioning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.methods.scan import Matcher, caption_scores, padded, ranking_loss
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.progress import progress, to_stderr
from xmodaler_ssattn.safe_load import safe_load
from xmodaler_ssattn.sealed import save_sealed

BATCH, LEARNING_RATE, CLIP = 128, 2e-4, 2.0


class Captioned(NamedTuple):
    """An image with those of its captions that have a noun.

    Attributes:
        numbers: the captions' numbers in the annotation file.
        tokens: (T,) int64 word ids of each.
        nouns: (J,) int64 positions of its object words, J at least 1.
    """

    image_id: int
    numbers: list[int]
    tokens: list[np.ndarray]
    nouns: list[np.ndarray]


def batch_of(
    store: RegionStore, ids: Sequence[int], tokens: list, nouns: list, limit: int | None, device: torch.device
) -> dict[str, Tensor]:
    """The input of ``Matcher`` for images ``ids`` and some captions, padded with 0."""
    feats = []
    for image_id in ids:
        regions = store.read(image_id, limit=limit, class_probs=False)
        regions.check_numbers(store.path)
        feats.append(torch.from_numpy(regions.features))
    masks = {"region_mask": [torch.ones(len(part)) for part in feats], "noun_mask": [torch.ones(len(n)) for n in nouns]}
    parts = {"feats": feats, "tokens": tokens, "nouns": nouns, **masks}
    return {name: padded(rows, device) for name, rows in parts.items()}


class Kept(NamedTuple):
    """Where a training is kept after each epoch."""

    path: Path
    made_for: dict[str, Any]  # what another training must have in common to continue with the file

    def load(self, matcher: Matcher, optimiser: torch.optim.Optimizer) -> list[float]:
        """Continue with the file, if there is a sound one of the same training; returns the epochs' losses so far."""
        if not self.path.is_file():
            return []
        try:
            stored = safe_load(self.path, "The matcher's unfinished training", checksums=True)
        except UserError as error:
            to_stderr(f"{error} It begins again.")
            return []
        if not isinstance(stored, dict) or stored.get("made_for") != self.made_for:
            to_stderr(f"{self.path} is of a training with other data or settings. It begins again.")
            return []
        matcher.load_state_dict(stored["model"])
        optimiser.load_state_dict(stored["optimiser"])
        to_stderr(f"{self.path}: the matcher's training continues after epoch {len(stored['history'])}.")
        return stored["history"]

    def save(self, matcher: Matcher, optimiser: torch.optim.Optimizer, history: list[float]) -> None:
        """Keep the training as it is after an epoch."""
        states = {"model": matcher.state_dict(), "optimiser": optimiser.state_dict()}
        save_sealed(self.path, {"made_for": self.made_for, "history": history, **states})


def train_matcher(
    matcher: Matcher,
    images: Sequence[Captioned],
    store: RegionStore,
    *,
    epochs: int,
    limit: int | None = None,
    batch: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    kept: Kept | None = None,
) -> list[float]:
    """Train, and return the mean loss of each epoch; an epoch uses each caption about once.

    A batch has an image only once, so that all its other pairs are wrong.
    """
    if len(images) < 2:
        raise UserError(f"The matcher compares images with each other: expected at least 2, got {len(images)}.")
    device = next(matcher.parameters()).device
    optimiser = torch.optim.Adam(matcher.parameters(), lr=learning_rate)
    history = kept.load(matcher, optimiser) if kept is not None else []
    passes = max(len(image.numbers) for image in images)
    matcher.train()
    for epoch in range(len(history), epochs):
        generator = np.random.default_rng((seed, epoch))  # an epoch's order does not depend on where training began
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (0.1 if epoch >= (epochs + 1) // 2 else 1)
        orders = (generator.permutation(len(images)) for _ in range(passes))
        # A last batch of one image has no wrong pair.
        batches = [order[start : start + batch] for order in orders for start in range(0, len(order) - 1, batch)]
        losses = []
        for batch_images in progress(batches, desc=f"matcher, epoch {epoch + 1} of {epochs}"):
            chosen = [images[at] for at in batch_images]
            which = [int(generator.integers(len(image.numbers))) for image in chosen]
            tokens = [image.tokens[at] for image, at in zip(chosen, which, strict=True)]
            nouns = [image.nouns[at] for image, at in zip(chosen, which, strict=True)]
            inputs = batch_of(store, [image.image_id for image in chosen], tokens, nouns, limit, device)
            loss = ranking_loss(caption_scores(matcher(inputs)[1], inputs["noun_mask"]))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(matcher.parameters(), CLIP)
            optimiser.step()
            losses.append(loss.detach())
        history.append(float(torch.stack(losses).mean()))
        to_stderr(f"matcher, epoch {epoch + 1} of {epochs}: loss {history[-1]:.4f}")
        if kept is not None:
            kept.save(matcher, optimiser, history)
    return history
