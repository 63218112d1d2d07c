"""Greedy decoding and beam search that keep alpha and gamma of every word.

Letters: B images, N rows (captions or beams), K regions, T words, V vocabulary (0 begins, ends and pads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.caption import Caption
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.region_choice import region_rule
from xmodaler_ssattn.host import DECODE_STRATEGY_REGISTRY, DECODER_REGISTRY, DecodeStrategy, configurable, kfg
from xmodaler_ssattn.modeling.beam_search import BeamSearch
from xmodaler_ssattn.modeling.grounded_output import GROUND_BY, Decoded, captions_from_decoding, of_regions
from xmodaler_ssattn.modeling.loop import Ends, each_word
from xmodaler_ssattn.modeling.sampling import sample_words
from xmodaler_ssattn.modeling.word_list import read_vocabulary
from xmodaler_ssattn.partners import require_grounded_captioner
from xmodaler_ssattn.precision import at_least_float32
from xmodaler_ssattn.region_rules import PROTOCOL, UNION, RegionRule

if TYPE_CHECKING:
    from xmodaler_ssattn.modeling.captioner import GroundedCaptioner

UNK = "UNK"


class GroundedDecodeStrategy(DecodeStrategy):
    """The common part of both decoders: the vocabulary, UNK suppression, and GroundedCaptions as output.

    Args (in addition to those of the host's DecodeStrategy):
        suppress_unk: never generate UNK; as in the published grounding protocol, the second best word
            replaces it, and probabilities are not renormalised.
        ground_by: the weights that choose a word's region: ``gamma``, ``alpha`` or ``beta``.
        rule: how they choose it; default: the argmax.
        save_attention: store all weights in the captions.
    """

    @configurable
    def __init__(
        self,
        *,
        vocab_path: str,
        beam_size: int,
        max_seq_len: int,
        suppress_unk: bool = True,
        ground_by: str = "gamma",
        rule: RegionRule | None = None,
        save_attention: bool = False,
    ):
        if ground_by not in GROUND_BY:
            raise UserError(f"INFERENCE.GROUND_BY: expected one of {GROUND_BY}, got {ground_by!r}.")
        if beam_size < 1:
            raise UserError(f"DECODE_STRATEGY.BEAM_SIZE: expected an integer >= 1, got {beam_size}.")
        sizes = {"beam_size": beam_size, "max_seq_len": max_seq_len}
        super().__init__(vocab_path="", bert_tokenizer=None, bos_token_id=0, eos_token_id=0, **sizes)
        words = read_vocabulary(vocab_path) if vocab_path else []
        self.vocab: Any = words or None
        self.ground_by, self.rule, self.save_attention = ground_by, rule or PROTOCOL, save_attention
        self.unk_token_id = words.index(UNK) if suppress_unk and UNK in words else None

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        require_grounded_captioner(cfg, cls.__name__, "which does not keep the attention of the words")
        union, by_beta = cfg.INFERENCE.REGION_RULE == UNION, cfg.INFERENCE.GROUND_BY == "beta"
        if by_beta and not cfg.MODEL.SS_ATTENTION.ENABLED:
            raise UserError("INFERENCE.GROUND_BY is 'beta', but MODEL.SS_ATTENTION.ENABLED is False: there is no beta.")
        if union and by_beta:
            raise UserError(
                "INFERENCE.REGION_RULE union encloses the regions with the largest alpha of each branch, which "
                "INFERENCE.GROUND_BY beta would not read. Set INFERENCE.GROUND_BY: gamma, or REGION_RULE: argmax."
            )
        if union and not getattr(DECODER_REGISTRY.get(cfg.MODEL.DECODER), "HAS_BRANCHES", False):
            raise UserError(
                f"INFERENCE.REGION_RULE union encloses the regions of a decoder's branches, but MODEL.DECODER is "
                f"{cfg.MODEL.DECODER!r}, which has none. Set MODEL.DECODER: DistributedDecoder, or "
                "INFERENCE.REGION_RULE: argmax."
            )
        return {
            "vocab_path": cfg.INFERENCE.VOCAB,
            "beam_size": cfg.DECODE_STRATEGY.BEAM_SIZE,
            "max_seq_len": cfg.MODEL.MAX_SEQ_LEN,
            "suppress_unk": cfg.DECODE_STRATEGY.SUPPRESS_UNK,
            "ground_by": cfg.INFERENCE.GROUND_BY,
            "rule": region_rule(cfg),
            "save_attention": cfg.INFERENCE.SAVE_ATTENTION,
        }

    def forward(self, batched_inputs: dict, output_sents: bool, model: GroundedCaptioner) -> dict:
        """Decode a preprocessed batch; with ``output_sents``, OUTPUT contains one GroundedCaption per image."""
        if output_sents and self.vocab is None:
            raise UserError(
                "INFERENCE.VOCAB is empty, so word ids cannot be written as words. Set it to the vocabulary file, one "
                "word per line, or call the model with output_sents False."
            )
        inputs = model.encode(batched_inputs)
        out = self._forward(inputs, model)
        if output_sents:
            out[kfg.OUTPUT] = self.captions(out[keys.DECODED], inputs, self.save_attention)
        return out

    def captions(self, decoded: Decoded, batch: dict, save_attention: bool = False) -> list[Caption]:
        """``captions_from_decoding`` with this strategy's words and choice of regions."""
        choice = {"vocab": self.vocab, "ground_by": self.ground_by, "rule": self.rule}
        return captions_from_decoding(decoded, batch, save_attention=save_attention, **choice)

    def say(self, model: GroundedCaptioner, inputs: dict, rows: int, choose: Callable[[Tensor], Tensor]) -> Decoded:
        """Decode one word per row and step, until every row has ended.

        Args:
            inputs: an encoded batch with states of ``rows`` rows; updated in place.
            rows: N.
            choose: (N, V) float32 log-probabilities -> (N,) int64 words.
        """
        word = inputs[kfg.ATT_FEATS].new_full((rows,), self.bos_token_id, dtype=torch.long)
        unfinished = torch.ones_like(word, dtype=torch.bool)
        steps: list[list[Tensor]] = []
        ends = Ends(word.device, self.max_seq_len)

        def next_word(inputs: dict, t: int) -> Tensor | None:
            nonlocal unfinished
            logp = self._log_probs(inputs, model)
            word = choose(logp)
            word_logp = logp.gather(1, word.unsqueeze(1)).squeeze(1) * unfinished
            word = torch.where(unfinished, word, self.eos_token_id)
            steps.append([word, word_logp, *of_regions(inputs)])
            unfinished = unfinished & (word != self.eos_token_id)
            read = ends.read(~unfinished.any(), t)
            if read is None or not any(read):
                return word
            del steps[len(steps) - len(read) + read.index(True) + 1 :]
            return None

        each_word(model, inputs, word, self.max_seq_len, next_word)
        return self._decoded(*(torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)))

    def _log_probs(self, inputs: dict, model: GroundedCaptioner) -> Tensor:
        """(N, V) float32 log-probabilities of the next word; UNK is impossible when suppressed."""
        logp = F.log_softmax(at_least_float32(model.predictor(inputs)[kfg.G_LOGITS]), dim=-1)
        if self.unk_token_id is not None:
            logp[:, self.unk_token_id] = float("-inf")
        return logp

    def _decoded(self, sents: Tensor, logp: Tensor, *attention: Tensor) -> Decoded:
        """With words (..., t) and their log-probabilities filled on the right, so that T is always the same."""
        missing = (0, self.max_seq_len - sents.shape[-1])
        return Decoded(F.pad(sents, missing, value=self.eos_token_id), F.pad(logp, missing, value=0.0), *attention)


