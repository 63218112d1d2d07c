"""Beam search that keeps alpha and gamma of every word.

X-modaler's searcher expands a fixed list of keys at the first step and loses the attention when beams are re-ordered.
This one keeps the features at one row per image, lets the decoder select its states, and follows the attention back
along the chosen beam.

Letters: B images, b unfinished images, W beams, K regions, T words, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.collate import send
from xmodaler_ssattn.modeling.grounded_output import of_regions
from xmodaler_ssattn.modeling.loop import Ends

if TYPE_CHECKING:
    from xmodaler_ssattn.modeling.captioner import GroundedCaptioner
    from xmodaler_ssattn.modeling.searchers import GroundedBeamSearcher

# Finished images are removed from the batch only when few are left, since each removal copies the features.
SHRINK_AT = 0.75
# Outputs of a step that the next step does not read; all other outputs are states, which are selected with the beams.
_NO_STATE = {keys.ALPHA, keys.GAMMA, keys.BRANCH_REGIONS, keys.BRANCH_LOGITS, kfg.G_TOKEN_EMBED}


class _Step(NamedTuple):
    """One step of the unfinished images."""

    active: Tensor  # (b,) indices of the images
    parent: Tensor  # (b, W) the beam of the previous step that each new beam continues
    word: Tensor  # (b, W)
    logp: Tensor  # (b, W)
    of_regions: list[Tensor]  # (b, W of the previous step, K or n), see ``of_regions``: one row per extended beam


class BeamSearch:
    """The search in one batch; ``next_word`` is called by the loop over words."""

    def __init__(self, strategy: GroundedBeamSearcher, model: GroundedCaptioner, inputs: dict):
        feats = inputs[kfg.ATT_FEATS]
        self.strategy, self.model, self.inputs = strategy, model, inputs
        self.images = len(feats)
        self.active = torch.arange(self.images, device=feats.device)  # images still being searched
        self.scores = feats.new_zeros((self.images, 1), dtype=torch.float32)  # (b, W), W = 1 before the first step
        self.finished = torch.zeros_like(self.scores, dtype=torch.bool)
        self.word = torch.full_like(self.scores, strategy.bos_token_id, dtype=torch.long)
        self.steps: list[_Step] = []
        self.ends = Ends(feats.device, strategy.max_seq_len)
        self._before = dict(inputs)

    def next_word(self, inputs: dict, t: int) -> Tensor | None:
        """Extend every beam, keep the best ones of each image, and select their states."""
        count, width = self.scores.shape
        parent = self._extend(inputs)
        ended = self.ends.read(self.finished.all(dim=1), t)
        going: Sequence[int] = range(count)  # as far as is known
        if ended is not None:
            going = [image for image, over in enumerate(ended[-1]) if not over]
            if not going:
                needless = sum(all(row) for row in ended) - 1
                del self.steps[len(self.steps) - needless :]
                return None
        rows = parent + width * torch.arange(count, device=parent.device).unsqueeze(1)
        states = {k: v for k, v in inputs.items() if k not in _NO_STATE and v is not self._before.get(k)}
        if len(going) <= SHRINK_AT * count and self.model.encodes_per_image:
            kept = send(torch.tensor(going), rows.device)
            rows = rows[kept]
            self._keep_images(kept)
        inputs.update(self.model.decoder.select_states(states, rows.view(-1)))
        self._before = dict(inputs)
        return self.word.reshape(-1)

    def _extend(self, inputs: dict) -> Tensor:
        """Add a step with the best continuations of each image's beams, and return their parents (b, W)."""
        count, width = self.scores.shape
        end = self.strategy.eos_token_id
        logp = self.strategy._log_probs(inputs, self.model).view(count, width, -1)
        # A finished beam has one continuation, the end, with log-probability 0.
        logp = logp.masked_fill(self.finished.unsqueeze(-1), float("-inf"))
        logp[..., end] = logp[..., end].masked_fill(self.finished, 0.0)
        flat = best_candidates(self.scores.unsqueeze(-1) + logp, self.strategy.beam_size)
        parent = torch.div(flat, logp.shape[-1], rounding_mode="floor")
        word = flat - parent * logp.shape[-1]
        word_logp = logp.view(count, -1).gather(1, flat)
        attention = [part.unflatten(0, (count, width)) for part in of_regions(inputs)]
        self.steps.append(_Step(self.active, parent, word, word_logp, attention))
        self.word, self.scores = word, self.scores.gather(1, parent) + word_logp
        self.finished = self.finished.gather(1, parent) | (word == end)
        return parent

    def _keep_images(self, going: Tensor) -> None:
        """Drop the images whose beams have all ended; the states are selected later, by ``select_states``."""
        self.active, self.scores, self.finished, self.word = (
            x[going] for x in (self.active, self.scores, self.finished, self.word)
        )
        for key in self.model.decoder.READ_PER_STEP:
            if self.inputs.get(key) is not None:
                self.inputs[key] = self.inputs[key].index_select(0, going)

    def best_paths(self, out_size: int) -> list[Tensor]:
        """Follow the best ``out_size`` beams from the last step to the first.

        A finished image keeps its beams, which are continued by the end with log-probability 0.

        Returns:
            word ids, log-probabilities, alpha and gamma: (B, out_size, t) and (B, out_size, t, K); for a decoder with
            branches also their regions, (B, out_size, t, n).
        """
        beam = torch.arange(out_size, device=self.scores.device).repeat(self.images, 1)
        collected: list[list[Tensor]] = [[] for _ in range(2 + len(self.steps[0].of_regions))]
        for step in reversed(self.steps):
            here = beam[step.active]
            parent = step.parent.gather(1, here)
            of_words = [part.gather(1, here) for part in (step.word, step.logp)]
            attention = [
                part.gather(1, parent.unsqueeze(-1).expand(-1, -1, part.shape[-1])) for part in step.of_regions
            ]
            for parts, values in zip(collected, of_words + attention, strict=True):
                of_all = values.new_zeros(self.images, *values.shape[1:])
                of_all[step.active] = values
                parts.append(of_all)
            beam = beam.index_copy(0, step.active, parent)
        return [torch.stack(parts[::-1], dim=2) for parts in collected]


def best_candidates(scores: Tensor, count: int) -> Tensor:
    """The ``count`` largest of each image's (B, W, V) scores: (B, count) indices into its W x V numbers, best first.

    Ties go to the lower index, that is, to the better beam and then to the earlier word; ``topk`` does not define
    their order. In float64 a slope of 1e-12 per index separates equal float32 scores and is too small to reorder
    different ones (log-probabilities with a difference below 1e-7 are equal).
    """
    flat = scores.flatten(1).double()
    slope = torch.arange(flat.shape[1], device=flat.device, dtype=torch.float64) * 1e-12
    return (flat - slope).topk(min(count, flat.shape[1]), dim=1).indices
