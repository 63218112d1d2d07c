"""The loss of self-critical training (Rennie et al., CVPR 2017, eq. 6): REINFORCE with a baseline.

    L = - (1/M) sum over captions of (r - b) sum_t log p(w_t | w_1 .. w_{t-1})        M: words of the batch

First the pure function, then the registered class. The gradient of a caption's words is weighted by the caption's
advantage over the baseline; the M words contain neither padding nor words after the end.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import LOSSES_REGISTRY, kfg
from xmodaler_ssattn.losses.base import Loss
from xmodaler_ssattn.partners import require_grounded_captioner


def reward_loss(logits: Tensor, words: Tensor, advantages: Tensor, suppressed: int | None = None) -> Tensor:
    """The mean over the words of - advantage log p(word).

    Args:
        logits: (M, V) float32, of the sampled words, including ends.
        words: (M,) int64.
        advantages: (M,) float32, r - b of each word's caption; no gradient flows into it.
        suppressed: a word excluded from sampling; p is the probability among the others, as in sampling.

    Returns:
        () float32; its gradient is that of the expected negative reward, but its value has little meaning.

    >>> import torch
    >>> logits = torch.tensor([[0.0, 0.0]])  # two words of probability 1/2: - 2 log(1/2) = 2 log 2
    >>> round(float(reward_loss(logits, torch.tensor([1]), torch.tensor([2.0]))), 4)
    1.3863
    """
    if suppressed is not None:
        only = logits.new_zeros(logits.shape[1])
        only[suppressed : suppressed + 1] = float("-inf")  # a slice is filled on the device, one number is copied there
        logits = logits + only
    surprise = F.cross_entropy(logits, words, reduction="none")
    return (advantages.detach() * surprise).sum() / max(len(words), 1)


@LOSSES_REGISTRY.register()
class SelfCriticalLoss(Loss):
    """``reward_loss`` for the host's trainer; ``SelfCriticalTrainer`` adds its inputs to the batch."""

    source = (
        "Captions and rewards are from ENGINE.NAME SelfCriticalTrainer, the rest from MODEL.META_ARCHITECTURE "
        "GroundedCaptioner."
    )

    @classmethod
    def from_config(cls, cfg) -> dict:
        require_grounded_captioner(cfg, "SelfCriticalLoss", "which does not return the caption of each word")
        return {}

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's output on sampled captions; returns ``{"Self-critical Loss": L}``."""
        logits, words, captions, rewards = self.read(
            outputs_dict, kfg.G_LOGITS, kfg.G_TARGET_IDS, keys.CAPTION_OF_WORD, kfg.REWARDS
        )
        suppressed = outputs_dict.get(keys.SUPPRESSED_WORD)
        return {"Self-critical Loss": reward_loss(logits, words, rewards[captions], suppressed)}
