"""Captured graphs of teacher forcing (MODEL.CAPTURE_GRAPHS): a GPU replays a whole step instead of single kernels.

Equals ``words_at_once`` of ``teacher_forcing.py``, except for the order of random numbers.

A step launches about two thousand small kernels, most of them in the recurrence. torch.cuda.make_graphed_callables
records the encoding and the recurrence, forward and backward, once per shape, and replays them. That has two
consequences:

* shapes must be the same in every step: the numbers of captions that have a first, second, ... word are rounded up, and
  a graph also serves the batches that have fewer; the real words are selected afterwards;
* buffers are reused: a second forward pass before the backward pass of the first would overwrite its buffers. Such a
  pass, shapes after the first ``LIMIT`` ones, evaluation, and training in several processes use the ordinary way.

A resumed run equals an uninterrupted one as far as without graphs: capturing leaves the random state as it was, and a
replay draws as many random numbers as it did. But a resumed run meets the shapes in another order, so that after more
than ``LIMIT`` of them other steps go the ordinary way, whose random numbers come in another order.

Letters: B images, S captions per image, N = B S, K regions, M words to predict in all, H hidden size.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xmodaler_ssattn import keys
from xmodaler_ssattn.fast.rollout import step_slices
from xmodaler_ssattn.fast.ss_decoder import attention, roll_out
from xmodaler_ssattn.fast.words import WordSource
from xmodaler_ssattn.host import comm, kfg
from xmodaler_ssattn.modeling.captioner import GroundedCaptioner
from xmodaler_ssattn.modeling.collate import send
from xmodaler_ssattn.modeling.forcing import CaptionPlan, WordStates

# The steps are rounded up to a multiple of this number of words, the captions of a step to this part of the batch.
BUCKET, PARTS = 4, 4
# A captured graph serves a batch if it has at most this multiple of the words of the batch's own rounded sizes, or if
# no more graphs may be captured.
WASTE = 1.25
# Maximum number of captured shapes; each keeps the memory of a step.
LIMIT = 8
# The keys of a batch that the model reads up to the states.
_READ = (kfg.ATT_FEATS, kfg.ATT_MASKS, keys.IMAGE_SIZE, *keys.PER_REGION)

Backend = Callable[[nn.Module, tuple[Tensor, ...]], Callable[..., tuple[Tensor, ...]]]


def rounded(sizes: list[int], most: int) -> list[int]:
    """Captions per step with room for the batches that are like this one.

    >>> rounded([16, 16, 15, 7, 3], most=21)
    [16, 16, 16, 8, 4, 4, 4, 4]
    """
    unit = -(-sizes[0] // PARTS)
    steps = -(-len(sizes) // BUCKET) * BUCKET
    if len(sizes) <= most:
        steps = min(steps, most)
    full = [min(-(-n // unit) * unit, sizes[0]) for n in sizes]
    return full + [unit] * (steps - len(full))


class CapturedForcing:
    """``word_states`` by replayed graphs.

    Args:
        backend: (module, sample tensors) -> a differentiable function of tensors of those shapes that equals the
            module. None: ``torch.cuda.make_graphed_callables``, only on a CUDA device.
    """

    def __init__(self, backend: Backend | None = None):
        self._backend, self._told = backend, False
        self._graphs: dict[tuple, _Graph] = {}

    def __deepcopy__(self, memo: dict) -> CapturedForcing:
        """A copied model has other weights: it captures its own graphs."""
        return CapturedForcing(self._backend)

    def __len__(self) -> int:
        return len(self._graphs)

    def __call__(self, model: GroundedCaptioner, batch: dict, ss_prob: float) -> WordStates | None:
        """As ``words_at_once``, if ``FastForcing.suits`` is True; None when this batch needs the ordinary way."""
        if not self._suits(model):
            return None
        tokens, captions = batch[kfg.G_TOKENS_IDS], batch[keys.CAPTIONS_PER_IMAGE]
        plan = CaptionPlan.of(batch[keys.CAPTION_LENGTHS], tokens.shape[1], tokens.device)
        names = tuple(key for key in _READ if key in batch)
        fields = [batch[key] for key in names]
        common = (captions, ss_prob > 0, names, *((value.shape, value.dtype) for value in fields))
        sizes = self._sizes(common, plan.sizes, model.max_seq_len + 1)
        # The cells of the packed order of ``sizes`` that have a word; the others are computed and not read.
        starts = [stop.start for stop in step_slices(sizes)]
        cells = torch.cat([torch.arange(n) + start for n, start in zip(plan.sizes, starts)])
        cells = send(cells, tokens.device)
        words = tokens.new_zeros(sum(sizes)).index_copy(0, cells, tokens.reshape(-1)[plan.words])
        images = plan.order.div(captions, rounding_mode="floor")
        values = [*fields, words, images, tokens.new_full((), ss_prob, dtype=torch.float32)]
        key = (common, tuple(sizes))
        if key not in self._graphs:
            if len(self._graphs) >= LIMIT:
                # Scheduled sampling begins once: the graphs from before it are not replayed again.
                self._graphs = {k: graph for k, graph in self._graphs.items() if k[0][1] == common[1] or graph.in_use()}
            if len(self._graphs) >= LIMIT:
                return None
            shape = _Shape(model, sizes, ss_prob > 0, names)
            self._graphs[key] = _Graph(self._capture(shape, tuple(values)), list(shape.parameters()))
        graph = self._graphs[key]
        if graph.in_use():
            return None
        hidden, scores, *log_beta = graph.run(*values)
        inputs = {**batch, keys.RAW_FEATS: batch[kfg.ATT_FEATS], keys.IMAGE_MASK: batch[kfg.ATT_MASKS]}
        if log_beta:
            inputs[keys.LOG_BETA] = log_beta[0].clone()  # the graph's own buffer changes with the next step
        hidden, scores = _Pick.apply(hidden, scores, cells, graph)
        states = WordStates(inputs, hidden, plan.words, plan.order[plan.rows])
        if keys.WORD_PAIRS not in batch:
            return states
        beta = {keys.ROW_LOG_BETA: inputs[keys.LOG_BETA], keys.BETA: inputs[keys.LOG_BETA].exp()} if log_beta else {}
        alpha, gamma = attention(model.decoder, beta, scores, images[plan.rows])
        return states._replace(alpha=alpha, gamma=gamma)

    def _sizes(self, common: tuple, sizes: list[int], most: int) -> list[int]:
        """The captions per step of a captured graph that a batch with ``sizes`` fits into, or of one to capture.

        Args:
            common: what else the graph depends on.
            most: steps of the longest caption that the data set makes.
        """
        new = rounded(sizes, most)
        if len(self._graphs) == LIMIT - 1:  # the last one has room for every batch of these images
            new = [sizes[0]] * max(most, len(sizes))
        fits = [
            list(of)
            for others, of in self._graphs
            if others == common and len(of) >= len(sizes) and all(n <= room for n, room in zip(sizes, of))
        ]
        best = min(fits, key=sum, default=new)
        return best if len(self._graphs) >= LIMIT or sum(best) <= WASTE * sum(new) else new

    def _suits(self, model: GroundedCaptioner) -> bool:
        if not (model.training and torch.is_grad_enabled() and model.encodes_per_image):
            return False
        if self._backend is None and (model.device.type != "cuda" or comm.get_world_size() > 1):
            if not self._told:
                logging.getLogger(__name__).warning(
                    "MODEL.CAPTURE_GRAPHS works only on one CUDA device, got %s in %d process(es). Training continues "
                    "without captured graphs.",
                    model.device,
                    comm.get_world_size(),
                )
                self._told = True
            return False
        return True

    def _capture(self, shape: _Shape, values: tuple[Tensor, ...]) -> Any:
        logging.getLogger(__name__).info("Capturing a graph for %s", shape)
        # The sample tensors become the graph's input buffers, so the tensors of the batch are copied.
        values = tuple(value.clone() for value in values)
        with torch.autocast(values[0].device.type, enabled=False):
            if self._backend is not None:
                return self._backend(shape, values)
            # Its passes before the capture draw random numbers, which a resumed run would draw at another step.
            with torch.random.fork_rng([values[0].device]):
                return torch.cuda.make_graphed_callables(shape, values, allow_unused_input=True)


class _Shape(nn.Module):
    """Encoding and recurrence of one shape, as a function of tensors only.

    Returns states (M', H), scores of the attention (M', K), and log beta (B, K), with M' the sum of ``sizes``.

    The captioner's parts are submodules, so that their parameters get gradients. The predictor, from which scheduled
    sampling samples, is not a submodule and gets no gradient here.
    """

    def __init__(self, model: GroundedCaptioner, sizes: list[int], sampling: bool, names: tuple[str, ...]):
        super().__init__()
        self.parts = nn.ModuleList([model.token_embed, model.visual_embed, model.encoder, model.decoder])
        self.train(model.training)
        self._model = weakref.ref(model)
        self.sizes, self.sampling, self.names = sizes, sampling, names
        self._rows = send(torch.cat([torch.arange(n) for n in sizes]), model.device)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        model: Any = self._model()
        *fields, tokens, images, ss_prob = values
        batch: dict[str, Any] = dict(zip(self.names, fields, strict=True))
        # Only used to see whether some are padded. A mask of zeros changes nothing, and needs no graph of its own.
        batch[keys.NUM_REGIONS] = [batch[kfg.ATT_FEATS].shape[1] - 1]
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=model.amp, cache_enabled=False):
            inputs = model.encode(batch, images)
            prob = ss_prob if self.sampling else 0.0
            words = WordSource(model.token_embed, tokens, self.sizes, self._rows, prob, model.sample_words, static=True)
            states = roll_out(model.decoder, inputs, words)
        return (*states, inputs[keys.LOG_BETA]) if keys.LOG_BETA in inputs else states

    def __str__(self) -> str:
        return f"captions per step={self.sizes}, sampling={self.sampling}"


class _Pass:
    """One forward pass; it exists as long as its autograd graph."""

    done = False


class _Graph:
    """A captured function, and the pass that uses its buffers."""

    def __init__(self, run: Callable[..., tuple[Tensor, ...]], parameters: list[nn.Parameter]):
        self.run = run
        self._parameters = parameters
        self._latest: weakref.ref[_Pass] | None = None

    def in_use(self) -> bool:
        """Whether the backward pass of the latest forward pass is still possible and has not run."""
        latest = self._latest() if self._latest is not None else None
        return latest is not None and not latest.done

    def begin(self) -> _Pass:
        begun = _Pass()
        self._latest = weakref.ref(begun)
        return begun

    def differentiate(self, which: _Pass) -> None:
        """Called before the captured backward pass of ``which``; a ``RuntimeError`` if a later pass has its buffers."""
        if self._latest is None or self._latest() is not which:
            raise RuntimeError(
                "The backward pass of a training step was requested after the next step had begun, but its captured "
                "graph has reused the buffers. Set MODEL.CAPTURE_GRAPHS False for this."
            )
        which.done = True
        for parameter in self._parameters:
            # When gradients are accumulated, those of the previous pass may be in the buffers that are written now.
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()


class _Pick(torch.autograd.Function):
    """hidden[cells] and scores[cells], M' -> M rows; its backward pass runs just before the captured one."""

    @staticmethod
    def forward(ctx, hidden: Tensor, scores: Tensor, cells: Tensor, graph: _Graph) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cells)
        ctx.graph, ctx.this, ctx.rows = graph, graph.begin(), len(hidden)
        return hidden.index_select(0, cells), scores.index_select(0, cells)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        ctx.graph.differentiate(ctx.this)
        (cells,) = ctx.saved_tensors
        spread = (grad.new_zeros((ctx.rows, grad.shape[1])).index_copy_(0, cells, grad) for grad in grads)
        return *spread, None, None
