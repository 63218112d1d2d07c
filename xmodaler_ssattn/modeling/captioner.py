"""GroundedCaptioner: the meta-architecture that passes positions, class probabilities and sigma on.

X-modaler's own meta-architecture copies only the batch keys that it knows, so that p, c, sigma and the pixel
boxes would not reach the decoder and the losses. This one collates exactly the keys of ``keys.py``, runs
on the device of its parameters, and decodes GroundedCaptions.

Letters: B images, S captions per image, N = B S, K regions, E embedded feature size, M words to predict in all,
H hidden size, V vocabulary.
"""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import add_ssattn_config, completed
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import (
    DECODE_STRATEGY_REGISTRY,
    META_ARCH_REGISTRY,
    BaseEncoderDecoder,
    BasePredictor,
    Encoder,
    UpDownEncoder,
    VisualBaseEmbedding,
    configurable,
    kfg,
)
from xmodaler_ssattn.modeling import word_list
from xmodaler_ssattn.modeling.accelerators import ATTACHED
from xmodaler_ssattn.modeling.collate import collate
from xmodaler_ssattn.modeling.dead_units import DeadUnitWatch
from xmodaler_ssattn.modeling.decoder import SSAttentionDecoder
from xmodaler_ssattn.modeling.definition import follows
from xmodaler_ssattn.modeling.forcing import WordStates, forced_references, word_states
from xmodaler_ssattn.modeling.grounded_decoder import GroundedDecoder
from xmodaler_ssattn.modeling.sampling import sample_words
from xmodaler_ssattn.modeling.searchers import GroundedDecodeStrategy
from xmodaler_ssattn.modeling.ss_attention import extended_mask
from xmodaler_ssattn.modeling.visual_embed import SpatialSemanticEmbedding
from xmodaler_ssattn.partners import losses_of
from xmodaler_ssattn.precision import at_least_float32

# Visual embeddings and decoders that a batch with one row per image and IMAGE_OF_ROW suits, see ``encodes_per_image``;
# the classes of ``methods/`` that do are added there.
ENCODE_ONCE: list[type[nn.Module]] = [VisualBaseEmbedding, SpatialSemanticEmbedding, SSAttentionDecoder]


