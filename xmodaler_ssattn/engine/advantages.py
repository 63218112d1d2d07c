"""How much better than its baseline a drawn caption is. Pure functions of rewards.

Letters: B images, S drawn captions an image.
"""

from __future__ import annotations

from torch import Tensor

BASELINES = ("greedy", "mean")


def over_greedy(drawn: Tensor, greedy: Tensor) -> Tensor:
    """r - r_greedy (Rennie et al., CVPR 2017): (B, S), (B,) -> (B, S)."""
    return drawn - greedy.unsqueeze(1)


def over_others(drawn: Tensor) -> Tensor:
    """r - the mean of the image's other S - 1 captions (Luo, 2020, arXiv:2003.09971): (B, S) -> (B, S).

    The others do not depend on the caption itself, so the gradient stays unbiased. An image's advantages sum to 0.

    Raises:
        ValueError: S is 1: there is no other.
    """
    samples = drawn.shape[1]
    if samples < 2:
        raise ValueError(f"over_others: needs at least two captions an image, got {samples}.")
    return drawn - (drawn.sum(dim=1, keepdim=True) - drawn) / (samples - 1)
