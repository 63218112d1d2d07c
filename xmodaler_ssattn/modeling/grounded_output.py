"""Make captions from word ids and attention weights.

Letters: B images, K regions (padded), T words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.caption import Attention, Caption, GroundedCaption, GroundedWord, ground_words
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.region_rules import CLASS_RULES, PROTOCOL, UNION, RegionRule, enclosing_box

GROUND_BY = ("gamma", "alpha", "beta")


class Decoded(NamedTuple):
    """Captions, one per row, and the attention of each word.

    Attributes:
        sents: (B, T) int64 word ids; the first 0 ends a caption.
        logp: (B, T) float32, log-probability of each word, including the final 0; 0 after it. None for forced captions.
        alpha, gamma: (B, t, K), the weights at the step that predicted the word; t is at least the longest length.
            (B, t, 0) from a decoder without attention.
        branches: (B, t, n) int64, the regions of the decoder's branches, if it has some.
    """

    sents: Tensor
    logp: Tensor | None
    alpha: Tensor
    gamma: Tensor
    branches: Tensor | None = None


def of_regions(outputs: dict) -> list[Tensor]:
    """alpha and gamma of a step, (N, K) float32, and the regions of its branches, (N, n), if the decoder has some."""
    branches = outputs.get(keys.BRANCH_REGIONS)
    attention = [outputs[keys.ALPHA].float(), outputs[keys.GAMMA].float()]
    return attention if branches is None else [*attention, branches]


def captions_from_decoding(
    decoded: Decoded,
    batch: dict,
    *,
    vocab: list[str],
    ground_by: str = "gamma",
    rule: RegionRule = PROTOCOL,
    save_attention: bool = False,
) -> list[Caption]:
    """One GroundedCaption per image; a Caption, if the decoder has no attention.

    Args:
        batch: encoded; contains BOXES_PX, IMAGE_SIZE, NUM_REGIONS and, except for the Up-Down baseline, BETA (B, K);
            with a rule of classes also CLASS_PROBS, else a ``UserError``.
        vocab: the word of each id.
        ground_by: the weights that choose a word's region, one of ``GROUND_BY``.
        rule: how they choose it.
        save_attention: store the weights in the captions.
    """
    if ground_by == "beta" and batch.get(keys.BETA) is None:
        raise ValueError("captions_from_decoding: ground_by is 'beta', but the model has no beta.")
    ids, logp = decoded.sents.cpu().numpy(), decoded.logp
    log_probs = logp.detach().double().sum(-1).tolist() if logp is not None else [None] * len(ids)
    stops = [np.flatnonzero(row <= 0) for row in ids]  # the end, or -1 on padding
    words = [[vocab[i] for i in row[: stop[0] if len(stop) else None]] for row, stop in zip(ids, stops, strict=True)]
    sizes = batch[keys.IMAGE_SIZE].cpu().tolist()
    if decoded.gamma.shape[-1] == 0:
        return [
            Caption(" ".join(texts), image_size=(width, height), log_prob=log_prob)
            for texts, (width, height), log_prob in zip(words, sizes, log_probs, strict=True)
        ]
    alpha, gamma = _array(decoded.alpha), _array(decoded.gamma)
    branches = decoded.branches.cpu().numpy() if decoded.branches is not None and rule.name == UNION else None
    beta: Any = None if batch.get(keys.BETA) is None else _array(batch[keys.BETA])
    boxes = batch[keys.BOXES_PX].cpu().numpy()
    if rule.name in CLASS_RULES and keys.CLASS_PROBS not in batch:
        raise UserError(
            f"INFERENCE.REGION_RULE {rule.name} needs class probabilities, but the batch of image {batch[kfg.IDS][0]} "
            "has none. A data set of another project must add CLASS_PROBS to its samples, see xmodaler_ssattn/keys.py."
        )
    probs = _array(batch[keys.CLASS_PROBS]) if rule.name in CLASS_RULES else None
    captions: list[Caption] = []
    for b, regions in enumerate(batch[keys.NUM_REGIONS]):
        texts, length = words[b], len(words[b])
        if ground_by == "beta":
            chooser = np.broadcast_to(beta[b], (length, beta.shape[1]))
        else:
            chooser = (gamma if ground_by == "gamma" else alpha)[b]
        attention = None
        if save_attention:
            attention = Attention(
                alpha[b, :length, :regions].copy(),
                beta[b, :regions].copy() if beta is not None else None,
                gamma[b, :length, :regions].copy(),
            )
        found = None if probs is None else probs[b, :regions]
        scores = rule.scores(texts, chooser[:length, :regions], boxes[b, :regions], found)
        grounded = ground_words(texts, chooser, boxes[b], regions, scores)
        if branches is not None:
            grounded = enclosing_words(grounded, chooser, branches[b, :length], boxes[b], rule.overlap)
        own = {"boxes_px": boxes[b, :regions].copy(), "image_size": tuple(sizes[b]), "log_prob": log_probs[b]}
        captions.append(GroundedCaption(grounded, attention=attention, **own))
    return captions


def enclosing_words(
    words: Sequence[GroundedWord], weights: np.ndarray, branches: np.ndarray, boxes_px: np.ndarray, overlap: float
) -> tuple[GroundedWord, ...]:
    """The words with the region of their first branch, and the box around the branches that agree with it.

    Args:
        weights: (>= T, K). branches: (T, n). boxes_px: (K, 4). overlap: see ``region_rules.enclosing_box``.
    """
    found = []
    for step, (word, regions) in enumerate(zip(words, branches, strict=True)):
        box, first = enclosing_box(boxes_px[regions], overlap), int(regions[0])
        found.append(word._replace(region=first, box_px=box, weight=float(weights[step, first])))
    return tuple(found)


def _array(weights: Tensor) -> np.ndarray:
    return weights.detach().float().cpu().numpy()
