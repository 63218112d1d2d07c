"""Greedy decoding and beam search that carry alpha and gamma with every word.

X-modaler's searchers expand a fixed list of keys at the first step and lose the attention when beams
are re-ordered. These leave the features at one row an image, re-order the states alone, and follow
the attention back along the chosen beam.

Letters: B images, W beams, K regions, V vocabulary (index 0 begins, ends and pads), T words.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.host import DECODE_STRATEGY_REGISTRY, DecodeStrategy, configurable, kfg, load_vocab
from xmodaler_ssattn.modeling.grounded_output import GROUND_BY, captions_from_decoding
from xmodaler_ssattn.modeling.words import draw_words
from xmodaler_ssattn.partners import require_grounded_captioner
from xmodaler_ssattn.precision import at_least_float32

UNK = "UNK"
# Images that have ended leave the batch when so few are left: each copy of the features must pay for itself.
SHRINK_AT = 0.75


def check_vocabulary(cfg) -> None:
    """Refuse a config whose vocabulary file is missing or does not fit MODEL.VOCAB_SIZE.

    As in X-modaler, an empty INFERENCE.VOCAB means that no words will be written, for a project that only trains.
    """
    if not cfg.INFERENCE.VOCAB:
        return
    path = Path(cfg.INFERENCE.VOCAB)
    if not path.is_file():
        raise UserError(
            f"INFERENCE.VOCAB: the vocabulary file {path} does not exist. `xmodaler prepare annotations` writes "
            "it as vocabulary.txt beside the annotation files."
        )
    size = len(_vocabulary(path))
    try:
        load_vocab(str(path))  # upstream's captioner builds its own decoders first
    except UnicodeDecodeError as error:
        raise UserError(
            f"INFERENCE.VOCAB: X-modaler reads {path} as UTF-8, and it is not. Save it as UTF-8."
        ) from error
    if size != cfg.MODEL.VOCAB_SIZE:
        raise UserError(
            f"MODEL.VOCAB_SIZE is {cfg.MODEL.VOCAB_SIZE}, but {path} holds {size - 1} words, which with the end mark "
            f"makes {size}. Set MODEL.VOCAB_SIZE: {size}."
        )


def _vocabulary(path: str | Path) -> list[str]:
    """Index -> word, as the hosts' load_vocab gives it; upstream's makes a byte order mark part of the first word."""
    return [".", *(line.strip() for line in read_lines(path, "INFERENCE.VOCAB"))]


class Decoded(NamedTuple):
    """Decoded captions and the attention behind each word.

    Attributes:
        sents: (B, T) int64 word ids, 0 from the end on.
        logp: (B, T) float32, log-probability of each word, the final 0 included; 0 after it.
        alpha, gamma: (B, T, K) float32, the weights of the step that produced the word.
    """

    sents: Tensor
    logp: Tensor
    alpha: Tensor
    gamma: Tensor


class GroundedDecodeStrategy(DecodeStrategy):
    """What both decoders share: the vocabulary, UNK suppression, and GroundedCaptions as output.

    Args (beside the host's DecodeStrategy):
        suppress_unk: never generate UNK; as in the published grounding protocol the second best word
            takes its place, and probabilities are not renormalised.
        ground_by: whose argmax is a word's region, ``gamma``, ``alpha`` or ``beta``.
        save_attention: put the full weights on the captions.
    """

    @configurable
    def __init__(
        self,
        *,
        vocab_path: str,
        beam_size: int,
        max_seq_len: int,
        bert_tokenizer=None,
        bos_token_id: int = 0,
        eos_token_id: int = 0,
        suppress_unk: bool = True,
        ground_by: str = "gamma",
        save_attention: bool = False,
    ):
        super().__init__(
            vocab_path="",
            beam_size=beam_size,
            max_seq_len=max_seq_len,
            bert_tokenizer=bert_tokenizer,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
        )
        self.vocab = _vocabulary(vocab_path) if vocab_path and bert_tokenizer is None else None
        self.ground_by = ground_by
        self.save_attention = save_attention
        known = self.vocab is not None and UNK in self.vocab
        self.unk_token_id = self.vocab.index(UNK) if suppress_unk and known else None

    @classmethod
    def from_config(cls, cfg) -> dict:
        cfg = completed(cfg)
        require_grounded_captioner(cfg, cls.__name__, "which does not carry the attention from word to word")
        check_vocabulary(cfg)
        if cfg.INFERENCE.GROUND_BY not in GROUND_BY:
            raise UserError(f"INFERENCE.GROUND_BY: expected one of {GROUND_BY}, got {cfg.INFERENCE.GROUND_BY!r}.")
        if cfg.INFERENCE.GROUND_BY == "beta" and not cfg.MODEL.SS_ATTENTION.ENABLED:
            raise UserError("INFERENCE.GROUND_BY is 'beta', but MODEL.SS_ATTENTION.ENABLED is False: there is no beta.")
        if cfg.DECODE_STRATEGY.BEAM_SIZE < 1:
            raise UserError(
                f"DECODE_STRATEGY.BEAM_SIZE: expected an integer >= 1, got {cfg.DECODE_STRATEGY.BEAM_SIZE}."
            )
        return {
            "vocab_path": cfg.INFERENCE.VOCAB,
            "beam_size": cfg.DECODE_STRATEGY.BEAM_SIZE,
            "max_seq_len": cfg.MODEL.MAX_SEQ_LEN,
            "suppress_unk": cfg.DECODE_STRATEGY.SUPPRESS_UNK,
            "ground_by": cfg.INFERENCE.GROUND_BY,
            "save_attention": cfg.INFERENCE.SAVE_ATTENTION,
        }

    def forward(self, batched_inputs: dict, output_sents: bool, model) -> dict:
        """Decode a preprocessed batch; with ``output_sents`` OUTPUT holds one GroundedCaption an image."""
        if output_sents and self.vocab is None:
            raise UserError(
                "INFERENCE.VOCAB is empty, so word ids cannot be written as words. Set it to the vocabulary file, one "
                "word per line, or call the model with output_sents False."
            )
        inputs = model.encode(batched_inputs)
        out = self._forward(inputs, model)
        if output_sents:
            best = out[keys.DECODED]
            out[kfg.OUTPUT] = captions_from_decoding(
                best.sents,
                best.logp,
                best.alpha,
                best.gamma,
                inputs.get(keys.BETA),
                inputs,
                vocab=self.vocab,
                ground_by=self.ground_by,
                save_attention=self.save_attention,
            )
        return out

    def _log_probs(self, inputs: dict, model) -> Tensor:
        """(N, V) float32 log-probabilities of the next word; UNK is impossible when suppressed."""
        logp = F.log_softmax(at_least_float32(model.predictor(inputs)[kfg.G_LOGITS]), dim=-1)
        if self.unk_token_id is not None:
            logp[:, self.unk_token_id] = float("-inf")
        return logp


@DECODE_STRATEGY_REGISTRY.register()
class GroundedGreedyDecoder(GroundedDecodeStrategy):
    """The most probable word at every step; with DECODE_BY_SAMPLE a word drawn from the distribution."""

    def _forward(self, batched_inputs: dict, model) -> dict:
        inputs = dict(batched_inputs)
        sample = bool(inputs.get(kfg.DECODE_BY_SAMPLE, False))
        rows = inputs[kfg.ATT_FEATS].shape[0]
        word = inputs[kfg.ATT_FEATS].new_full((rows,), self.bos_token_id, dtype=torch.long)
        unfinished = torch.ones_like(word, dtype=torch.bool)
        sents, logps, alphas, gammas = [], [], [], []
        for t in range(self.max_seq_len):
            model.step(inputs, word, t)
            logp = self._log_probs(inputs, model)
            word = draw_words(logp) if sample else logp.argmax(dim=1)
            logps.append(logp.gather(1, word.unsqueeze(1)).squeeze(1) * unfinished)
            word = torch.where(unfinished, word, self.eos_token_id)
            sents.append(word)
            alphas.append(inputs[keys.ALPHA].float())
            gammas.append(inputs[keys.GAMMA].float())
            unfinished = unfinished & (word != self.eos_token_id)
            if not unfinished.any():
                break
        decoded = Decoded(
            _pad_steps(torch.stack(sents, 1), self.max_seq_len, self.eos_token_id),
            _pad_steps(torch.stack(logps, 1), self.max_seq_len, 0.0),
            torch.stack(alphas, 1),
            torch.stack(gammas, 1),
        )
        inputs.update(
            {
                kfg.IDS: batched_inputs[kfg.IDS],
                kfg.G_SENTS_IDS: decoded.sents,
                kfg.G_LOGP: decoded.logp,
                keys.DECODED: decoded,
            }
        )
        return inputs


@DECODE_STRATEGY_REGISTRY.register()
class GroundedBeamSearcher(GroundedDecodeStrategy):
    """Beam search over the sum of log-probabilities, without length normalisation, as in X-modaler.

    A finished beam stays in the race with its score and can only be continued by 0. The search ends
    when every beam of every image is finished, or after MODEL.MAX_SEQ_LEN words; images that are finished
    leave the batch before that. With ``OUT_SIZE`` in
    the batch the best OUT_SIZE beams come out, (B, OUT_SIZE, T); OUTPUT always speaks of the best.
    """

    def _forward(self, batched_inputs: dict, model) -> dict:
        inputs = dict(batched_inputs)
        images = inputs[kfg.ATT_FEATS].shape[0]
        active = torch.arange(images, device=inputs[kfg.ATT_FEATS].device)  # images still being searched
        scores = inputs[kfg.ATT_FEATS].new_zeros((images, 1), dtype=torch.float32)
        finished = torch.zeros_like(scores, dtype=torch.bool)
        word = torch.full_like(scores, self.bos_token_id, dtype=torch.long)
        final_scores = None
        steps: list[_BeamStep] = []
        for t in range(self.max_seq_len):
            width = scores.shape[1]
            before = dict(inputs)
            model.step(inputs, word.reshape(-1), t)
            states = [key for key in inputs if key not in _NO_STATE and inputs[key] is not before.get(key)]
            logp = self._log_probs(inputs, model).view(len(active), width, -1)
            # A finished beam has one continuation, the end, at no cost.
            logp = logp.masked_fill(finished.unsqueeze(-1), float("-inf"))
            logp[..., self.eos_token_id] = logp[..., self.eos_token_id].masked_fill(finished, 0.0)
            flat = best_candidates(scores.unsqueeze(-1) + logp, self.beam_size)
            parent = torch.div(flat, logp.shape[-1], rounding_mode="floor")
            word = flat - parent * logp.shape[-1]
            word_logp = logp.view(len(active), -1).gather(1, flat)
            scores = scores.gather(1, parent) + word_logp
            attention = (inputs[key].view(len(active), width, -1) for key in (keys.ALPHA, keys.GAMMA))
            steps.append(_BeamStep(active, parent, word, word_logp, *attention))
            finished = finished.gather(1, parent) | (word == self.eos_token_id)
            if final_scores is None:
                final_scores = scores.new_empty((images, scores.shape[1]))
            final_scores[active] = scores
            rows = (parent + width * torch.arange(len(active), device=parent.device).unsqueeze(1)).view(-1)
            for key in states:
                inputs[key] = _select(inputs[key], rows)
            going = (~finished.all(dim=1)).nonzero().squeeze(1)
            if len(going) == 0:
                break
            if len(going) <= SHRINK_AT * len(active) and model.encodes_per_image:
                active, scores, finished, word = (x[going] for x in (active, scores, finished, word))
                self._keep_images(inputs, going)

        out_size = min(int(batched_inputs.get("OUT_SIZE", 1)), final_scores.shape[1])
        paths = _backtrack(steps, images, out_size)
        sents = _pad_steps(paths.sents, self.max_seq_len, self.eos_token_id)
        logp = _pad_steps(paths.logp, self.max_seq_len, 0.0)
        best = Decoded(sents[:, 0], logp[:, 0], paths.alpha[:, 0].float(), paths.gamma[:, 0].float())
        return {
            kfg.IDS: batched_inputs[kfg.IDS],
            kfg.G_SENTS_IDS: sents.squeeze(1) if out_size == 1 else sents,
            kfg.G_LOGP: logp.squeeze(1) if out_size == 1 else logp,
            keys.DECODED: best,
        }

    @staticmethod
    def _keep_images(inputs: dict, going: Tensor) -> None:
        """Drop the images whose beams have all ended: what the decoder reads a step, and the states."""
        images = inputs[kfg.ATT_FEATS].shape[0]
        for key in READ_PER_STEP:
            if inputs.get(key) is not None:
                inputs[key] = inputs[key].index_select(0, going)
        for key in (kfg.G_HIDDEN_STATES, kfg.G_CELL_STATES):
            inputs[key] = [s.view(images, -1, s.shape[-1])[going].flatten(0, 1) for s in inputs[key]]


# One row an image, read by the decoder at every step.
READ_PER_STEP = (
    kfg.ATT_FEATS, kfg.P_ATT_FEATS, kfg.GLOBAL_FEATS, kfg.ATT_MASKS, kfg.EXT_ATT_MASKS,
    keys.BETA, keys.ROW_LOG_BETA, keys.STATE_KEYS,
)  # fmt: skip


# What a step gives that the next one does not read; anything else that it gives is a state, which follows its beam.
_NO_STATE = {keys.ALPHA, keys.GAMMA, kfg.G_TOKEN_EMBED}


def _select(state: Tensor | list[Tensor], rows: Tensor) -> Tensor | list[Tensor]:
    """The rows of a state (N, ...), or of each in a list."""
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    return [_select(part, rows) for part in state]


def best_candidates(scores: Tensor, count: int) -> Tensor:
    """The ``count`` largest of each image's (B, W, V) scores: (B, count) indices into its W V numbers, best first.

    Ties go to the lower index, that is, to the better beam and then to the earlier word; ``topk`` alone
    leaves their order open. In float64 a slope of 1e-12 an index separates equal float32 scores and is too
    small to reorder different ones (log-probabilities that differ by less than 1e-7 are the same).
    """
    flat = scores.flatten(1).double()
    slope = torch.arange(flat.shape[1], device=flat.device, dtype=torch.float64) * 1e-12
    return (flat - slope).topk(min(count, flat.shape[1]), dim=1).indices


class _BeamStep(NamedTuple):
    """One step of the images that were still being searched; rows as in ``active``."""

    active: Tensor  # (b,) which images
    parent: Tensor  # (b, W) the beam of the step before that each new beam continues
    word: Tensor  # (b, W)
    logp: Tensor  # (b, W)
    alpha: Tensor  # (b, W of the step before, K): one row a beam that was extended
    gamma: Tensor


def _backtrack(steps: list[_BeamStep], images: int, out_size: int) -> Decoded:
    """Follow the best ``out_size`` beams from the last step to the first; shapes gain an axis W after B.

    An image that had ended keeps its beams and says nothing more: the end again, at no cost.
    """
    first = steps[0]
    regions = first.alpha.shape[-1]
    beam = torch.arange(out_size, device=first.word.device).repeat(images, 1)
    sents, logps, alphas, gammas = [], [], [], []
    for step in reversed(steps):
        here = beam[step.active]
        parent = step.parent.gather(1, here)
        rows = parent.unsqueeze(-1).expand(-1, -1, regions)
        for collected, empty, values in (
            (sents, first.word.new_zeros(images, out_size), step.word.gather(1, here)),
            (logps, first.logp.new_zeros(images, out_size), step.logp.gather(1, here)),
            (alphas, first.alpha.new_zeros(images, out_size, regions), step.alpha.gather(1, rows)),
            (gammas, first.gamma.new_zeros(images, out_size, regions), step.gamma.gather(1, rows)),
        ):
            empty[step.active] = values
            collected.append(empty)
        beam = beam.index_copy(0, step.active, parent)
    return Decoded(*(torch.stack(parts[::-1], dim=2) for parts in (sents, logps, alphas, gammas)))


def _pad_steps(values: Tensor, length: int, fill: float) -> Tensor:
    """(..., t) -> (..., length), filled on the right: callers get one width whatever the words."""
    return F.pad(values, (0, length - values.shape[-1]), value=fill)
