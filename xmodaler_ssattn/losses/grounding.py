"""The grounding loss, section 2.3 of the paper: L_gnd = - sum_i sigma_i log beta_i, times mu.

The pure function first, the registered class below. The host adds up whatever the losses return, so
mu is applied here. The gradient reaches W_b, W_c and W_p alone: p and c are inputs, sigma is a target.
"""

from __future__ import annotations

from torch import Tensor, nn

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import add_ssattn_config
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import LOSSES_REGISTRY, configurable

REDUCTIONS = ("sum", "positives", "words")


def grounding_loss(
    log_beta: Tensor, sigma: Tensor, has_boxes: Tensor, *, reduction: str = "sum", num_words: int | Tensor | None = None
) -> Tensor:
    """- sum_i sigma_i log beta_i over the regions of each row, reduced over the batch.

    Args:
        log_beta: (B, K) float32, log of the distribution beta; padded regions hold any finite value.
        sigma: (B, S, K) 0/1, the indicator; S is 1 when targets are of the image, else one row a caption.
        has_boxes: (B, S) 0/1, rows that come from at least one ground-truth box.
        reduction: ``sum``, the literal formula, averaged over the rows that have boxes; ``positives``,
            each row divided by its number of positive regions first; ``words``, the sum of all rows
            divided by ``num_words``, which is the proportion that the paper's two sums have when the
            cross-entropy is a mean over words. With ``words`` a row an image counts once, not once a caption.
        num_words: predicted words of the batch; only ``words`` reads it.

    Returns:
        () float32. 0, never NaN, for a batch without a single box.
    """
    per_row = -(sigma * log_beta.unsqueeze(1)).sum(-1) * has_boxes
    if reduction == "words":
        if num_words is None:
            raise ValueError("grounding_loss: reduction 'words' needs num_words.")
        return per_row.sum() / max(int(num_words), 1)
    if reduction == "positives":
        per_row = per_row / sigma.sum(-1).clamp(min=1)
    elif reduction != "sum":
        raise ValueError(f"grounding_loss: reduction must be one of {REDUCTIONS}, got {reduction!r}.")
    return per_row.sum() / has_boxes.sum().clamp(min=1)


@LOSSES_REGISTRY.register()
class GroundingLoss(nn.Module):
    """mu L_gnd for the host's trainer: reads log beta and sigma from the batch, returns one named loss.

    The name holds no "acc": the host leaves losses so named out of the sum.
    """

    @configurable
    def __init__(self, *, mu: float, reduction: str = "sum"):
        super().__init__()
        self.mu = mu
        self.reduction = reduction

    @classmethod
    def from_config(cls, cfg) -> dict:
        grounding = cfg.LOSSES.GROUNDING
        if grounding.REDUCTION not in REDUCTIONS:
            raise UserError(f"LOSSES.GROUNDING.REDUCTION: expected one of {REDUCTIONS}, got {grounding.REDUCTION!r}.")
        if not grounding.MU >= 0:
            raise UserError(f"LOSSES.GROUNDING.MU: expected a number >= 0, got {grounding.MU!r}.")
        if not cfg.MODEL.SS_ATTENTION.ENABLED:
            raise UserError(
                "LOSSES.NAMES holds GroundingLoss, but MODEL.SS_ATTENTION.ENABLED is False: without beta there is "
                "nothing to supervise. Take GroundingLoss out of LOSSES.NAMES, or enable the attention."
            )
        return {"mu": grounding.MU, "reduction": grounding.REDUCTION}

    @classmethod
    def add_config(cls, cfg, tmp_cfg=None) -> None:
        add_ssattn_config(cfg)

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's training output; returns ``{"Grounding Loss": mu L_gnd}``."""
        missing = [key for key in (keys.LOG_BETA, keys.SIGMA, keys.HAS_BOXES) if key not in outputs_dict]
        if missing:
            raise KeyError(
                f"GroundingLoss needs {', '.join(missing)} in the model's output. They come from the "
                "meta-architecture GroundedCaptioner and the dataset Flickr30kEntitiesDataset in training."
            )
        loss = grounding_loss(
            outputs_dict[keys.LOG_BETA],
            outputs_dict[keys.SIGMA],
            outputs_dict[keys.HAS_BOXES],
            reduction=self.reduction,
            num_words=outputs_dict.get(keys.NUM_WORDS),
        )
        return {"Grounding Loss": self.mu * loss}
