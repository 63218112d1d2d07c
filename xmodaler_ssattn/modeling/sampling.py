"""Captions drawn from the model's own distribution, for self-critical training. No gradient.

Letters: B images, R captions an image, N = B R, K regions, V vocabulary, T words (MODEL.MAX_SEQ_LEN).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.words import draw_words

if TYPE_CHECKING:
    from xmodaler_ssattn.modeling.captioner import GroundedCaptioner

_WEIGHTS = {"gamma": keys.GAMMA, "alpha": keys.ALPHA}


class Drawn(NamedTuple):
    """Drawn captions, those of an image one after the other.

    Attributes:
        sents: (N, T) int64 word ids, 0 from the end on; a caption without 0 was cut at T.
        regions: (N, T) int64, the region that each word rests on (the argmax of INFERENCE.GROUND_BY).
    """

    sents: Tensor
    regions: Tensor


@torch.no_grad()
def draw_captions(model: GroundedCaptioner, batch: dict, samples: int, *, greedy_first: bool = False) -> Drawn:
    """Draw captions word by word; all captions of an image share its features, its beta and one encoding.

    UNK is never drawn when DECODE_STRATEGY.SUPPRESS_UNK is set: the others' probabilities grow in proportion.

    Args:
        model: its mode decides about dropout; in evaluation mode the captions come from the very distribution that
            decoding uses.
        batch: from ``preprocess_batch``, encoded or not.
        samples: S, captions to draw for each image.
        greedy_first: before them, as each image's first caption, the most probable word at every step. All go through
            the model together.

    Returns:
        R = S, or S + 1 with ``greedy_first``, captions an image.
    """
    strategy, rows = model.greedy_decoder, samples + int(greedy_first)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.amp):
        inputs = model.encode(batch)
        images = inputs[kfg.ATT_FEATS].shape[0]
        inputs = model.with_rows(inputs, images * rows)
        word = inputs[kfg.ATT_FEATS].new_full((images * rows,), strategy.bos_token_id, dtype=torch.long)
        unfinished = torch.ones_like(word, dtype=torch.bool)
        sents = torch.full((len(word), strategy.max_seq_len), strategy.eos_token_id, device=word.device)
        regions = torch.zeros_like(sents)
        for t in range(strategy.max_seq_len):
            model.step(inputs, word, t)
            logp = strategy._log_probs(inputs, model)
            word = draw_words(logp)
            if greedy_first:
                word[::rows] = logp[::rows].argmax(dim=1)
            word = torch.where(unfinished, word, strategy.eos_token_id)
            sents[:, t], regions[:, t] = word, _regions(inputs, strategy.ground_by, images * rows)
            unfinished &= word != strategy.eos_token_id
            if not unfinished.any():
                break
    return Drawn(sents, regions)


def _regions(inputs: dict, ground_by: str, rows: int) -> Tensor:
    """(N,) the region with the largest weight; of equal ones the lowest."""
    if ground_by == "beta":
        beta = inputs[keys.BETA]
        return beta.argmax(dim=1).repeat_interleave(rows // len(beta))
    return inputs[_WEIGHTS[ground_by]].argmax(dim=1)
