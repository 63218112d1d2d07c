"""Cyclical training (Ma et al., ECCV 2020): decode, localise each decoded word, reconstruct the caption from there.

    y'_t   = argmax of the decoder's words at t, given the words before
    r_t    = softmax(P_i . (W_l e(y'_t)))               W_l: the localiser, one linear layer; P_i = W_v v_i
    L      = L_ce + WEIGHT L_rec                        L_rec: the two LSTMs read v-hat_t = sum_i r_it v_i instead

chihyaoma/cyclical-visual-captioning, folder anet-video-captioning: model/captioner.py (decoding, localising and
reconstructing), model/localizer_core.py and model/modules.py (SoftAttention). There both losses have the weight 0.5
(cfgs/cyclical.yml); Adam does not depend on the common factor, but clipping by value does. r_t becomes gamma by the
decoder's own fusion, which for Up-Down is r_t itself. Decoding is that of the plain decoder.

Letters: N captions, T words, M words to predict in all, K regions, A attention size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.host import LOSSES_REGISTRY, META_ARCH_REGISTRY, configurable, kfg
from xmodaler_ssattn.losses.base import Loss, check_weights
from xmodaler_ssattn.methods.second_pass import SecondPassCaptioner, in_grid, own_random_numbers, require_captioner
from xmodaler_ssattn.modeling.forcing import WordStates
from xmodaler_ssattn.partners import losses_of
from xmodaler_ssattn.precision import at_least_float32


@META_ARCH_REGISTRY.register()
class CyclicalCaptioner(SecondPassCaptioner):
    """The captioner with a localiser in training; ``reconstructs``: whether training has the second pass."""

    @configurable
    def __init__(self, *, reconstructs: bool = True, **parts: Any) -> None:
        super().__init__(**parts)
        self.reconstructs = reconstructs
        with own_random_numbers():
            self.localizer = nn.Linear(self.token_embed.embeddings.embedding_dim, self.decoder.p_att_feats.out_features)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        used = bool(losses_of(cfg, "CyclicalLoss")) and cfg.LOSSES.CYCLICAL.WEIGHT > 0
        return {**super().from_config(cfg), "reconstructs": used}

    def localized(self, words: Tensor, rows: dict) -> Tensor:
        """Scores (N, T, K), masked, of the regions for words (N, T) int64; they depend on the word alone."""
        query = self.localizer(self.embedded(words))
        scores = at_least_float32(torch.bmm(query, rows[kfg.P_ATT_FEATS].to(query.dtype).transpose(1, 2)))
        mask = rows.get(kfg.EXT_ATT_MASKS)
        return scores if mask is None else scores + mask.unsqueeze(1)

    def further_outputs(self, batch: dict, states: WordStates, outputs: dict) -> dict:
        """SECOND_CROSS_ENTROPY (): that of the reconstruction."""
        if not self.reconstructs:
            return {}
        assert states.rows is not None
        with torch.no_grad():
            logits = outputs.get(kfg.G_LOGITS)
            if logits is None:  # FusedCrossEntropy
                logits = self.predictor({kfg.G_HIDDEN_STATES: states.hidden})[kfg.G_LOGITS]
            said = in_grid(logits.argmax(1), states, batch[kfg.G_TOKENS_IDS].shape[1])
        _, _, v_hat = self.decoder.pooled(self.localized(said, states.rows), None, states.rows)
        return {keys.SECOND_CROSS_ENTROPY: self.second_cross_entropy(batch, states, outputs, v_hat)}


@LOSSES_REGISTRY.register()
class CyclicalLoss(Loss):
    """WEIGHT times L_rec for the host's trainer."""

    learns_from_captions = "words"
    source = "CyclicalCaptioner provides it in training."

    @configurable
    def __init__(self, *, weight: float = 1.0):
        super().__init__()
        check_weights("LOSSES.CYCLICAL", WEIGHT=weight)
        self.weight = weight

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        require_captioner(cfg, "CyclicalLoss", CyclicalCaptioner)
        return {"weight": cfg.LOSSES.CYCLICAL.WEIGHT}

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's training output; returns ``{"Reconstruction Loss": WEIGHT L_rec}``."""
        if self.weight == 0:
            return {}
        return {"Reconstruction Loss": self.weight * self.read(outputs_dict, keys.SECOND_CROSS_ENTROPY)[0]}
