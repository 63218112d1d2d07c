"""The whole model: embeddings, encoder, decoder, predictor, and the collation of samples into a batch.

Letters: B images, S captions per image, N = B S captions, K regions, T words, V vocabulary size.
"""

from __future__ import annotations

import weakref
from abc import ABCMeta, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from xmodaler_ssattn.errors import UserError

from .config import CfgNode, kfg
from .configurable import configurable
from .decode_strategy import DecodeStrategy, next_logits, prepare
from .functional import expand_tensor, pad_tensor, to_device
from .registry import (
    DECODE_STRATEGY_REGISTRY,
    DECODER_REGISTRY,
    EMBEDDING_REGISTRY,
    ENCODER_REGISTRY,
    META_ARCH_REGISTRY,
    PREDICTOR_REGISTRY,
)

# Parts whose key in MODEL may be empty: then the model has none.
_PARTS = {"ENCODER": ENCODER_REGISTRY, "DECODER": DECODER_REGISTRY, "PREDICTOR": PREDICTOR_REGISTRY}


def build_model(cfg: CfgNode) -> nn.Module:
    """The architecture that ``MODEL.META_ARCHITECTURE`` names, on ``MODEL.DEVICE`` (no silent fallback to the CPU)."""
    device = torch.device(cfg.MODEL.DEVICE)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch sees no CUDA device; set MODEL.DEVICE cpu.")
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(device)


def add_config(cfg: CfgNode, tmp_cfg: CfgNode) -> None:
    """Add to ``cfg`` the keys of the parts that the raw yaml ``tmp_cfg`` (``load_from_file_tmp``) names."""
    name = tmp_cfg.get("MODEL", {}).get("META_ARCHITECTURE", "")
    if not name:
        raise UserError("The config must name MODEL.META_ARCHITECTURE, but has no such key or is empty.")
    META_ARCH_REGISTRY.get(name).add_config(cfg, tmp_cfg)


# Sample key -> padding value. Everything else in a sample is left out of the batch, as in upstream.
_PADDED = {
    **dict.fromkeys((kfg.ATT_FEATS_LOC, kfg.GLOBAL_FEATS, kfg.V_TARGET, kfg.G_TOKENS_IDS), 0),
    **{kfg.G_TARGET_IDS: -1, kfg.G_TOKENS_TYPE: 1},
}
# One row per image in the samples, one row per caption in a training batch.
_REPEATED = (kfg.ATT_FEATS, kfg.ATT_MASKS, kfg.ATT_FEATS_LOC, kfg.GLOBAL_FEATS)