@META_ARCH_REGISTRY.register()
class GroundedCaptioner(BaseEncoderDecoder):
    """Embeddings, encoder, decoder and predictor of the host, with our batch contract and decoders.

    Built by the host's ``build_model(cfg)``. The constructor has the host's keyword arguments
    ``vocab_size, max_seq_len, token_embed, visual_embed, encoder, decoder, predictor, greedy_decoder,
    beam_searcher``, and these:

    Args:
        gt_attention: in evaluation also force the reference captions (INFERENCE.GT_ATTENTION).
        amp: products in bfloat16 (SOLVER.AMP); parameters, states, softmax and losses stay float32.
        share_region_dropout: one mask per image on the embedded regions (MODEL.SHARE_REGION_DROPOUT).
        capture_graphs: replay training steps of one shape as graphs (MODEL.CAPTURE_GRAPHS; only on CUDA).
        fuse_loss: return the cross-entropy instead of the logits (LOSSES.NAMES contains FusedCrossEntropy).
    """

    # Checked by SSAttentionDecoder: batches of this class contain p, c and V.
    carries_region_inputs = True

    # --- building, and weights ---
    @configurable
    def __init__(
        self,
        *,
        gt_attention: bool = False,
        amp: bool = False,
        share_region_dropout: bool = False,
        fuse_loss: bool = False,
        capture_graphs: bool = False,
        **modules: Any,
    ) -> None:
        super().__init__(**modules)
        if fuse_loss and not self.predicts_from_state:
            raise UserError(
                "LOSSES.NAMES contains FusedCrossEntropy, which uses the predictor's matrix directly and therefore "
                f"needs BasePredictor, got {type(self.predictor).__name__}. Use CrossEntropy."
            )
        if not isinstance(self.decoder, GroundedDecoder):
            raise UserError(
                "MODEL.DECODER: GroundedCaptioner needs a decoder that returns the attention of every word, derived "
                f"from GroundedDecoder as SSAttentionDecoder is, got {type(self.decoder).__name__}. For the plain "
                "Up-Down decoder set MODEL.DECODER: SSAttentionDecoder and MODEL.SS_ATTENTION.ENABLED: False; weights "
                "of the stock decoder can be loaded there."
            )
        self.gt_attention, self.amp = gt_attention, amp
        self.share_region_dropout, self.fuse_loss = share_region_dropout, fuse_loss
        self.fast_forcing: Any = ATTACHED.forcing(capture_graphs) if ATTACHED.forcing is not None else None
        self.dead_units = DeadUnitWatch()
        self.words_sha256 = word_list.words_sha256((self.greedy_decoder.vocab or [])[1:])  # without the end mark
        self.register_load_state_dict_post_hook(word_list.accept_weights_without)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        searcher = DECODE_STRATEGY_REGISTRY.get(cfg.DECODE_STRATEGY.NAME)
        if not issubclass(searcher, GroundedDecodeStrategy):
            raise UserError(
                f"DECODE_STRATEGY.NAME: GroundedCaptioner needs a decoder that keeps the attention of every word, "
                f"got {cfg.DECODE_STRATEGY.NAME!r}. Set DECODE_STRATEGY.NAME: GroundedBeamSearcher."
            )
        word_list.check_vocabulary(cfg)
        if torch.device(cfg.MODEL.DEVICE).type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = cfg.MODEL.TF32  # here, because both hosts and all commands pass it
        arguments = super().from_config(cfg)
        words = word_list.words_sha256((arguments["beam_searcher"].vocab or [])[1:])
        word_list.check_words(cfg.MODEL.VOCABULARY_SHA256, words, "MODEL.VOCABULARY_SHA256 of the config")
        return {
            **arguments,
            # The host builds its greedy decoder by the fixed name "GreedyDecoder", which does not suppress UNK.
            "greedy_decoder": DECODE_STRATEGY_REGISTRY.get("GroundedGreedyDecoder")(cfg),
            "gt_attention": cfg.INFERENCE.GT_ATTENTION,
            "amp": cfg.SOLVER.AMP,
            "share_region_dropout": cfg.MODEL.SHARE_REGION_DROPOUT,
            "capture_graphs": cfg.MODEL.CAPTURE_GRAPHS,
            "fuse_loss": bool(losses_of(cfg, "FusedCrossEntropy")),
        }

    @classmethod
    def add_config(cls, cfg: Any, tmp_cfg: Any) -> None:
        super().add_config(cfg, tmp_cfg)
        add_ssattn_config(cfg)

    def get_extra_state(self) -> Tensor:
        """The word list's digest, saved with the weights; see ``word_list.py``."""
        return word_list.to_state(self.words_sha256)

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse weights of another word list; called by ``load_state_dict``."""
        trained = word_list.from_state(state)
        word_list.check_words(trained, self.words_sha256, "The weights")
        self.words_sha256 = self.words_sha256 or trained

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # --- a batch, its encoding, and a step ---
    def preprocess_batch(self, batched_inputs: list[dict]) -> dict:
        """Samples of the mapper -> one batch on the model's device; see ``collate``.

        A tensor that a derived class adds has one row per image, one row per caption, or does not depend on the batch.
        """
        return collate(batched_inputs, self.device)

    def get_extended_attention_mask(self, batched_inputs: dict) -> dict:
        """EXT_ATT_MASKS (B, K): 0 for a region, -1e4 for padding; None when no image is padded."""
        mask = batched_inputs[kfg.ATT_MASKS]
        padded = min(batched_inputs[keys.NUM_REGIONS]) < mask.shape[1]
        return {kfg.ATT_MASKS: mask, kfg.EXT_ATT_MASKS: extended_mask(mask) if padded else None}

    def encode(self, batched_inputs: dict, images: Tensor | None = None) -> dict:
        """The computation that is done once per image, before the first word.

        Args:
            batched_inputs: from ``preprocess_batch``. A dict that is already encoded is returned unchanged.
            images: (N,) the image of each caption, for training if ``encodes_per_image``. Features then have one row
                per caption, with a dropout of its own as in the stock model (with ``share_region_dropout``, that of
                its image). Without ``images`` they have one row per image, which captions or beams share.

        Returns:
            a new dict with ATT_FEATS, GLOBAL_FEATS, P_ATT_FEATS, the states, LOG_BETA (one row per image)
            and BETA.
        """
        if keys.RAW_FEATS in batched_inputs:
            return batched_inputs
        if images is not None and self.share_region_dropout:
            once = self.encode(batched_inputs)
            rows = {key: once[key][images] for key in self.decoder.READ_PER_STEP if once.get(key) is not None}
            return {**once, **rows, keys.IMAGE_OF_ROW: images}
        inputs = {**batched_inputs, **self.get_extended_attention_mask(batched_inputs)}
        inputs[keys.RAW_FEATS] = inputs[kfg.ATT_FEATS]
        inputs[keys.IMAGE_MASK], inputs[keys.IMAGE_EXT_MASK] = inputs[kfg.ATT_MASKS], inputs[kfg.EXT_ATT_MASKS]
        inputs[keys.IMAGE_OF_ROW] = images
        # X-modaler's order of the same five numbers, for embeddings that add a location.
        x1, x2, y1, rest = inputs[keys.SPATIAL].split((1, 1, 1, 2), dim=-1)
        inputs[kfg.ATT_FEATS_LOC] = torch.cat((x1, y1, x2, rest), dim=-1)
        inputs.update(self._embed_regions(inputs, images))
        if images is not None:
            for key in (kfg.ATT_MASKS, kfg.EXT_ATT_MASKS):
                if inputs[key] is not None:
                    inputs[key] = inputs[key][images]
        inputs.update(self.encoder(inputs, mode="v"))
        return self.decoder.preprocess(inputs)

    def _embed_regions(self, inputs: dict, images: Tensor | None) -> dict:
        """The embedding's output, with ATT_FEATS (B, K, E), or (N, K, E) with one row per entry of ``images``."""
        embed = self.visual_embed
        if images is None:
            return embed(inputs)
        # Everything except the dropout, once per image.
        dropout, embed.embeddings_dropout = embed.embeddings_dropout, None
        try:
            once = embed(inputs)[kfg.ATT_FEATS]
        finally:
            embed.embeddings_dropout = dropout
        repeated = once[images]
        return {kfg.ATT_FEATS: dropout(repeated) if dropout is not None else repeated}

    def with_rows(self, inputs: dict, rows: int) -> dict:
        """A copy of an encoded batch with initial states of ``rows`` rows (captions of all images)."""
        return {**inputs, **self.decoder.first_states(inputs, rows)}

    def step(self, inputs: dict, word: Tensor, t: int) -> None:
        """Advance the decoder by one word; updates ``inputs`` (the caller's own dict) in place.

        Args:
            word: (N,) int64 ids of the current word.
            t: the step, for embeddings that use positions.
        """
        inputs.update(self.token_embed({kfg.G_TOKENS_IDS: word, kfg.TIME_STEP: t}))
        inputs.update(self.encoder(inputs, mode="t"))
        inputs.update(self.decoder(inputs))

    # --- training ---
    def forward(self, batched_inputs: dict, use_beam_search: bool | None = None, output_sents: bool = False) -> dict:
        """The host's interface: losses' inputs when ``use_beam_search`` is None, else decoding.

        With ``use_beam_search`` True and ``output_sents`` (the stock test loop's only call), OUTPUT contains
        one GroundedCaption per image from beam search (a Caption, if the decoder has no attention), which also has
        the greedy caption, and the forced references if INFERENCE.GT_ATTENTION is True and the dataset supplies them.
        The image is encoded once for all three.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            if use_beam_search is None:
                return self._forward(batched_inputs)
            return self._decode(batched_inputs, use_beam_search, output_sents)

    def _forward(self, batched_inputs: dict) -> dict:
        """Teacher forcing, with scheduled sampling when SS_PROB is above 0 in training.

        Returns:
            the batch with G_LOGITS (M, V), G_TARGET_IDS (M,) and CAPTION_OF_WORD (M,), without padding, and LOG_BETA
            for the grounding loss. With ``fuse_loss``, CROSS_ENTROPY replaces G_LOGITS. With WORD_PAIRS in the batch
            also WORD_ALPHA and WORD_GAMMA (M, K).
        """
        ss_prob = float(batched_inputs.get(kfg.SS_PROB, 0.0)) if self.training else 0.0
        states = self.fast_forcing(self, batched_inputs, ss_prob) if self.fast_forcing is not None else None
        if states is None:
            states = word_states(self, batched_inputs, ss_prob)
        if self.training and getattr(self.decoder, "ss_attention", None) is not None:
            slots = self.decoder.slots(states.inputs)
            self.dead_units(self.decoder.ss_attention, slots, states.inputs[keys.IMAGE_MASK])
        targets = batched_inputs[kfg.G_TARGET_IDS].reshape(-1)[states.words]
        outputs = {
            **states.inputs,
            **self._predict(states, targets),
            **states.supervised(),
            **states.further,
            kfg.G_TARGET_IDS: targets,
            keys.CAPTION_OF_WORD: states.captions,
        }
        return outputs | self.further_outputs(batched_inputs, states, outputs)

    def further_outputs(self, batch: dict, states: WordStates, outputs: dict) -> dict:
        """What the losses of a derived captioner read in addition to ``outputs``, those of ``_forward`` so far."""
        return {}

    def _predict(self, states: WordStates, targets: Tensor) -> dict:
        """G_LOGITS (M, V) of M words, or their CROSS_ENTROPY ()."""
        predictor, hidden, fused = self.predictor, states.hidden, ATTACHED.linear_cross_entropy
        if self.fuse_loss and fused is not None and self.predicts_from_state:
            layer = predictor.logits
            if follows(layer, nn.Linear) and layer.bias is not None:
                hidden = hidden if predictor.dropout is None else predictor.dropout(hidden)
                return {keys.CROSS_ENTROPY: fused(hidden, layer.weight, layer.bias, targets)}
        logits = predictor({kfg.G_HIDDEN_STATES: hidden})[kfg.G_LOGITS] if states.logits is None else states.logits
        logits = at_least_float32(logits)
        # If another layer has replaced the predictor's own: the same loss, but without saving memory.
        return {keys.CROSS_ENTROPY: F.cross_entropy(logits, targets)} if self.fuse_loss else {kfg.G_LOGITS: logits}

    @torch.no_grad()
    def sample_words(self, hidden: Tensor) -> Tensor:
        """(n, H) states of the language LSTM -> (n,) words sampled from the model's distribution."""
        # Autocast must not cache the weights that it converts here: older versions of torch would use these copies,
        # which have no gradient, for training, and never train the predictor.
        kind = hidden.device.type
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False) if self.amp else nullcontext():
            return sample_words(self.predictor({kfg.G_HIDDEN_STATES: hidden})[kfg.G_LOGITS])

    # --- which parts compute what their class defines, so that another way gives the same ---
    @property
    def predicts_from_state(self) -> bool:
        """Whether the predictor reads only the language LSTM's state of a step."""
        return follows(self.predictor, BasePredictor)

    @property
    def encodes_per_image(self) -> bool:
        """Whether training may encode an image once for all its captions.

        This requires that all parts that read the batch are ours. Any other part gets one row per caption of
        everything in training, and one row per image in decoding; see ``forcing.encoded_rows``.
        """
        ours = ("encode", "_embed_regions", "get_extended_attention_mask", "step", "with_rows")
        decoder = self.decoder
        return (
            follows(self, GroundedCaptioner, *ours)
            and any(follows(self.visual_embed, known) for known in ENCODE_ONCE)
            and (any(follows(decoder, known) for known in ENCODE_ONCE) or getattr(decoder, "encodes_per_image", False))
            and self.encoder_skips_words
            and self.predicts_from_state
        )

    @property
    def encoder_skips_words(self) -> bool:
        """Whether the encoder has no computation per word: one of the host's, or a class that says so.

        Such a class has ``skips_words = True`` in its own body: a class derived from it may add a computation per word.
        """
        kind = type(self.encoder)
        own = (kind,) if vars(kind).get("skips_words") else ()
        return any(follows(self.encoder, definition) for definition in (UpDownEncoder, Encoder, *own))

    # --- decoding ---
    def _decode(self, batched_inputs: dict, use_beam_search: bool, output_sents: bool) -> dict:
        inputs = self.encode(batched_inputs)
        if use_beam_search and not output_sents:
            return self.decode_beam_search(inputs)
        out = greedy = self.greedy_decode(inputs, output_sents)
        if not use_beam_search:
            return greedy
        if self.beam_searcher.beam_size > 1:
            out = self.decode_beam_search(inputs, True)
        references = [()] * len(out[kfg.OUTPUT])
        if self.gt_attention and keys.REF_TOKENS_IDS in inputs:
            references = forced_references(self, inputs)
        companions = zip(out[kfg.OUTPUT], greedy[kfg.OUTPUT], references, strict=True)
        captions = [best.with_companions(greedy=plain, references=forced) for best, plain, forced in companions]
        return {**out, kfg.OUTPUT: captions}

    def greedy_decode(self, batched_inputs: dict, output_sents: bool = False) -> dict:
        return self.greedy_decoder(batched_inputs, output_sents, model=weakref.proxy(self))

    def decode_beam_search(self, batched_inputs: dict, output_sents: bool = False) -> dict:
        return self.beam_searcher(batched_inputs, output_sents, model=weakref.proxy(self))
