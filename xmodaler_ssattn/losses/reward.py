"""The loss of self-critical training (Rennie et al., CVPR 2017, eq. 6): REINFORCE with a baseline.

    L = - (1/M) sum over captions of (r - b) sum_t log p(w_t | w_1 .. w_{t-1})        M: words of the batch

The pure function first, the registered class below. The gradient of a caption's words is weighted by how much better
than the baseline it was; no word after its end, and no padding, is among the M words.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import add_ssattn_config
from xmodaler_ssattn.host import LOSSES_REGISTRY, configurable, kfg
from xmodaler_ssattn.partners import require_grounded_captioner


def reward_loss(logits: Tensor, words: Tensor, advantages: Tensor, suppressed: int | None = None) -> Tensor:
    """The mean over the words of - advantage log p(word).

    Args:
        logits: (M, V) float32, of the very words that were drawn, ends included.
        words: (M,) int64.
        advantages: (M,) float32, r - b of each word's caption; no gradient flows into it.
        suppressed: a word that could not be drawn; p is the probability among the others, as it was in drawing.

    Returns:
        () float32; its gradient is that of the expected reward, its value says little.
    """
    if suppressed is not None:
        only = logits.new_zeros(logits.shape[1])
        only[suppressed] = float("-inf")
        logits = logits + only
    surprise = F.cross_entropy(logits, words, reduction="none")
    return (advantages.detach() * surprise).sum() / max(len(words), 1)


@LOSSES_REGISTRY.register()
class SelfCriticalLoss(nn.Module):
    """``reward_loss`` for the host's trainer; ``SelfCriticalTrainer`` puts into the batch what it reads."""

    @configurable
    def __init__(self):
        super().__init__()

    @classmethod
    def from_config(cls, cfg) -> dict:
        require_grounded_captioner(cfg, "SelfCriticalLoss", "which does not say to which caption a word belongs")
        return {}

    @classmethod
    def add_config(cls, cfg, tmp_cfg=None) -> None:
        add_ssattn_config(cfg)

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's output on drawn captions; returns ``{"Self-critical Loss": L}``."""
        wanted = (kfg.G_LOGITS, kfg.G_TARGET_IDS, keys.CAPTION_OF_WORD, kfg.REWARDS)
        missing = [key for key in wanted if key not in outputs_dict]
        if missing:
            raise KeyError(
                f"SelfCriticalLoss needs {', '.join(missing)} in the model's output. Captions and rewards come from "
                "ENGINE.NAME SelfCriticalTrainer, the rest from MODEL.META_ARCHITECTURE GroundedCaptioner."
            )
        advantages = outputs_dict[kfg.REWARDS][outputs_dict[keys.CAPTION_OF_WORD]]
        loss = reward_loss(
            outputs_dict[kfg.G_LOGITS],
            outputs_dict[kfg.G_TARGET_IDS],
            advantages,
            outputs_dict.get(keys.SUPPRESSED_WORD),
        )
        return {"Self-critical Loss": loss}
