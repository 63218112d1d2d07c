"""Decode sentences with a model: greedy decoding and beam search.

Letters: B images, b beams, V vocabulary size, T = MODEL.MAX_SEQ_LEN words.
Words after the end word are the end word (index 0), with log-probability 0 in beam search.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn.errors import UserError

from .config import CfgNode, kfg
from .configurable import configurable
from .functional import decode_sequence, expand_tensor, load_vocab
from .registry import DECODE_STRATEGY_REGISTRY


class DecodeStrategy(nn.Module, metaclass=ABCMeta):
    """Runs a model word by word; a subclass implements ``_forward``."""

    @configurable
    def __init__(
        self,
        *,
        vocab_path: str,
        beam_size: int,
        max_seq_len: int,
        bert_tokenizer: None = None,
        bos_token_id: int = 0,
        eos_token_id: int = 0,
    ) -> None:
        super().__init__()
        if bert_tokenizer is not None:
            raise ValueError("BERT tokens are available with upstream X-modaler only; give a vocabulary file.")
        if beam_size < 1:
            raise ValueError(f"The beam size must be at least 1, received {beam_size}.")
        self.vocab = load_vocab(vocab_path)
        self.beam_size, self.max_seq_len = beam_size, max_seq_len
        self.bert_tokenizer = None
        self.bos_token_id, self.eos_token_id = bos_token_id, eos_token_id

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if cfg.INFERENCE.VOCAB == "BERT":
            raise UserError("INFERENCE.VOCAB BERT is available with upstream X-modaler only; give a vocabulary file.")
        return {
            "vocab_path": cfg.INFERENCE.VOCAB,
            "beam_size": cfg.DECODE_STRATEGY.BEAM_SIZE,
            "max_seq_len": cfg.MODEL.MAX_SEQ_LEN,
            **{"bert_tokenizer": None, "bos_token_id": 0, "eos_token_id": 0},
        }

    @abstractmethod
    def _forward(self, batched_inputs: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """Decode a batch: at least ``G_SENTS_IDS`` (B, T) int64 and ``G_LOGP`` (B, T)."""

    def forward(self, batched_inputs: dict[str, Any], output_sents: bool, model: nn.Module) -> dict[str, Any]:
        """Decode, and with ``output_sents`` add the sentences as ``OUTPUT``."""
        ret = self._forward(batched_inputs, model)
        if output_sents:
            if self.vocab is None:
                raise UserError("Sentences need a vocabulary: INFERENCE.VOCAB is empty.")
            ret[kfg.OUTPUT] = decode_sequence(self.vocab, ret[kfg.G_SENTS_IDS])
        return ret


def prepare(batched_inputs: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """The computation before the first word, in a copy of the batch: masks, region embedding, encoder, zero states."""
    inputs = dict(batched_inputs)
    inputs.update(model.get_extended_attention_mask(inputs))
    inputs.update(model.visual_embed(inputs))
    if model.encoder is not None:
        inputs.update(model.encoder(inputs, mode="v"))
    return model.decoder.preprocess(inputs)


def next_logits(inputs: dict[str, Any], model: nn.Module, words: Tensor) -> Tensor:
    """Feed ``words`` (N,): the new state is stored in ``inputs``; returns (N, V) logits."""
    inputs[kfg.G_TOKENS_IDS] = words
    inputs.update(model.token_embed(inputs))
    if model.encoder is not None:
        inputs.update(model.encoder(inputs, mode="t"))
    inputs.update(model.decoder(inputs))
    return model.predictor(inputs)[kfg.G_LOGITS].reshape(words.size(0), -1)


@DECODE_STRATEGY_REGISTRY.register()
class GreedyDecoder(DecodeStrategy):
    """The likeliest word at each step, or with ``DECODE_BY_SAMPLE`` in the batch a sampled one."""

    def _forward(self, batched_inputs: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        feats = batched_inputs[kfg.ATT_FEATS]
        batch_size = feats.size(0)
        inputs = prepare(batched_inputs, model)
        words = torch.full((batch_size,), self.bos_token_id, dtype=torch.long, device=feats.device)
        sents = torch.full((batch_size, self.max_seq_len), self.eos_token_id, dtype=torch.long, device=feats.device)
        logprobs = torch.zeros(batch_size, self.max_seq_len, device=feats.device)
        unfinished = torch.ones(batch_size, dtype=torch.bool, device=feats.device)
        for t in range(self.max_seq_len):
            inputs[kfg.TIME_STEP] = t
            logp = F.log_softmax(next_logits(inputs, model, words), dim=-1)
            if batched_inputs.get(kfg.DECODE_BY_SAMPLE, False):
                words = torch.multinomial(logp.exp(), 1)
                word_logp, words = logp.gather(1, words).squeeze(1), words.squeeze(1)
            else:
                word_logp, words = logp.max(1)
            unfinished = unfinished & (words != self.eos_token_id)
            words = words.masked_fill(~unfinished, self.eos_token_id)
            sents[:, t], logprobs[:, t] = words, word_logp
            if not unfinished.any():
                break
        return {**inputs, kfg.G_SENTS_IDS: sents, kfg.G_LOGP: logprobs}


@DECODE_STRATEGY_REGISTRY.register()
class BeamSearcher(DecodeStrategy):
    """Beam search by the sum of log-probabilities, without length penalty.

    A finished beam keeps its score and competes with the open ones.
    """

    # Tensors with one row per image; after the first step they need one row per beam. A subclass may add its own.
    EXPANDED_KEYS = (
        *(kfg.ATT_FEATS, kfg.GLOBAL_FEATS, kfg.ATT_MASKS, kfg.EXT_ATT_MASKS, kfg.P_ATT_FEATS),
        *(kfg.EXT_G_TOKENS_MASKS, kfg.G_TOKENS_TYPE),
    )
    # Lists of tensors that are re-ordered with the beams.
    STATE_KEYS = (kfg.G_HIDDEN_STATES, kfg.G_CELL_STATES)

    def _forward(self, batched_inputs: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """``OUT_SIZE`` in the batch (default 1) is the number of sentences per image, best first: (B, OUT_SIZE, T)."""
        feats = batched_inputs[kfg.ATT_FEATS]
        batch_size, beam, device = feats.size(0), self.beam_size, feats.device
        out_size = batched_inputs.get("OUT_SIZE", 1)
        inputs = prepare(batched_inputs, model)

        words = torch.full((batch_size,), self.bos_token_id, dtype=torch.long, device=device)
        scores = torch.zeros(batch_size, 1, device=device)  # (B, b), one beam before the first word
        open_beams = torch.ones(batch_size, 1, dtype=torch.bool, device=device)
        sents = torch.full((batch_size, 1, self.max_seq_len), self.eos_token_id, dtype=torch.long, device=device)
        logprobs = torch.zeros(batch_size, 1, self.max_seq_len, device=device)

        for t in range(self.max_seq_len):
            inputs[kfg.TIME_STEP] = t
            logp = F.log_softmax(next_logits(inputs, model, words), dim=-1).view(batch_size, scores.size(1), -1)
            # A finished beam can only be continued by another end word, with log-probability 0.
            stay = torch.full_like(logp[:, :1], float("-inf"))
            stay[..., self.eos_token_id] = 0
            logp = torch.where(open_beams.unsqueeze(-1), logp, stay)
            candidates = (scores.unsqueeze(-1) + logp).flatten(1)  # (B, b V)
            if candidates.size(1) < beam:
                raise ValueError(f"A beam of {beam} needs as many words; the vocabulary has {candidates.size(1)}.")
            scores, chosen = candidates.topk(beam, dim=1)
            parents = torch.div(chosen, logp.size(-1), rounding_mode="floor")
            words = chosen % logp.size(-1)

            for key in self.STATE_KEYS:
                if key in inputs:
                    inputs[key] = [_follow(state, parents) for state in inputs[key]]
            sents, logprobs = _gather(sents, parents), _gather(logprobs, parents)
            sents[:, :, t] = words
            logprobs[:, :, t] = logp.flatten(1).gather(1, chosen)
            open_beams = open_beams.gather(1, parents) & (words != self.eos_token_id)
            words = words.flatten()
            if t == 0:  # B rows become B b rows
                inputs.update({key: expand_tensor(inputs[key], beam) for key in self.EXPANDED_KEYS if key in inputs})
            if not open_beams.any():
                break

        # topk returned the beams best first.
        sents, logprobs = sents[:, :out_size], logprobs[:, :out_size]
        if out_size == 1:
            sents, logprobs = sents.squeeze(1), logprobs.squeeze(1)
        ids = {kfg.IDS: batched_inputs[kfg.IDS]} if kfg.IDS in batched_inputs else {}
        return {**ids, kfg.G_SENTS_IDS: sents, kfg.G_LOGP: logprobs}


def _follow(state: Tensor, parents: Tensor) -> Tensor:
    """Re-order a state (B b, ...) so that each beam continues its parent (B, b)."""
    return _gather(state.view(parents.size(0), -1, *state.shape[1:]), parents).flatten(0, 1)


def _gather(values: Tensor, parents: Tensor) -> Tensor:
    """(B, a, ...) values and (B, b) indices into a -> (B, b, ...)."""
    index = parents.view(*parents.shape, *[1] * (values.dim() - 2)).expand(*parents.shape, *values.shape[2:])
    return values.gather(1, index)
