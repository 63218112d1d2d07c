"""POS-SCAN's supervision (Zhou et al., CVPR 2020): train its matcher, and write its attention as a file of word pairs.

The matcher (``scan.Matcher``) learns from images and captions, without boxes, as SCAN: Adam, 2e-4, times 0.1 in the
second half, 128 pairs of an image and a caption, gradient norm at most 2. Source: misc/SCAN/train.py:46-103 of
YuanEZhou/Grounded-Image-Captioning. A stopped training goes on. The captioner then learns with

    L = L_ce + 0.1 mean over the nouns of KL(g_j || alpha_t)      t: the step that predicts noun j, g of ``scan.match``

``WordAttentionLoss`` with LOSSES.WORD_ATTENTION.{PAIRS, REDUCTION words} is that term without a constant: g is fixed,
so it is computed once. Of each noun the ``TOP`` largest weights are kept and divided by their sum. POS-SCAN's own code
supervises the first 17 words of a caption (misc/loss_wrapper.py:45-64); here all that training keeps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xmodaler_ssattn.data.annotations import file_name, read_annotations
from xmodaler_ssattn.data.pair_file import Pair, made_for, write_pairs
from xmodaler_ssattn.data.vocabulary import Vocabulary, read_vocabulary
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.methods.matching_reward import save_matcher
from xmodaler_ssattn.methods.scan import Matcher, caption_scores, padded, ranking_loss
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.progress import progress, to_stderr
from xmodaler_ssattn.safe_load import safe_load
from xmodaler_ssattn.sealed import save_sealed

BATCH, LEARNING_RATE, CLIP = 128, 2e-4, 2.0
SPLIT = "train"
TOP = 8
LEAST = 1e-6  # of a weight in a file of pairs


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


def nouns_of(tokens: Sequence[str], vocabulary: Vocabulary, names_object: Callable[[str], str | None]) -> list[int]:
    """The positions of the object words; a word that the model cannot say is none."""
    return [at for at, word in enumerate(tokens) if word in vocabulary and names_object(word) is not None]


def read_captioned(folder: Path, store: RegionStore) -> tuple[list[Captioned], Vocabulary]:
    """The training images of a data folder that have regions and a noun.

    Raises:
        UserError: a file is missing or broken, or no caption has an object word.
    """
    words_file = folder / "vocabulary.txt"
    vocabulary, names_object = read_vocabulary(words_file), ObjectWords.of_model(words_file)
    found = []
    for image in read_annotations(folder / file_name(SPLIT), SPLIT).images:
        if image["image_id"] not in store or store.num_boxes(image["image_id"]) == 0:
            continue
        captions = [caption["tokens"] for caption in image["captions"]]
        nouns = [nouns_of(tokens, vocabulary, names_object) for tokens in captions]
        numbers = [number for number, positions in enumerate(nouns) if positions]
        if numbers:
            encoded = [np.array(vocabulary.encode(captions[number])) for number in numbers]
            found.append(Captioned(image["image_id"], numbers, encoded, [np.array(nouns[n]) for n in numbers]))
    if not found:
        raise UserError(
            f"{folder}: no training image with regions in {store.path} has a caption with an object word, so there is "
            "nothing to match. Check that both files belong together (`xmodaler check`)."
        )
    return found, vocabulary


@torch.no_grad()
def targets(
    matcher: Matcher, images: Sequence[Captioned], store: RegionStore, limit: int | None = None
) -> Iterator[tuple[int, list[Pair]]]:
    """Image id and the pairs of its captions: the ``TOP`` largest weights of each noun, which sum to 1."""
    device = next(matcher.parameters()).device
    matcher.eval()
    for image in images:
        g = matcher(batch_of(store, [image.image_id], image.tokens, image.nouns, limit, device))[0][:, 0]
        weights, regions = (part.cpu() for part in g.topk(min(TOP, g.shape[-1]), dim=-1))
        weights = weights / weights.sum(-1, keepdim=True)
        yield (
            image.image_id,
            [
                (number, int(word), int(region), float(weight))
                for row, (number, nouns) in enumerate(zip(image.numbers, image.nouns, strict=True))
                for at, word in enumerate(nouns)
                for region, weight in zip(regions[row, at], weights[row, at], strict=True)
                if weight >= LEAST
            ],
        )


def write_targets(
    data: str | os.PathLike, regions: str | os.PathLike, out: str | os.PathLike, *, epochs: int, device: str = "cpu",
    limit: int | None = None, seed: int = 0, **settings: Any,
) -> list[float]:  # fmt: skip
    """Train a matcher on a data folder's training split and write its file of pairs; the mean loss of each epoch.

    The matcher is written beside it, with the ending .pth, and its training is kept after each epoch, with the ending
    .part: called again after a stop, it continues.

    Args:
        limit: only the first ``limit`` regions per image, DATALOADER.MAX_FEAT_NUM of the captioner.
        settings: of ``Matcher`` and ``train_matcher``: size, word_size, batch, learning_rate.
    """
    folder, store = Path(data), RegionStore(regions)
    images, vocabulary = read_captioned(folder, store)
    sizes = {name: settings.pop(name) for name in ("size", "word_size") if name in settings}
    torch.manual_seed(seed)
    matcher = Matcher(feature_dim=store.feature_dim, vocab_size=vocabulary.model_size, **sizes).to(device)
    files = {"annotation_file": folder / file_name(SPLIT), "vocabulary_file": folder / "vocabulary.txt"}
    regions_file = Path(store.path).stat()
    training = {
        **made_for(SPLIT, store=store, **files), **matcher.settings, **settings, "epochs": epochs, "limit": limit,
        "seed": seed, "regions": [regions_file.st_size, regions_file.st_mtime_ns],
    }  # fmt: skip
    kept = Kept(Path(out).with_suffix(".part"), training)
    history = train_matcher(matcher, images, store, epochs=epochs, limit=limit, seed=seed, kept=kept, **settings)
    save_matcher(Path(out).with_suffix(".pth"), matcher, files["vocabulary_file"])
    write_pairs(out, targets(matcher, images, store, limit), split=SPLIT, store=store, **files)
    kept.path.unlink(missing_ok=True)
    return history
