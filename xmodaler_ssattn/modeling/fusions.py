"""Fusions beyond the paper, all off by default. Only torch.

    gamma_t = softmax(a_t + kappa log beta)                           MODEL.SS_ATTENTION.FUSION: log
    beta_t  = softmax(log beta + (W_s h_t)^T (W_e s_i))               MODEL.SS_ATTENTION.STATE_DIM
    gamma_t = (alpha_t + lambda beta) / (1 + lambda)                  MODEL.SS_ATTENTION.RENORMALIZE, in the decoder

Letters: B images, R rows (captions or beams) per image, N = B R, K regions, C classes, D raw feature size, H hidden
size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn.precision import at_least_float32

FUSIONS = ("sum", "log")


def fuse_log(scores: Tensor, log_beta: Tensor, kappa: Tensor) -> Tensor:
    """gamma_t = softmax(a_t + kappa log beta): alpha_t times beta^kappa, normalised. Sums to 1.

    The sum adds the same beta to every word's weights, so that a region with a large beta keeps its weight for
    every word; with the product, beta only decides between regions with a large alpha.

    Args:
        scores: (B, R, K) a_t, masked.
        log_beta: (B, K), shared by an image's rows, or (B, R, K).
        kappa: (), the exponent of beta; 0 gives alpha_t.

    >>> scores, log_beta = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[0.75, 0.25]]).log()
    >>> [round(weight, 4) for weight in fuse_log(scores, log_beta, torch.tensor(1.0))[0, 0].tolist()]
    [0.75, 0.25]
    """
    prior = kappa * (log_beta if log_beta.dim() == 3 else log_beta.unsqueeze(1))
    return F.softmax(scores + prior, dim=-1)


class StateCondition(nn.Module):
    """beta_t: the state of the sentence shifts beta between the classes.

    beta_t = softmax(log beta + (W_s h_t)^T (W_e s_i)), where s_i is the input of the semantic slot. W_s is 0 at
    first, so that beta_t = beta; the grounding loss is still applied to beta, which does not depend on the word.

    Args:
        hidden_size: H.
        semantic_size: width of the semantic slot's input.
        dim: the number of rows of W_s and W_e.
        seed: seed of the generator for W_e; the global generator is not used.
    """

    def __init__(self, *, hidden_size: int, semantic_size: int, dim: int, seed: int = 0):
        super().__init__()
        self.w_s = nn.utils.skip_init(nn.Linear, hidden_size, dim, bias=False)
        self.w_e = nn.utils.skip_init(nn.Linear, semantic_size, dim, bias=False)
        # Other numbers than for W_c, whose generator has ``seed`` itself.
        generator = torch.Generator().manual_seed(seed + 1)
        bound = semantic_size**-0.5
        with torch.no_grad():
            self.w_s.weight.zero_()
            self.w_e.weight.copy_(torch.empty(dim, semantic_size).uniform_(-bound, bound, generator=generator))

    def keys(self, semantic: Tensor) -> Tensor:
        """W_e s_i of every region: (B, K, C or D) -> (B, K, dim), once per image."""
        return self.w_e(semantic)

    def forward(self, h: Tensor, keys: Tensor, log_beta: Tensor) -> Tensor:
        """log beta_t: h (N, H), keys (B, K, dim), log_beta (B, K) -> (B, R, K), R = N / B, float32 or wider."""
        query = self.w_s(h).view(len(keys), -1, keys.shape[2])
        shift = at_least_float32(torch.bmm(query, keys.to(query.dtype).transpose(1, 2)))
        return F.log_softmax(log_beta.unsqueeze(1) + shift, dim=-1)
