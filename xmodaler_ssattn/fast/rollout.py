"""The two LSTMs with the attention between them over whole captions, in few large products. Only torch.

Equals the step-by-step loop of the decoder (``SSAttentionDecoder.forward``), arranged so that a training step repeats
no work:

* everything that does not depend on the recurrence is one input tensor ``x1``: word, mean feature and biases of
  the attention LSTM, for all words at once;
* captions are sorted by length, longest first, and step t processes the ``sizes[t]`` captions that have a word
  at this step; everything is packed, step after step, as in torch's PackedSequence;
* the backward pass stores only gates and states, recomputes the attention's inner layer (36 x 512 numbers per
  word), and computes the gradient of every recurrent matrix in one product over all words instead of one
  product per word.

Letters: N captions, K regions, A attention size, E embedded feature size, H hidden size, T steps, M words
in all (the sum of ``sizes``).

    z1_t = x1_t + W1a h2_{t-1} + W1b h1_{t-1}                    -> h1_t, c1_t
    alpha_t = softmax(w_alpha f(W_h h1_t + P) + prior),  gamma_t = alpha_t + lambda beta,  v-hat_t = gamma_t V
    z2_t = W2a v-hat_t + W2b h1_t + W2c h2_{t-1} + b2            -> h2_t, c2_t

The paper's fusion has lambda beta and no prior. The product of the two distributions has the prior
kappa log beta and no lambda beta; alpha_t above is then gamma_t itself.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

# The nonlinearities of ``_inner``; any other needs the loop.
ACTIVATIONS = ("relu", "tanh")


class Weights(NamedTuple):
    """The matrices of the recurrence, as columns of the LSTMs' weights.

    w1a (4H, H) on h2, w1b (4H, H) on h1, w_h (A, H), w_alpha (A,), w2a (4H, E) on v-hat, w2b (4H, H)
    on h1, w2c (4H, H) on h2, b2 (4H,).
    """

    w1a: Tensor
    w1b: Tensor
    w_h: Tensor
    w_alpha: Tensor
    w2a: Tensor
    w2b: Tensor
    w2c: Tensor
    b2: Tensor


class Trace(NamedTuple):
    """The values of a run, packed over M words: ``h2`` and ``scores`` are its results, the others are for the backward
    pass, as is ``h2``."""

    gates1: Tensor  # (M, 4H) after their nonlinearities, i f g o
    gates2: Tensor
    c1: Tensor  # (M, H)
    c2: Tensor
    h1: Tensor
    h2: Tensor
    alpha: Tensor  # (M, K)
    v_hat: Tensor  # (M, E)
    scores: Tensor | None  # (M, K) a_t, masked, without the prior


def step_slices(sizes: list[int]) -> list[slice]:
    """The slice of each step in the packed order."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


