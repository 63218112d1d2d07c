"""SSAttentionDecoder: the Up-Down decoder whose attention is gamma = alpha + lambda beta.

Letters: B images, R rows (captions or beams) per image, N = B R, K regions, C classes, D raw feature
size, E embedded feature size, A attention size, H hidden size.

Rows share their image's features: ATT_FEATS is (B, K, E), the states are (N, H), and nothing is copied for rows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import add_ss_attention_config, completed
from xmodaler_ssattn.errors import raise_all
from xmodaler_ssattn.host import DECODER_REGISTRY, configurable, kfg
from xmodaler_ssattn.modeling.fusions import FUSIONS, StateCondition, fuse_log
from xmodaler_ssattn.modeling.grounded_decoder import GroundedDecoder
from xmodaler_ssattn.modeling.ss_attention import (
    ACTIVATIONS,
    SPATIAL_SIZE,
    SpatialSemanticAttention,
    TopDownAttention,
    fuse,
    pool,
)
from xmodaler_ssattn.partners import needs_grounded_captioner

# The batch key that the slot reads for each value of SPATIAL_INPUT and of SEMANTIC_INPUT.
SPATIAL_SLOT = {"p": keys.SPATIAL, "v": keys.RAW_FEATS}
SEMANTIC_SLOT = {"c": keys.CLASS_PROBS, "v": keys.RAW_FEATS}
_CHOICES: dict[str, Collection[str]] = {
    "activation": ACTIVATIONS,
    "spatial_input": SPATIAL_SLOT,
    "semantic_input": SEMANTIC_SLOT,
    "fusion": FUSIONS,
}


@DECODER_REGISTRY.register()
class SSAttentionDecoder(GroundedDecoder):
    """Two LSTMs with Spatial-Semantic Attention between them (sections 2.1 and 2.2, Fig. 2).

    Modules and parameters of the stock UpDownDecoder have the same names and are created in the same order
    here, so that its weights can be loaded and the same seed gives both equal weights. The spatial-semantic
    part has its own generator.

    Args:
        hidden_size, token_embed_dim, visual_embed_dim, att_embed_size: H, width of the word embedding, E, A (512).
        dropout1, dropout2: on the inputs of the attention LSTM and of the language LSTM.
        att_embed_dropout, activation: see ``TopDownAttention``.
        lambda_: weight of beta in gamma; unused without ``ss_attention``.
        spatial_input, semantic_input: the inputs of the slots, ``p`` or ``v``, and ``c`` or ``v``.
        ss_attention: the module that computes log beta, or None for the Up-Down baseline.
        fusion: ``sum``, the paper's gamma = alpha + lambda beta, or ``log``, softmax(a + kappa log beta) with a
            learned kappa that starts at 1.
        state_condition: the module that turns beta into beta_t, or None.
        renormalize: with ``sum``, divide gamma by 1 + lambda.
        visual_bias: give W_v a bias, as the stock decoder does; the paper's equation has none.
    """

    READ_PER_STEP = (
        kfg.ATT_FEATS, kfg.P_ATT_FEATS, kfg.GLOBAL_FEATS, kfg.ATT_MASKS, kfg.EXT_ATT_MASKS,
        keys.BETA, keys.ROW_LOG_BETA, keys.STATE_KEYS,
    )  # fmt: skip

    @configurable
    def __init__(
        self,
        *,
        hidden_size: int,
        token_embed_dim: int,
        visual_embed_dim: int,
        att_embed_size: int,
        dropout1: float = 0.0,
        dropout2: float = 0.0,
        att_embed_dropout: float = 0.0,
        activation: str = "relu",
        lambda_: float = 0.5,
        spatial_input: str = "p",
        semantic_input: str = "c",
        ss_attention: SpatialSemanticAttention | None = None,
        fusion: str = "sum",
        state_condition: StateCondition | None = None,
        renormalize: bool = False,
        visual_bias: bool = True,
    ):
        super().__init__()
        chosen = {"spatial_input": spatial_input, "semantic_input": semantic_input, "fusion": fusion}
        for name, value in chosen.items():
            if value not in _CHOICES[name]:
                raise ValueError(f"SSAttentionDecoder: {name} must be one of {tuple(_CHOICES[name])}, got {value!r}.")
        self.num_layers, self.hidden_size = 2, hidden_size
        self.lambda_, self.renormalize = lambda_, renormalize
        self.spatial_input, self.semantic_input = spatial_input, semantic_input
        self.lstm1 = nn.LSTMCell(hidden_size + token_embed_dim + visual_embed_dim, hidden_size)
        self.dropout1 = nn.Dropout(dropout1)
        self.lstm2 = nn.LSTMCell(hidden_size + visual_embed_dim, hidden_size)
        self.dropout2 = nn.Dropout(dropout2)
        self.att = TopDownAttention(
            hidden_size=hidden_size,
            att_embed_size=att_embed_size,
            att_embed_dropout=att_embed_dropout,
            activation=activation,
        )
        self.p_att_feats = nn.Linear(visual_embed_dim, att_embed_size, bias=visual_bias)
        self.ss_attention = ss_attention
        self.kappa = nn.Parameter(torch.ones(())) if ss_attention is not None and fusion == "log" else None
        self.state_condition = state_condition

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        _check(cfg)
        ss, updown = cfg.MODEL.SS_ATTENTION, cfg.MODEL.UPDOWN
        raw = cfg.MODEL.VISUAL_EMBED.IN_DIM
        semantic_size = ss.NUM_CLASSES if ss.SEMANTIC_INPUT == "c" else raw
        # initial_seed() returns the run's seed and does not change the generator.
        seed = ss.SEED if ss.SEED >= 0 else torch.initial_seed()
        ss_attention = state_condition = None
        if ss.ENABLED:
            ss_attention = SpatialSemanticAttention(
                spatial_size=SPATIAL_SIZE if ss.SPATIAL_INPUT == "p" else raw,
                semantic_size=semantic_size,
                dim=ss.DIM,
                bias=ss.BIAS,
                positive_bias_init=ss.POSITIVE_BIAS_INIT,
                seed=seed,
            )
        if ss.ENABLED and ss.STATE_DIM > 0:
            state_condition = StateCondition(
                hidden_size=cfg.MODEL.DECODER_DIM, semantic_size=semantic_size, dim=ss.STATE_DIM, seed=seed
            )
        return {
            "hidden_size": cfg.MODEL.DECODER_DIM,
            "token_embed_dim": cfg.MODEL.TOKEN_EMBED.DIM,
            "visual_embed_dim": cfg.MODEL.VISUAL_EMBED.OUT_DIM,
            "att_embed_size": updown.ATT_EMBED_SIZE,
            "dropout1": updown.DROPOUT1,
            "dropout2": updown.DROPOUT2,
            "att_embed_dropout": updown.ATT_EMBED_DROPOUT,
            "activation": ss.ACTIVATION,
            "lambda_": ss.LAMBDA,
            "spatial_input": ss.SPATIAL_INPUT,
            "semantic_input": ss.SEMANTIC_INPUT,
            "ss_attention": ss_attention,
            "fusion": ss.FUSION,
            "state_condition": state_condition,
            "renormalize": ss.RENORMALIZE,
            "visual_bias": ss.VISUAL_BIAS,
        }

    @classmethod
    def add_config(cls, cfg: Any) -> None:
        add_ss_attention_config(cfg)

    @classmethod
    def reads(cls, cfg: Any) -> set[str]:
        """The sample keys that its slots read in addition to ATT_FEATS; see ``data/inputs.py``."""
        ss = cfg.MODEL.SS_ATTENTION
        slots = {SPATIAL_SLOT[ss.SPATIAL_INPUT], SEMANTIC_SLOT[ss.SEMANTIC_INPUT]} if ss.ENABLED else set()
        return slots - {keys.RAW_FEATS}

    def preprocess(self, batched_inputs: dict) -> dict:
        """A new dict with everything that does not depend on the step: P_ATT_FEATS (W_v v_i), zero states, and beta.

        Reads ATT_FEATS with one row per image or per caption (then IMAGE_OF_ROW has their images) and, for
        active slots, RAW_FEATS, SPATIAL or CLASS_PROBS, always one row per image: beta is computed once. LOG_BETA has
        one row per image; BETA, ROW_LOG_BETA and, for a beta_t, STATE_KEYS have one row per feature row.
        """
        feats = batched_inputs[kfg.ATT_FEATS]
        inputs = dict(batched_inputs)
        inputs[kfg.P_ATT_FEATS] = self.p_att_feats(feats)
        inputs.update(self.initial_states(feats, feats.shape[0]))
        if self.ss_attention is not None:
            spatial, semantic = self.slots(inputs)
            log_beta = self.ss_attention(spatial, semantic, inputs.get(keys.IMAGE_EXT_MASK))
            inputs[keys.LOG_BETA] = log_beta
            images = inputs.get(keys.IMAGE_OF_ROW)
            rows = {keys.BETA: log_beta.exp(), keys.ROW_LOG_BETA: log_beta}
            if self.state_condition is not None:
                rows[keys.STATE_KEYS] = self.state_condition.keys(semantic)
            inputs.update(rows if images is None else {key: value[images] for key, value in rows.items()})
        return inputs

    def slots(self, inputs: dict) -> tuple[Tensor, Tensor]:
        """The inputs of the spatial and the semantic slot: ((B, K, 5 or D), (B, K, C or D))."""
        spatial_key, semantic_key = SPATIAL_SLOT[self.spatial_input], SEMANTIC_SLOT[self.semantic_input]
        missing = [key for key in (spatial_key, semantic_key) if key not in inputs]
        if missing:
            raise KeyError(
                f"SSAttentionDecoder needs {', '.join(missing)} in the batch. The meta-architecture "
                "GroundedCaptioner with the dataset Flickr30kEntitiesDataset provides them; X-modaler's own "
                "RnnAttEncoderDecoder drops keys that it does not know. Set MODEL.META_ARCHITECTURE: GroundedCaptioner."
            )
        return inputs[spatial_key], inputs[semantic_key]

    def initial_states(self, like: Tensor, rows: int) -> dict:
        """Zero hidden and cell states of both LSTMs, ``rows`` rows, device and dtype of ``like``."""
        return {
            key: [like.new_zeros(rows, self.hidden_size) for _ in range(self.num_layers)]
            for key in (kfg.G_HIDDEN_STATES, kfg.G_CELL_STATES)
        }

    def forward(self, batched_inputs: dict) -> dict:
        """One word: reads the word embedding and the states, returns the new states, alpha and gamma.

        Reads G_TOKEN_EMBED (N, word embedding), GLOBAL_FEATS (B, E), ATT_FEATS (B, K, E), P_ATT_FEATS
        (B, K, A), EXT_ATT_MASKS (B, K) or None, the states [(N, H), (N, H)], and when enabled BETA and
        ROW_LOG_BETA (B, K), and STATE_KEYS.

        Returns:
            G_HIDDEN_STATES and G_CELL_STATES, lists of two (N, H); ALPHA and GAMMA (N, K), except with GIVEN_V_HAT
            (N, E) in the inputs, which replaces the attention.
        """
        word = batched_inputs[kfg.G_TOKEN_EMBED]
        h1, h2 = batched_inputs[kfg.G_HIDDEN_STATES]
        c1, c2 = batched_inputs[kfg.G_CELL_STATES]
        rows = word.shape[0] // batched_inputs[kfg.ATT_FEATS].shape[0]
        mean_feats = batched_inputs[kfg.GLOBAL_FEATS]
        if rows > 1:
            mean_feats = mean_feats.repeat_interleave(rows, dim=0)
        h1, c1 = self.lstm1(self.dropout1(torch.cat([h2, mean_feats, word], dim=1)), (h1, c1))

        attention: dict[str, Tensor] = {}
        v_hat = batched_inputs.get(keys.GIVEN_V_HAT)
        if v_hat is None:
            v_hat, attention = self.attend(h1, batched_inputs)

        h2, c2 = self.lstm2(self.dropout2(torch.cat([v_hat, h1], dim=1)), (h2, c2))
        return {kfg.G_HIDDEN_STATES: [h1, h2], kfg.G_CELL_STATES: [c1, c2], **attention}

    def attend(self, h1: Tensor, inputs: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """v-hat_t (N, E), and ALPHA and GAMMA (N, K), from the attention LSTM's state (N, H)."""
        scores = self.att.scores(h1, inputs[kfg.P_ATT_FEATS], inputs.get(kfg.EXT_ATT_MASKS))
        alpha, gamma, v_hat = self.pooled(scores, h1, inputs)
        return v_hat.flatten(0, 1), {keys.ALPHA: alpha.flatten(0, 1), keys.GAMMA: gamma.flatten(0, 1)}

    def pooled(self, scores: Tensor, h1: Tensor | None, inputs: dict) -> tuple[Tensor, Tensor, Tensor]:
        """alpha_t, gamma_t (B, R, K) and v-hat_t (B, R, E) from masked scores (B, R, K).

        Args:
            h1: (N, H), only read for a beta_t.
        """
        feats = inputs[kfg.ATT_FEATS]
        alpha = F.softmax(scores, dim=-1)
        gamma = alpha if self.ss_attention is None else self._fuse(scores, alpha, h1, inputs)
        return alpha, gamma, pool(gamma.to(feats.dtype), feats)

    def _fuse(self, scores: Tensor, alpha: Tensor, h1: Tensor | None, inputs: dict) -> Tensor:
        """gamma_t (B, R, K) from a_t, alpha_t (B, R, K), beta, and for a beta_t the state (N, H)."""
        if self.state_condition is None and self.kappa is None:
            gamma = fuse(alpha, inputs[keys.BETA].to(alpha.dtype), self.lambda_)
        else:
            log_beta = inputs[keys.ROW_LOG_BETA].to(alpha.dtype)
            if self.state_condition is not None:
                log_beta = self.state_condition(h1, inputs[keys.STATE_KEYS], log_beta)
            if self.kappa is not None:
                return fuse_log(scores, log_beta, self.kappa)
            gamma = fuse(alpha, log_beta.exp(), self.lambda_)
        return gamma / (1 + self.lambda_) if self.renormalize else gamma


