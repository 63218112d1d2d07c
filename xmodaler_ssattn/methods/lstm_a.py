"""LSTM-A (Yao et al., ICCV 2017): captions from attributes and one feature of the whole image, without attention.

    A = max_i c_i (without the background)      v = mean_i v_i
    h_-2 = LSTM(W_a A, 0)    h_-1 = LSTM(W_v v, h_-2)    h_t = LSTM(e(y_t), h_t-1)

It is the variant LSTM-A3, which reads the attributes first. X-modaler's ``AttributeDecoder`` (modeling/decoder/
attribute_decoder.py:56-92) has the same parameters under the same names and gives the same numbers. It is not used
here, because it creates its states on a CUDA device and reads attributes and global features from files of COCO; this
class works on both hosts and on any device.

Left out: the paper's attributes are 1,000 words found by a classifier that is trained by multiple instance learning on
the captions; these are the detector's classes. Its image feature is that of a network for whole images.

Letters: B images, N captions, K regions, C classes with background, D feature size, H hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.errors import raise_all
from xmodaler_ssattn.host import DECODER_REGISTRY, configurable, kfg
from xmodaler_ssattn.modeling.grounded_decoder import GroundedDecoder
from xmodaler_ssattn.partners import needs_grounded_captioner


def attributes(class_probs: Tensor, mask: Tensor) -> Tensor:
    """The largest probability of each class over an image's regions, without the background: (B, C - 1).

    Args:
        class_probs: (B, K, C), background first.
        mask: (B, K), 1 for a region, 0 for padding.

    >>> import torch
    >>> probs = torch.tensor([[[0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]]])
    >>> attributes(probs, torch.tensor([[1, 1, 0]]))  # the third region is padding
    tensor([[0.4000, 0.7000]])
    """
    return class_probs[..., 1:].masked_fill(mask.unsqueeze(-1) == 0, 0.0).amax(dim=1)


@DECODER_REGISTRY.register()
class LSTMADecoder(GroundedDecoder):
    """One LSTM that reads attributes, the mean region, and then the words; its captions have no regions.

    Args:
        hidden_size: H, also the width of the word embedding.
        feature_dim: D.
        num_attributes: C - 1.
    """

    attends = False

    @configurable
    def __init__(self, *, hidden_size: int, feature_dim: int, num_attributes: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.attribute_fc = nn.Linear(num_attributes, hidden_size)
        self.vfeat_fc = nn.Linear(feature_dim, hidden_size)
        self.lstm = nn.LSTMCell(hidden_size, hidden_size)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        cfg = completed(cfg)
        model = cfg.MODEL
        problems = [needs_grounded_captioner(cfg, cls.__name__, "whose preprocess_batch drops class probabilities")]
        if model.SS_ATTENTION.ENABLED:
            problems.append("MODEL.SS_ATTENTION.ENABLED: expected False, because this decoder has no attention.")
        if model.TOKEN_EMBED.DIM != model.DECODER_DIM:
            problems.append(
                f"MODEL.TOKEN_EMBED.DIM: expected MODEL.DECODER_DIM {model.DECODER_DIM}, because one LSTM reads "
                f"attributes, image and words; got {model.TOKEN_EMBED.DIM}."
            )
        if model.SS_ATTENTION.NUM_CLASSES < 2:
            problems.append(
                f"MODEL.SS_ATTENTION.NUM_CLASSES: expected 2 or more, the background and the attributes; got "
                f"{model.SS_ATTENTION.NUM_CLASSES}."
            )
        raise_all(filter(None, problems), f"{cls.__name__} cannot be built from this config")
        return {
            "hidden_size": model.DECODER_DIM,
            "feature_dim": model.VISUAL_EMBED.IN_DIM,
            "num_attributes": model.SS_ATTENTION.NUM_CLASSES - 1,
        }

    @classmethod
    def add_config(cls, cfg: Any) -> None:
        """No keys of its own."""

    @classmethod
    def reads(cls, cfg: Any) -> set[str]:
        """The sample keys that it reads in addition to ATT_FEATS; see ``data/inputs.py``."""
        return {keys.CLASS_PROBS}

    def preprocess(self, batched_inputs: dict) -> dict:
        """The states after attributes and image, one row per row of RAW_FEATS (B, K, D) and CLASS_PROBS (B, K, C)."""
        feats, mask = batched_inputs[keys.RAW_FEATS], batched_inputs[keys.IMAGE_MASK]
        found = attributes(batched_inputs[keys.CLASS_PROBS], mask)
        mean = (feats * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        h, c = self.lstm(self.vfeat_fc(mean), self.lstm(self.attribute_fc(found)))
        return {**batched_inputs, kfg.G_HIDDEN_STATES: [h], kfg.G_CELL_STATES: [c]}

    def initial_states(self, like: Tensor, rows: int) -> dict[str, Any]:
        """Zeros: the states before the attributes."""
        zeros = like.new_zeros(rows, self.hidden_size)
        return {kfg.G_HIDDEN_STATES: [zeros], kfg.G_CELL_STATES: [zeros]}

    def first_states(self, inputs: dict, rows: int) -> dict[str, Any]:
        """Those of ``preprocess``, repeated for the captions of each image."""
        found = {key: inputs[key][0] for key in (kfg.G_HIDDEN_STATES, kfg.G_CELL_STATES)}
        return {key: [state.repeat_interleave(rows // len(state), dim=0)] for key, state in found.items()}

    def forward(self, batched_inputs: dict) -> dict:
        """One word: reads G_TOKEN_EMBED (N, H) and the states, returns the new ones and an attention to no region."""
        word = batched_inputs[kfg.G_TOKEN_EMBED]
        h, c = self.lstm(word, (batched_inputs[kfg.G_HIDDEN_STATES][0], batched_inputs[kfg.G_CELL_STATES][0]))
        none = word.new_zeros(len(word), 0)
        return {kfg.G_HIDDEN_STATES: [h], kfg.G_CELL_STATES: [c], keys.ALPHA: none, keys.GAMMA: none}
