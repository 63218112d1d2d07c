"""From word ids and attention weights to GroundedCaptions.

Letters: B images, S captions an image, K regions (padded), T words.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.caption import Attention, GroundedCaption, ground_words

GROUND_BY = ("gamma", "alpha", "beta")


def captions_from_decoding(
    sents: Tensor,
    logp: Tensor | None,
    alpha: Tensor,
    gamma: Tensor,
    beta: Tensor | None,
    batch: dict,
    *,
    vocab: list[str],
    ground_by: str = "gamma",
    save_attention: bool = False,
) -> list[GroundedCaption]:
    """One GroundedCaption an image.

    Args:
        sents: (B, T) word ids; the first 0 ends a caption.
        logp: (B, T) log-probabilities, or None.
        alpha, gamma: (B, t, K) with t at least the longest caption.
        beta: (B, K), or None for the Up-Down baseline.
        batch: holds BOXES_PX, IMAGE_SIZE and NUM_REGIONS.
        vocab: word of each id.
        ground_by: the weights whose argmax is a word's region.
    """
    weights_of = {"gamma": gamma, "alpha": alpha, "beta": beta}
    if weights_of[ground_by] is None:
        raise ValueError(f"captions_from_decoding: ground_by is {ground_by!r}, but the model has no beta.")
    ids = sents.cpu().numpy()
    scores = logp.detach().double().sum(-1).tolist() if logp is not None else [None] * len(ids)
    alpha, gamma = (weights.detach().float().cpu().numpy() for weights in (alpha, gamma))
    beta = beta.detach().float().cpu().numpy() if beta is not None else None
    boxes = batch[keys.BOXES_PX].cpu().numpy()
    sizes = batch[keys.IMAGE_SIZE].cpu().tolist()
    captions = []
    for b, regions in enumerate(batch[keys.NUM_REGIONS]):
        length = caption_length(ids[b])
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
        captions.append(
            GroundedCaption(
                ground_words([vocab[i] for i in ids[b, :length]], chooser, boxes[b], regions),
                boxes_px=boxes[b, :regions].copy(),
                image_size=(sizes[b][0], sizes[b][1]),
                attention=attention,
                log_prob=scores[b],
            )
        )
    return captions


def caption_length(ids: np.ndarray) -> int:
    """Words before the first 0 (the end) or -1 (padding)."""
    stop = np.flatnonzero(ids <= 0)
    return int(stop[0]) if len(stop) else len(ids)