def _check(cfg: Any) -> None:
    """Refuse settings that cannot work, all at once."""
    ss = cfg.MODEL.SS_ATTENTION
    problems: list[str] = []
    if ss.ENABLED:  # else gamma = alpha, which needs no key that a stock meta-architecture drops
        reason = "whose preprocess_batch drops positions, class probabilities and the raw features"
        problems += filter(None, [needs_grounded_captioner(cfg, "SSAttentionDecoder", reason)])
    for name, allowed in _CHOICES.items():
        if (value := ss[name.upper()]) not in allowed:
            problems.append(f"MODEL.SS_ATTENTION.{name.upper()}: expected one of {tuple(allowed)}, got {value!r}.")
    if not ss.LAMBDA >= 0:
        problems.append(f"MODEL.SS_ATTENTION.LAMBDA: expected a number >= 0, got {ss.LAMBDA!r}.")
    for name in ("DIM", "NUM_CLASSES"):
        if ss[name] < 1:
            problems.append(f"MODEL.SS_ATTENTION.{name}: expected an integer >= 1, got {ss[name]!r}.")
    if ss.STATE_DIM < 0:
        problems.append(f"MODEL.SS_ATTENTION.STATE_DIM: expected 0 (off) or more, got {ss.STATE_DIM!r}.")
    raise_all(problems, "The SS attention cannot be built from this config")