@torch.no_grad()
def run(
    x1_of_step: Callable[[int, Tensor], Tensor],
    sizes: list[int],
    p: Tensor,
    v: Tensor,
    lambda_beta: Tensor | None,
    prior: Tensor | None,
    ext_mask: Tensor | None,
    weights: Weights,
    activation: str,
) -> Trace:
    """Run the recurrence.

    Args:
        x1_of_step: (t, h2 of the step before (sizes[t], H)) -> x1 (sizes[t], 4H). Scheduled sampling
            samples its words here.
        sizes: captions that have a word at each step, not increasing, the last > 0.
        p: (N, K, A) W_v v_i. v: (N, K, E). Rows ordered by caption length, longest first.
        lambda_beta: (N, K) lambda beta, or None for the baseline.
        prior: (N, K) added to every step's scores, or None.
        ext_mask: (N, K), 0 or -1e4, or None.
        weights: in the dtype of the products (float32 or bfloat16); states are float32
            (float64 when the weights are).
        activation: ``relu`` or ``tanh``.
    """
    total, hidden = sum(sizes), weights.w1b.shape[1]
    regions, embed = v.shape[1:]
    new = v.new_empty
    state = torch.promote_types(v.dtype, torch.float32)
    gates1, gates2 = (new((total, 4 * hidden), dtype=state) for _ in range(2))
    c1, c2, h1, h2 = (new((total, hidden), dtype=state) for _ in range(4))
    alpha, scores = (new((total, regions), dtype=state) for _ in range(2))
    v_hat = new((total, embed), dtype=state)
    at = step_slices(sizes)
    zero = v.new_zeros((sizes[0], hidden), dtype=state)
    half = weights.w1a.dtype
    before = None
    for t, n in enumerate(sizes):
        now = at[t]
        h1_old, c1_old, h2_old, c2_old = (zero[:n] if before is None else s[before][:n] for s in (h1, c1, h2, c2))
        z1 = gates1[now]
        z1.copy_(x1_of_step(t, h2_old))
        if before is not None:
            _add_product(z1, h2_old, weights.w1a)
            _add_product(z1, h1_old, weights.w1b)
        _lstm_forward(z1, c1_old, c1[now], h1[now])

        query = h1[now].to(half) @ weights.w_h.t()
        a = scores[now].copy_(_inner(p[:n], query, activation) @ weights.w_alpha)
        if ext_mask is not None:
            a += ext_mask[:n]
        torch.softmax(a if prior is None else a + prior[:n], dim=1, out=alpha[now])
        gamma = alpha[now] if lambda_beta is None else alpha[now] + lambda_beta[:n]
        v_hat[now] = torch.bmm(gamma.to(v.dtype).unsqueeze(1), v[:n]).squeeze(1)

        z2 = gates2[now]
        z2.copy_(weights.b2)
        _add_product(z2, v_hat[now], weights.w2a)
        _add_product(z2, h1[now], weights.w2b)
        if before is not None:
            _add_product(z2, h2_old, weights.w2c)
        _lstm_forward(z2, c2_old, c2[now], h2[now])
        before = now
    return Trace(gates1, gates2, c1, c2, h1, h2, alpha, v_hat, scores)


def run_given(x1: Tensor, x2: Tensor, sizes: list[int], weights: Weights) -> Tensor:
    """The recurrence without attention, for given v-hat: (M, H) h2, packed. Autograd differentiates it.

    Args:
        x1: (M, 4H). x2: (M, 4H) W2a v-hat + b2. Both packed.
        sizes: as for ``run``.
    """
    zero = x1.new_zeros((sizes[0], weights.w1b.shape[1]))
    h1 = c1 = h2 = c2 = zero
    found = []
    for z1, z2 in zip(x1.split(sizes), x2.split(sizes), strict=True):
        h1, c1, h2, c2 = (state[: len(z1)] for state in (h1, c1, h2, c2))
        z1 = z1 + _product(h2, weights.w1a) + _product(h1, weights.w1b)
        h1, c1 = _lstm(z1, c1)
        z2 = z2 + _product(h1, weights.w2b) + _product(h2, weights.w2c)
        h2, c2 = _lstm(z2, c2)
        found.append(h2)
    return torch.cat(found)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return x.to(weight.dtype) @ weight.t()