class BaseEncoderDecoder(nn.Module, metaclass=ABCMeta):
    """The parts of a caption model; a subclass implements the teacher-forced pass, ``_forward``."""

    @configurable
    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        token_embed: nn.Module,
        visual_embed: nn.Module,
        encoder: nn.Module | None,
        decoder: nn.Module | None,
        predictor: nn.Module | None,
        greedy_decoder: DecodeStrategy,
        beam_searcher: DecodeStrategy,
    ) -> None:
        super().__init__()
        self.token_embed, self.visual_embed = token_embed, visual_embed
        self.encoder, self.decoder, self.predictor = encoder, decoder, predictor
        self.greedy_decoder, self.beam_searcher = greedy_decoder, beam_searcher
        self.vocab_size, self.max_seq_len = vocab_size, max_seq_len

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        # The order of these lines determines the random initial weights; it is the same as upstream's.
        return {
            "token_embed": EMBEDDING_REGISTRY.get(cfg.MODEL.TOKEN_EMBED.NAME)(cfg),
            "visual_embed": EMBEDDING_REGISTRY.get(cfg.MODEL.VISUAL_EMBED.NAME)(cfg),
            **{key.lower(): registry.build(cfg.MODEL[key], cfg) for key, registry in _PARTS.items()},
            "greedy_decoder": DECODE_STRATEGY_REGISTRY.get("GreedyDecoder")(cfg),
            "beam_searcher": DECODE_STRATEGY_REGISTRY.get(cfg.DECODE_STRATEGY.NAME)(cfg),
            "vocab_size": cfg.MODEL.VOCAB_SIZE,
            "max_seq_len": cfg.MODEL.MAX_SEQ_LEN,
        }

    @classmethod
    def add_config(cls, cfg: CfgNode, tmp_cfg: CfgNode) -> None:
        for key, registry in _PARTS.items():
            name = tmp_cfg.MODEL.get(key, cfg.MODEL[key])
            if name:
                registry.get(name).add_config(cfg)

    @abstractmethod
    def get_extended_attention_mask(self, batched_inputs: dict[str, Any]) -> dict[str, Tensor | None]:
        """Masks to add to attention scores, from the 0/1 masks of the batch."""

    @abstractmethod
    def _forward(self, batched_inputs: dict[str, Any]) -> dict[str, Any]:
        """Teacher forcing: the batch with ``G_LOGITS`` (N, T, V) added."""

    def forward(
        self, batched_inputs: dict[str, Any], use_beam_search: bool | None = None, output_sents: bool = False
    ) -> dict[str, Any]:
        """``use_beam_search`` None: teacher forcing; False, or a beam of one: greedy; True: beam search."""
        if use_beam_search is None:
            return self._forward(batched_inputs)
        if not use_beam_search or self.beam_searcher.beam_size == 1:
            return self.greedy_decode(batched_inputs, output_sents)
        return self.decode_beam_search(batched_inputs, output_sents)

    def bind_or_init_weights(self) -> None:
        """Called before training, after weights were loaded."""

    def preprocess_batch(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad and stack the samples, on the model's device. Training samples (with ``SEQ_PER_SAMPLE``) give N rows.

        ``V_TARGET`` stays at B rows, and sample keys that are not known here are left out (both as in upstream).
        """
        first = batched_inputs[0]
        feats, masks = pad_tensor([sample[kfg.ATT_FEATS] for sample in batched_inputs], 0, use_mask=True)
        batch: dict[str, Any] = {kfg.ATT_FEATS: feats, kfg.ATT_MASKS: masks}
        for key, padding in _PADDED.items():
            if key in first:
                batch[key] = pad_tensor([sample[key] for sample in batched_inputs], padding, use_mask=False)
        if kfg.G_TOKENS_IDS in first:
            batch[kfg.TOKENS_MASKS] = pad_tensor([sample[kfg.G_TOKENS_IDS] for sample in batched_inputs], 0, True)[1]

        batch = to_device(batch, next(self.parameters()).device)
        captions = int(first.get(kfg.SEQ_PER_SAMPLE, 1))
        for key in _REPEATED:
            if key in batch:
                batch[key] = expand_tensor(batch[key], captions)
        if kfg.IDS in first:
            batch[kfg.IDS] = [sample[kfg.IDS] for sample in batched_inputs for _ in range(captions)]
        return batch

    def greedy_decode(self, batched_inputs: dict[str, Any], output_sents: bool = False) -> dict[str, Any]:
        """One sentence per image, word by word."""
        return self.greedy_decoder(batched_inputs, output_sents, model=weakref.proxy(self))

    def decode_beam_search(self, batched_inputs: dict[str, Any], output_sents: bool = False) -> dict[str, Any]:
        """One sentence per image by the strategy that ``DECODE_STRATEGY.NAME`` names."""
        return self.beam_searcher(batched_inputs, output_sents, model=weakref.proxy(self))


@META_ARCH_REGISTRY.register()
class RnnAttEncoderDecoder(BaseEncoderDecoder):
    """A recurrent decoder with attention; its input are the reference words or, in scheduled sampling, its own."""

    def get_extended_attention_mask(self, batched_inputs: dict[str, Any]) -> dict[str, Tensor | None]:
        """``EXT_ATT_MASKS`` (N, K): 0 on regions, -10000 on padding."""
        if (masks := batched_inputs.get(kfg.ATT_MASKS)) is None:
            return {kfg.ATT_MASKS: None, kfg.EXT_ATT_MASKS: None}
        masks = masks.to(next(self.parameters()).dtype)
        return {kfg.ATT_MASKS: masks, kfg.EXT_ATT_MASKS: (1.0 - masks) * -10000.0}

    def _forward(self, batched_inputs: dict[str, Any]) -> dict[str, Any]:
        """``G_TOKENS_IDS`` (N, T) in the result are still the reference words; logits of the padded tail are 0."""
        tokens = batched_inputs[kfg.G_TOKENS_IDS]
        ss_prob = batched_inputs.get(kfg.SS_PROB, 0.0) if self.training else 0.0
        inputs = prepare(batched_inputs, self)
        seq_len = tokens.size(1)
        steps: list[Tensor] = []
        for t in range(seq_len):
            if t > 0 and not tokens[:, t].any():
                break
            words = tokens[:, t]
            if t > 0 and ss_prob > 0:
                words = self._mix_own_words(words, steps[-1], ss_prob)
            steps.append(next_logits(inputs, self, words))

        steps += [torch.zeros_like(steps[0])] * (seq_len - len(steps))
        return {**inputs, kfg.G_LOGITS: torch.stack(steps, dim=1), kfg.G_TOKENS_IDS: tokens}

    @staticmethod
    def _mix_own_words(words: Tensor, last_logits: Tensor, ss_prob: float) -> Tensor:
        """Replace each word with probability ``ss_prob`` by one sampled from the last step's distribution.

        The order of random numbers is upstream's.
        """
        replaced = torch.rand(words.shape, device=words.device) < ss_prob
        if not replaced.any():
            return words
        sampled = torch.multinomial(last_logits.detach().softmax(-1), 1).squeeze(1)
        return torch.where(replaced, sampled, words)
