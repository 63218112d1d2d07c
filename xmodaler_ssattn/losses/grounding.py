"""The grounding loss, section 2.3 of the paper: L_gnd = - sum_i sigma_i log beta_i, times mu.

First the pure function, then the registered class. The host sums the returned losses, so mu is applied here.
The gradient reaches only W_b, W_c and W_p: p and c are inputs, sigma is a target.

The balance of the two losses: the paper's L = L_ce + mu L_gnd belongs to one caption and its image, and its L_ce is a
sum over the caption's words. The host's cross-entropy is a mean over the M predicted words of a batch, so the sum of
the formula over all captions, divided by M, is

    mean cross-entropy + mu (sum over captions of L_gnd) / M

Letters: B images, S captions per image, K regions, M predicted words of the batch.
"""

from __future__ import annotations

from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import LOSSES_REGISTRY, configurable
from xmodaler_ssattn.losses.base import Loss, check_weights
from xmodaler_ssattn.partners import require_grounded_captioner

REDUCTIONS = {
    "formula": "sum over captions of L_gnd, divided by the predicted words: the paper's balance of the two losses",
    "image_mean": "mean of L_gnd over the images that have a box: about 13 times the weight",
    "positive_mean": "as image_mean, after each image's sigma is divided by its sum",
}


def grounding_loss(
    log_beta: Tensor,
    sigma: Tensor,
    has_boxes: Tensor,
    *,
    reduction: str = "formula",
    captions_per_image: int = 1,
    num_words: int | None = None,
) -> Tensor:
    """- sum_i sigma_i log beta_i over the regions of each row, reduced over the batch.

    Args:
        log_beta: (B, K) float32, log of the distribution beta; padded regions have any finite value.
        sigma: (B, R, K) float32, the indicator or a graded target >= 0; R is 1 for targets per image, S for targets
            per caption.
        has_boxes: (B, R) 0/1, whether the row is from at least one ground-truth box.
        reduction: a key of ``REDUCTIONS``.
        captions_per_image: S. With ``formula``, an image's L_gnd is added once per caption.
        num_words: M, used only by ``formula``.

    Returns:
        () float32. 0, never NaN, for a batch without boxes.

    >>> import torch
    >>> log_beta = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> sigma = torch.tensor([[[1.0, 0.0, 0.0]]])  # L_gnd = log 2; two captions with 4 words in all
    >>> round(float(grounding_loss(log_beta, sigma, torch.ones(1, 1), captions_per_image=2, num_words=4)), 4)
    0.3466
    """
    per_row = -(sigma * log_beta.unsqueeze(1)).sum(-1) * has_boxes
    if reduction == "formula":
        if num_words is None:
            raise ValueError("grounding_loss: reduction 'formula' needs num_words.")
        captions_per_row = captions_per_image / sigma.shape[1]
        return per_row.sum() * captions_per_row / max(num_words, 1)
    if reduction == "positive_mean":
        total = sigma.sum(-1)
        per_row = per_row / (total + (total == 0))
    elif reduction != "image_mean":
        raise ValueError(f"grounding_loss: reduction must be one of {tuple(REDUCTIONS)}, got {reduction!r}.")
    return per_row.sum() / has_boxes.sum().clamp(min=1)


@LOSSES_REGISTRY.register()
class GroundingLoss(Loss):
    """mu L_gnd for the host's trainer.

    Args:
        mu: weight of the loss, at least 0.
        reduction: a key of ``REDUCTIONS``.
    """

    @configurable
    def __init__(self, *, mu: float, reduction: str = "formula"):
        super().__init__()
        if reduction not in REDUCTIONS:
            meanings = "; ".join(f"{name!r}, {meaning}" for name, meaning in REDUCTIONS.items())
            raise UserError(
                f"LOSSES.GROUNDING.REDUCTION: expected one of {tuple(REDUCTIONS)}, got {reduction!r}. {meanings}."
            )
        check_weights("LOSSES.GROUNDING", MU=mu)
        self.mu, self.reduction = mu, reduction

    @classmethod
    def from_config(cls, cfg) -> dict:
        cfg = completed(cfg)
        require_grounded_captioner(cfg, "GroundingLoss", "which provides neither beta nor sigma")
        grounding = cfg.LOSSES.GROUNDING
        if not cfg.MODEL.SS_ATTENTION.ENABLED:
            raise UserError(
                "LOSSES.NAMES contains GroundingLoss, but MODEL.SS_ATTENTION.ENABLED is False: without beta there is "
                "nothing to supervise. Remove GroundingLoss from LOSSES.NAMES, or enable the attention."
            )
        return {"mu": grounding.MU, "reduction": grounding.REDUCTION}

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's training output; returns ``{"Grounding Loss": mu L_gnd}``."""
        log_beta, sigma, has_boxes, captions, words = self.read(
            outputs_dict, keys.LOG_BETA, keys.SIGMA, keys.HAS_BOXES, keys.CAPTIONS_PER_IMAGE, keys.NUM_WORDS
        )
        loss = grounding_loss(
            log_beta, sigma, has_boxes, reduction=self.reduction, captions_per_image=captions, num_words=words
        )
        return {"Grounding Loss": self.mu * loss}

    def normaliser(self, outputs_dict: dict) -> Tensor | int:
        """What the sum over the batch is divided by: words, or rows that have a box."""
        return outputs_dict[keys.NUM_WORDS] if self.reduction == "formula" else outputs_dict[keys.HAS_BOXES].sum()
