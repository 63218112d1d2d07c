"""Spatial-Semantic Attention, section 2.2 of the paper. Only torch; read it beside the paper.

    a_it    = W_a f(W_h h_t + W_v v_i)      alpha_t = softmax(a_t)      f = ReLU
    b_i     = W_b ReLU([W_c c_i, W_p p_i])  beta    = softmax(b)
    gamma_t = alpha_t + lambda beta         v-hat_t = sum_i gamma_it v_i

Letters: B images, R rows (captions or beams) per image, N = B R, K regions, C classes, D raw feature
size, E embedded feature size, A attention size, H hidden size.

Features have one row per image, shared by R rows. If features differ between captions (in training, when each
has its own dropout), pass N feature rows; R is then 1. Both softmaxes are over the valid regions only: padding
gets weight 0. beta depends neither on time nor on the caption.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn.precision import at_least_float32

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}

SPATIAL_SIZE = 5  # p_i = [x1, x2, y1, y2, s]
SLOTS = ("W_c", "W_p")  # the order in ReLU([W_c c_i, W_p p_i])

# X-modaler adds this to the scores of padded regions (its EXT_ATT_MASKS). exp(-1e4) is 0 in float32.
MASKED_SCORE = -1e4


def extended_mask(mask: Tensor) -> Tensor:
    """1 for a region, 0 for padding -> 0 and ``MASKED_SCORE``, to be added to scores. Any shape."""
    return (1.0 - mask) * MASKED_SCORE


def fuse(alpha: Tensor, beta: Tensor, lambda_: float) -> Tensor:
    """gamma_t = alpha_t + lambda beta, a plain sum: gamma sums to 1 + lambda.

    Args:
        alpha: (B, R, K).
        beta: (B, K), shared by an image's rows, or (B, R, K).

    >>> fuse(torch.tensor([[[0.25, 0.75]]]), torch.tensor([[0.5, 0.5]]), 0.5).tolist()
    [[[0.5, 1.0]]]
    """
    return alpha + lambda_ * (beta if beta.dim() == 3 else beta.unsqueeze(1))


def pool(gamma: Tensor, v: Tensor) -> Tensor:
    """v-hat_t = sum_i gamma_it v_i: (B, R, K), (B, K, E) -> (B, R, E)."""
    return torch.bmm(gamma, v)


class TopDownAttention(nn.Module):
    """alpha: the basic attention of the Up-Down decoder.

    W_v v_i does not depend on time, so it is computed once outside (``p_att_feats`` of the decoder, as in
    X-modaler). Parameters have the names of X-modaler's BaseAttention, so that weights of the stock decoder fit.

    Args:
        hidden_size: H.
        att_embed_size: A, the paper's 512.
        att_embed_dropout: on f(W_h h + W_v v).
        activation: ``relu`` (the paper's equation) or ``tanh`` (X-modaler's).
    """

    def __init__(self, *, hidden_size: int, att_embed_size: int, att_embed_dropout: float, activation: str):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"TopDownAttention: activation must be one of {tuple(ACTIVATIONS)}, got {activation!r}.")
        self.w_h = nn.Linear(hidden_size, att_embed_size, bias=False)
        self.w_alpha = nn.Linear(att_embed_size, 1, bias=False)
        self.dropout = nn.Dropout(att_embed_dropout)
        self.activation = activation

    def scores(self, h: Tensor, p_att_feats: Tensor, ext_mask: Tensor | None) -> Tensor:
        """a_t, whose softmax over the regions is alpha_t.

        Args:
            h: (N, H) hidden state of the attention LSTM.
            p_att_feats: (B, K, A) W_v v_i.
            ext_mask: (B, K) from ``extended_mask``, or None when nothing is padded.

        Returns:
            (B, R, K) with R = N / B, float32 or wider; padding is at ``MASKED_SCORE`` and below.
        """
        images, regions, size = p_att_feats.shape
        query = self.w_h(h).view(images, -1, 1, size)
        joint = ACTIVATIONS[self.activation](query + p_att_feats.view(images, 1, regions, size))
        scores = at_least_float32(self.w_alpha(self.dropout(joint)).squeeze(-1))
        if ext_mask is not None:
            scores = scores + ext_mask.unsqueeze(1)
        return scores

    def forward(self, h: Tensor, p_att_feats: Tensor, ext_mask: Tensor | None) -> Tensor:
        """The distribution alpha_t over the regions: ``scores`` after the softmax, every row sums to 1."""
        return F.softmax(self.scores(h, p_att_feats, ext_mask), dim=-1)

    def extra_repr(self) -> str:
        return f"activation={self.activation}"


class SpatialSemanticAttention(nn.Module):
    """beta: the importance of a region, from its position and its class.

    b_i = W_b ReLU([W_c c_i, W_p p_i]); beta = softmax(b). W_c: C -> dim, W_p: 5 -> dim, W_b: 2 dim -> 1;
    the paper's dim is 1 ("both transformed to a 1-dimensional vector, i.e. a value"). Either slot may
    read the raw visual features instead, as in Table 2, which replaces an input and keeps the network.

    Args:
        spatial_size: width of the spatial slot's input, 5 for p, D for V.
        semantic_size: width of the semantic slot's input, C for c, D for V.
        dim: number of outputs of W_c and of W_p.
        bias: whether W_c and W_p have a bias. W_b has none, since it would cancel in the softmax.
        positive_bias_init: added to the two initial biases, so that the ReLUs are alive. Unused without ``bias``.
        seed: seed of the generator for these weights. The global generator is not used, so that models with and
            without this module have the same other weights.
    """

    def __init__(
        self,
        *,
        spatial_size: int,
        semantic_size: int,
        dim: int = 1,
        bias: bool = True,
        positive_bias_init: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        if dim < 1:
            raise ValueError(f"SpatialSemanticAttention: dim must be at least 1, got {dim!r}.")
        # skip_init does not use the global generator; reset_parameters sets the weights.
        self.w_c = nn.utils.skip_init(nn.Linear, semantic_size, dim, bias=bias)
        self.w_p = nn.utils.skip_init(nn.Linear, spatial_size, dim, bias=bias)
        self.w_b = nn.utils.skip_init(nn.Linear, 2 * dim, 1, bias=False)
        self.reset_parameters(seed, positive_bias_init)

    @torch.no_grad()
    def reset_parameters(self, seed: int, positive_bias_init: float = 1.0) -> None:
        """Sample all weights again, uniform in +-1/sqrt(inputs), as torch does for a linear layer."""
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.w_c, self.w_p, self.w_b):
            bound = layer.in_features**-0.5
            for parameter in layer.parameters():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        for layer in (self.w_c, self.w_p):
            if layer.bias is not None:
                layer.bias.add_(positive_bias_init)

    def hidden(self, spatial: Tensor, semantic: Tensor) -> Tensor:
        """ReLU([W_c c_i, W_p p_i]): (B, K, 2 dim), the class slot first."""
        return torch.relu(torch.cat([self.w_c(semantic), self.w_p(spatial)], dim=-1))

    def forward(self, spatial: Tensor, semantic: Tensor, ext_mask: Tensor | None = None) -> Tensor:
        """log beta over the valid regions, in float32 or wider.

        The loss needs the logarithm, and a log-softmax keeps small probabilities exact; ``.exp()`` gives beta.

        Args:
            spatial: (B, K, 5) p, or (B, K, D) V.
            semantic: (B, K, C) c, or (B, K, D) V.
            ext_mask: (B, K) from ``extended_mask``, or None when nothing is padded.

        Returns:
            (B, K). An image with one region gets log beta = 0, that is beta = 1.
        """
        scores = at_least_float32(self.w_b(self.hidden(spatial, semantic)).squeeze(-1))
        if ext_mask is not None:
            scores = scores + ext_mask
        return F.log_softmax(scores, dim=-1)
