"""After Distributed attention (Chen et al., ACM MM 2021): several branches of attention find the parts of an object.

    alpha^m_t = softmax of a^m_it = W^m_a f(W^m_h h_t + W_v v_i), without the regions that branches 1 .. m-1 look at
    v-hat_t   = (1/n) sum_m sum_i gamma^m_it v_i            gamma^m: the decoder's own fusion of alpha^m with beta
    q^m_t     = softmax(W_q v-hat^m_t + b_q)                over the object classes of the captions
    L_con     = mean over the object words of - log q^1(class) + (1/(n-1)) sum_m>1 KL(q^1 || q^m)

A branch looks at the region with its largest alpha. That choice has no gradient, nor has q^1 in KL. The box of a word
encloses the regions of its branches (INFERENCE.REGION_RULE union). No code of the method is public: branches, agreement
and box are from its abstract, how they are computed is ours. Training reads no box.

Letters: N captions or beams, K regions, E embedded feature size, n branches, V vocabulary, M predicted words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import add_ssattn_config, completed
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.host import DECODER_REGISTRY, LOSSES_REGISTRY, configurable, kfg
from xmodaler_ssattn.losses.base import Loss, check_weights
from xmodaler_ssattn.methods.second_pass import own_random_numbers
from xmodaler_ssattn.modeling.decoder import SSAttentionDecoder
from xmodaler_ssattn.modeling.definition import follows
from xmodaler_ssattn.modeling.ss_attention import MASKED_SCORE, TopDownAttention
from xmodaler_ssattn.partners import losses_of
from xmodaler_ssattn.precision import at_least_float32

# Added to the scores of regions that an earlier branch looks at. Padding is below them: with fewer regions than
# branches, the last branches look at regions of earlier ones again.
TAKEN_SCORE = MASKED_SCORE / 2


@DECODER_REGISTRY.register()
class DistributedDecoder(SSAttentionDecoder):
    """``SSAttentionDecoder`` with n branches of attention; with one branch it is that decoder.

    Args:
        branches: n.
        object_classes: number of classes in q; 0: no q.
    """

    READ_BY_LOSSES = (keys.BRANCH_LOGITS,)
    HAS_BRANCHES = True
    OF_LOSSES = ("class_head",)

    @configurable
    def __init__(self, *, branches: int = 2, object_classes: int = 0, **parts: Any) -> None:
        super().__init__(**parts)
        if branches < 1:
            raise UserError(f"MODEL.DISTRIBUTED.BRANCHES: expected an integer >= 1, got {branches}.")
        self.further_branches, self.class_head = nn.ModuleList(), None
        if branches == 1:
            return
        sizes = {"hidden_size": self.hidden_size, "att_embed_size": parts["att_embed_size"]}
        others = {"att_embed_dropout": self.att.dropout.p, "activation": self.att.activation}
        with own_random_numbers():
            self.further_branches.extend(TopDownAttention(**sizes, **others) for _ in range(branches - 1))
            if object_classes:
                self.class_head = nn.Linear(parts["visual_embed_dim"], object_classes)
        # A method of the object, so that one branch keeps the plain decoder's method and all that is faster for it.
        if type(self).attend is not SSAttentionDecoder.attend:
            raise UserError(f"{type(self).__name__}.attend: branches replace it; override attend_in_branches instead.")
        self.attend = self.attend_in_branches

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        branches, classes = cfg.MODEL.DISTRIBUTED.BRANCHES, 0
        if branches > 1 and losses_of(cfg, "ConsistencyLoss") and cfg.LOSSES.CONSISTENCY.WEIGHT > 0:
            classes = int(class_of_words(cfg).max()) + 1
        return {**super().from_config(cfg), "branches": branches, "object_classes": classes}

    @classmethod
    def add_config(cls, cfg: Any) -> None:
        add_ssattn_config(cfg)

    @property
    def encodes_per_image(self) -> bool:
        """Whether only the branches differ from ``SSAttentionDecoder``; see ``GroundedCaptioner``."""
        names = ("forward", "attend_in_branches", "pooled", "_fuse", "preprocess", "slots")
        return follows(self, DistributedDecoder, *names, "initial_states", "first_states", "select_states")

    def attend_in_branches(self, h1: Tensor, inputs: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """v-hat_t (N, E), the mean ALPHA and GAMMA (N, K), BRANCH_REGIONS, and BRANCH_LOGITS in training."""
        p, mask = inputs[kfg.P_ATT_FEATS], inputs.get(kfg.EXT_ATT_MASKS)
        taken: Tensor | None = None
        found, regions = [], []
        for attention in (self.att, *self.further_branches):
            scores = attention.scores(h1, p, mask)
            taken = torch.zeros_like(scores) if taken is None else taken
            alpha, gamma, v_hat = self.pooled(scores + taken, h1, inputs)
            region = alpha.argmax(-1, keepdim=True)
            taken = taken.scatter(-1, region, TAKEN_SCORE)
            found.append((alpha, gamma, v_hat))
            regions.append(region)
        alphas, gammas, v_hats = (torch.stack(parts).flatten(1, 2) for parts in zip(*found, strict=True))
        outputs = {keys.ALPHA: alphas.mean(0), keys.GAMMA: gammas.mean(0)}
        outputs[keys.BRANCH_REGIONS] = torch.cat(regions, -1).flatten(0, 1)
        if self.training and self.class_head is not None:
            outputs[keys.BRANCH_LOGITS] = self.class_head(v_hats.transpose(0, 1))
        return v_hats.mean(0), outputs


def class_of_words(cfg: Any) -> Tensor:
    """(V,) int64: the object class that each word of INFERENCE.VOCAB names, or -1.

    Raises:
        UserError: no vocabulary, or no object word in it.
    """
    path = cfg.INFERENCE.VOCAB
    if not path:
        raise UserError("ConsistencyLoss needs INFERENCE.VOCAB, the words of the model, to know the object words.")
    words = list(read_lines(path, "INFERENCE.VOCAB"))
    of_word = ObjectWords.of_model(path).among(words)
    if not of_word:
        raise UserError(
            f"ConsistencyLoss: no word in {path} names an object class. Use the vocabulary of `xmodaler prepare "
            "annotations`, which has its classes beside it, or set LOSSES.CONSISTENCY.WEIGHT: 0."
        )
    numbers = {name: number for number, name in enumerate(sorted(set(of_word.values())))}
    return torch.tensor([-1, *(numbers.get(of_word.get(word, ""), -1) for word in words)])


def consistency_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """L_con.

    Args:
        logits: (M, n, object classes).
        classes: (M,) int64, the class of each word, or -1 for a word that names no object.

    Returns () float32; 0 without object words.

    >>> two = torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])  # - log 1/2, and the branches agree
    >>> round(float(consistency_loss(two, torch.tensor([1]))), 4)
    0.6931
    """
    log_q = F.log_softmax(at_least_float32(logits), dim=-1)
    counts = classes >= 0
    own = F.nll_loss(log_q[:, 0], classes.clamp(min=0), reduction="none")
    first = log_q[:, :1].detach()
    apart = (first.exp() * (first - log_q[:, 1:])).sum(-1).mean(1)
    return ((own + apart) * counts).sum() / counts.sum().clamp(min=1)


@LOSSES_REGISTRY.register()
class ConsistencyLoss(Loss):
    """WEIGHT times L_con for the host's trainer.

    Args:
        weight: at least 0.
        classes: (V,) int64 from ``class_of_words``; None with weight 0.
    """

    learns_from_captions = "words"
    source = "DistributedDecoder provides it in training."

    @configurable
    def __init__(self, *, weight: float = 0.1, classes: Tensor | None = None):
        super().__init__()
        check_weights("LOSSES.CONSISTENCY", WEIGHT=weight)
        self.weight = weight
        self.classes = torch.empty(0, dtype=torch.long) if classes is None else classes

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        weight = cfg.LOSSES.CONSISTENCY.WEIGHT
        decoder = DECODER_REGISTRY.get(cfg.MODEL.DECODER)
        if weight > 0 and (not issubclass(decoder, DistributedDecoder) or cfg.MODEL.DISTRIBUTED.BRANCHES < 2):
            raise UserError(
                "LOSSES.NAMES contains ConsistencyLoss, which compares branches of attention. Set MODEL.DECODER: "
                f"DistributedDecoder (got {cfg.MODEL.DECODER!r}) and MODEL.DISTRIBUTED.BRANCHES: 2 or more (got "
                f"{cfg.MODEL.DISTRIBUTED.BRANCHES}), or remove the loss."
            )
        return {"weight": weight, "classes": class_of_words(cfg) if weight > 0 else None}

    def forward(self, outputs_dict: dict) -> dict[str, Tensor]:
        """``outputs_dict``: the captioner's training output; returns ``{"Consistency Loss": WEIGHT L_con}``."""
        if self.weight == 0:
            return {}
        logits, targets = self.read(outputs_dict, keys.BRANCH_LOGITS, kfg.G_TARGET_IDS)
        self.classes = self.classes.to(targets.device)
        return {"Consistency Loss": self.weight * consistency_loss(logits, self.classes[targets])}

    def normaliser(self, outputs_dict: dict) -> Tensor:
        """The number of object words."""
        targets = outputs_dict[kfg.G_TARGET_IDS]
        return (self.classes.to(targets.device)[targets] >= 0).sum()