def _lstm(z: Tensor, c_old: Tensor) -> tuple[Tensor, Tensor]:
    """h and c (n, H) from preactivations (n, 4H: i f g o)."""
    i, f, g, o = z.chunk(4, dim=1)
    c = f.sigmoid() * c_old + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _add_product(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """out += x weight^T, the product in the weight's dtype, the sum in float32."""
    if weight.dtype == out.dtype:
        out.addmm_(x, weight.t())
    else:
        out += x.to(weight.dtype) @ weight.t()


def _inner(p: Tensor, query: Tensor, activation: str) -> Tensor:
    """f(W_h h + W_v v): (n, K, A)."""
    joint = p + query.unsqueeze(1)
    return joint.relu_() if activation == "relu" else joint.tanh_()


def _lstm_forward(z: Tensor, c_old: Tensor, c: Tensor, h: Tensor) -> None:
    """Turn preactivations ``z`` (n, 4H: i f g o) into gates in place, and write ``c`` and ``h``."""
    hidden = c.shape[1]
    z[:, : 2 * hidden].sigmoid_()
    z[:, 2 * hidden : 3 * hidden].tanh_()
    z[:, 3 * hidden :].sigmoid_()
    i, f, g, o = z.chunk(4, dim=1)
    torch.mul(f, c_old, out=c)
    c.addcmul_(i, g)
    torch.tanh(c, out=h)
    h.mul_(o)


def _lstm_backward(gates: Tensor, c_old: Tensor | None, c: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the preactivations (n, 4H) and of the old cell state; ``dc`` is changed in place."""
    i, f, g, o = gates.chunk(4, dim=1)
    tanh_c = torch.tanh(c)
    dz = torch.empty_like(gates)
    di, df, dg, do = dz.chunk(4, dim=1)
    # d sigmoid(z) = s (1 - s) dz, d tanh(z) = (1 - t^2) dz
    torch.mul(dh, tanh_c, out=do)
    do.mul_(o).mul_(1 - o)
    dc.addcmul_(dh * o, 1 - tanh_c * tanh_c)
    torch.mul(dc, g, out=di)
    di.mul_(i).mul_(1 - i)
    if c_old is None:
        df.zero_()
    else:
        torch.mul(dc, c_old, out=df)
        df.mul_(f).mul_(1 - f)
    torch.mul(dc, i, out=dg)
    dg.mul_(1 - g * g)
    return dz, dc * f


class Rollout(torch.autograd.Function):
    """Returns ``trace.h2`` (M, H) and ``trace.scores`` (M, K) of a finished run, and differentiates through the run.

    The run itself (``run``) is separate, because with scheduled sampling the words, and therefore ``x1``, are
    known only after it. ``x1`` (M, 4H) is an argument here only for its gradient.
    """

    @staticmethod
    def forward(ctx, trace, sizes, activation, x1, p, v, lambda_beta, prior, *weights):
        ctx.settings = sizes, activation, prior is not None
        ctx.set_materialize_grads(False)  # without a loss on the attention its gradient is None and costs nothing
        ctx.save_for_backward(*trace[:8], p, v, lambda_beta, *weights)
        return trace.h2.clone(), trace.scores

    @staticmethod
    @torch.no_grad()
    def backward(ctx, grad_h2, grad_scores):
        saved = ctx.saved_tensors
        trace, weights = Trace(*saved[:8], scores=None), Weights(*saved[11:])
        if grad_h2 is None:
            grad_h2 = torch.zeros_like(trace.h2)
        return None, None, None, *_backward(trace, *ctx.settings, *saved[8:11], weights, grad_h2, grad_scores)


def _backward(
    trace: Trace,
    sizes: list[int],
    activation: str,
    has_prior: bool,
    p: Tensor,
    v: Tensor,
    lambda_beta: Tensor | None,
    weights: Weights,
    grad_h2: Tensor,
    grad_scores: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of x1, p, v, lambda_beta, prior and the weights, in that order."""
    at = step_slices(sizes)
    rows, hidden = sizes[0], weights.w1b.shape[1]
    half = weights.w1a.dtype
    dz1_all, dz2_all = (torch.empty_like(trace.gates1) for _ in range(2))
    dq_all = grad_h2.new_empty((len(grad_h2), p.shape[2]))
    dp = torch.zeros_like(p, dtype=grad_h2.dtype)
    d_alpha_weight = grad_h2.new_zeros(p.shape[2])
    # gamma_t and d v-hat_t of all steps side by side, so that dV is one product per caption.
    gamma_all = v.new_zeros((rows, len(sizes), v.shape[1]), dtype=half)
    dv_hat_all = v.new_zeros((rows, len(sizes), v.shape[2]), dtype=half)
    d_beta = torch.zeros_like(lambda_beta) if lambda_beta is not None else None
    d_prior = torch.zeros_like(trace.alpha[: len(p)]) if has_prior else None
    dh1, dh2, dc1, dc2 = (grad_h2.new_zeros((rows, hidden)) for _ in range(4))
    for t in range(len(sizes) - 1, -1, -1):
        n, now = sizes[t], at[t]
        before = at[t - 1] if t else None
        dh2[:n] += grad_h2[now]
        c2_old = trace.c2[before][:n] if t else None
        dz2, dc2[:n] = _lstm_backward(trace.gates2[now], c2_old, trace.c2[now], dh2[:n], dc2[:n])
        dz2_all[now] = dz2
        dz2 = dz2.to(half)
        dv_hat = dz2 @ weights.w2a
        dh1[:n] += dz2 @ weights.w2b
        if t:
            dh2[:n] = dz2 @ weights.w2c

        alpha = trace.alpha[now]
        gamma_all[:n, t] = alpha if lambda_beta is None else alpha + lambda_beta[:n]
        dv_hat_all[:n, t] = dv_hat
        d_gamma = torch.bmm(v[:n], dv_hat.to(v.dtype).unsqueeze(2)).squeeze(2).to(alpha.dtype)
        if d_beta is not None:
            d_beta[:n] += d_gamma
        d_scores = alpha * (d_gamma - (alpha * d_gamma).sum(1, keepdim=True))
        if d_prior is not None:
            d_prior[:n] += d_scores
        if grad_scores is not None:
            d_scores = d_scores + grad_scores[now]
        joint = _inner(p[:n], trace.h1[now].to(half) @ weights.w_h.t(), activation)
        d_alpha_weight += torch.mv(joint.view(-1, joint.shape[2]).t(), d_scores.to(joint.dtype).view(-1))
        slope = (joint > 0).to(joint.dtype) if activation == "relu" else 1 - joint * joint
        d_joint = slope.mul_(weights.w_alpha).mul_(d_scores.to(joint.dtype).unsqueeze(2))
        dp[:n] += d_joint
        dq = d_joint.sum(1)
        dq_all[now] = dq
        dh1[:n] += dq.to(half) @ weights.w_h

        c1_old = trace.c1[before][:n] if t else None
        dz1, dc1[:n] = _lstm_backward(trace.gates1[now], c1_old, trace.c1[now], dh1[:n], dc1[:n])
        dz1_all[now] = dz1
        if t:
            dz1 = dz1.to(half)
            dh2[:n] += dz1 @ weights.w1a
            dh1[:n] = dz1 @ weights.w1b

    # The input states of each word: those of the previous step, zero at the first step.
    h1_old, h2_old = _shifted(trace.h1, at), _shifted(trace.h2, at)
    z1, z2 = dz1_all.to(half).t(), dz2_all.to(half).t()
    h1 = trace.h1.to(half)
    grads = Weights(
        w1a=(z1 @ h2_old.to(half)),
        w1b=(z1 @ h1_old.to(half)),
        w_h=dq_all.to(half).t() @ h1,
        w_alpha=d_alpha_weight.to(weights.w_alpha.dtype),
        w2a=z2 @ trace.v_hat.to(half),
        w2b=z2 @ h1,
        w2c=z2 @ h2_old.to(half),
        b2=dz2_all.sum(0).to(weights.b2.dtype),
    )
    dv = torch.bmm(gamma_all.transpose(1, 2), dv_hat_all)
    return dz1_all, dp.to(p.dtype), dv.to(v.dtype), d_beta, d_prior, *grads


def _shifted(states: Tensor, at: list[slice]) -> Tensor:
    """(M, H) states of the previous step for each word, in packed order."""
    out = torch.zeros_like(states)
    for before, now in pairwise(at):
        n = now.stop - now.start
        out[now] = states[before][:n]
    return out
