"""Words and captions sampled from the model's own distribution, for scheduled sampling and self-critical training.

Letters: B images, R captions per image, N = B R, K regions, V vocabulary, T words (MODEL.MAX_SEQ_LEN).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg

if TYPE_CHECKING:
    from xmodaler_ssattn.modeling.captioner import GroundedCaptioner


def sample_words(logits: Tensor) -> Tensor:
    """(n, V) -> (n,) int64: one word per row, sampled from softmax(logits).

    argmax(p / e) with e ~ Exp(1), as in torch.multinomial, which also checks on the device whether p is valid and
    waits for the result.
    """
    p = logits.float().softmax(dim=-1)
    return (p / torch.empty_like(p).exponential_(1)).argmax(dim=-1)


def replace_some(
    words: Tensor, hidden: Tensor, prob: float | Tensor, sample: Callable[[Tensor], Tensor], static: bool = False
) -> Tensor:
    """Scheduled sampling: each of the (n,) words is, with probability ``prob``, replaced by one of the model's own.

    Args:
        hidden: (n, H) states of the previous step.
        sample: (k, H) -> (k,) words.
        static: whether shapes must not depend on random values, as in a captured graph.
    """
    chosen = torch.rand(len(words), device=words.device) < prob
    if static or words.device.type != "cpu":
        # Only the device knows which rows were chosen: sampling for all is cheaper than waiting for it.
        return torch.where(chosen, sample(hidden), words)
    index = chosen.nonzero().squeeze(1)
    return words.index_copy(0, index, sample(hidden[index])) if len(index) else words


class Sampled(NamedTuple):
    """Sampled captions; those of one image are consecutive.

    Attributes:
        sents: (N, T) int64 word ids, 0 from the end on; a caption without 0 was cut at T.
        regions: (N, T) int64, the region of each word (the argmax of INFERENCE.GROUND_BY); 0 without attention.
    """

    sents: Tensor
    regions: Tensor


@torch.no_grad()
def sample_captions(model: GroundedCaptioner, batch: dict, samples: int, *, greedy_first: bool = False) -> Sampled:
    """Sample captions word by word; all captions of an image share its features, its beta and one encoding.

    UNK is never sampled when DECODE_STRATEGY.SUPPRESS_UNK is True: the other probabilities are renormalised.

    Args:
        model: in evaluation mode (without dropout) it samples from exactly the distribution that decoding uses.
        batch: from ``preprocess_batch``, encoded or not.
        samples: S, the number of captions to sample per image.
        greedy_first: add a caption of the most probable words as the first one of each image.

    Returns:
        R = S captions per image, or S + 1 with ``greedy_first``.
    """
    strategy, rows = model.greedy_decoder, samples + int(greedy_first)

    def choose(logp: Tensor) -> Tensor:
        word = sample_words(logp)
        if greedy_first:
            word[::rows] = logp[::rows].argmax(dim=1)
        return word

    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.amp):
        inputs = model.encode(batch)
        count = inputs[kfg.ATT_FEATS].shape[0] * rows
        decoded = strategy.say(model, model.with_rows(inputs, count), count, choose)
    padded = torch.zeros_like(decoded.sents)
    if not model.decoder.attends:
        return Sampled(decoded.sents, padded)
    if strategy.ground_by == "beta":
        beta = inputs[keys.BETA].repeat_interleave(rows, dim=0)
        regions = beta.argmax(dim=1, keepdim=True).expand(-1, decoded.gamma.shape[1])
    else:
        weights = getattr(decoded, strategy.ground_by)
        regions = weights[:, :, : inputs[kfg.ATT_FEATS].shape[1]].argmax(dim=2)
    padded[:, : regions.shape[1]] = regions
    return Sampled(decoded.sents, padded)