@DECODE_STRATEGY_REGISTRY.register()
class GroundedGreedyDecoder(GroundedDecodeStrategy):
    """The most probable word at every step; with DECODE_BY_SAMPLE a word sampled from the distribution."""

    def _forward(self, batched_inputs: dict, model: GroundedCaptioner) -> dict:
        inputs = dict(batched_inputs)
        choose = sample_words if inputs.get(kfg.DECODE_BY_SAMPLE, False) else _most_probable
        decoded = self.say(model, inputs, inputs[kfg.ATT_FEATS].shape[0], choose)
        return {**inputs, kfg.G_SENTS_IDS: decoded.sents, kfg.G_LOGP: decoded.logp, keys.DECODED: decoded}


def _most_probable(logp: Tensor) -> Tensor:
    return logp.argmax(dim=1)


@DECODE_STRATEGY_REGISTRY.register()
class GroundedBeamSearcher(GroundedDecodeStrategy):
    """Beam search over the sum of log-probabilities, without length normalisation, as in X-modaler.

    A finished beam keeps its score and can only be continued by 0. The search ends when every beam of every
    image is finished, or after MODEL.MAX_SEQ_LEN words; finished images are removed from the batch before. With
    ``OUT_SIZE`` in the batch, the best OUT_SIZE beams are returned, (B, OUT_SIZE, T); OUTPUT has only the best.
    """

    def _forward(self, batched_inputs: dict, model: GroundedCaptioner) -> dict:
        search = BeamSearch(self, model, dict(batched_inputs))
        each_word(model, search.inputs, search.word.reshape(-1), self.max_seq_len, search.next_word)
        out_size = min(int(batched_inputs.get("OUT_SIZE", 1)), search.scores.shape[1])
        paths = search.best_paths(out_size)
        best = self._decoded(*(part[:, 0] for part in paths))
        sents, logp = (best if out_size == 1 else self._decoded(*paths))[:2]
        return {kfg.IDS: batched_inputs[kfg.IDS], kfg.G_SENTS_IDS: sents, kfg.G_LOGP: logp, keys.DECODED: best}
