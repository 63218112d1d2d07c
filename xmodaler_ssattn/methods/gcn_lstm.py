"""GCN-LSTM with its spatial graph (Yao et al., ECCV 2018): regions know their neighbours before the decoder reads them.

    h_i = ReLU( g(v_i) W v_i + sum_j g_ij (W_1 v_j + b_r) + sum_j g_ji (W_2 v_j + b_r') + v_i )

r is the relation of i to j and r' that of j to i, 0 where there is none; g are gates between 0 and 1, for each relation
with a bias of its own. The decoder is Up-Down's; its mean region is the mean of h.

X-modaler's ``GCNEncoder`` (modeling/encoder/gcn_encoder.py:29-106) has the same parameters under the same names and
gives the same numbers for images without padding. It is not used here, because it needs a CUDA device, a file of
relations and the same number of regions in every image, and adds numbers of size K x K x D. This class is a visual
embedding, so that an image is embedded once for all its captions, on both hosts.

Left out: the semantic graph, whose predicates come from a classifier that is trained on Visual Genome, and the average
of the two graphs' models in decoding.

Letters: B images, K regions, D feature size, E embedded feature size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from xmodaler_ssattn import keys
from xmodaler_ssattn.config import completed
from xmodaler_ssattn.host import EMBEDDING_REGISTRY, VisualBaseEmbedding, configurable, kfg
from xmodaler_ssattn.modeling.captioner import ENCODE_ONCE
from xmodaler_ssattn.partners import require_grounded_captioner

NONE, INSIDE, COVERS, OVERLAPS, FIRST_SECTOR = 0, 1, 2, 3, 4
SECTORS = 8
RELATIONS = FIRST_SECTOR + SECTORS


def spatial_relations(boxes_px: Tensor, image_size: Tensor, mask: Tensor) -> Tensor:
    """The relation of each region i to each region j.

    The first that holds: 1, i lies inside j; 2, i covers j; 3, IoU of at least 0.5 (also equal boxes); 4 to 11, the
    centres are nearer than half of the image's diagonal, and the direction from i to j is in the sector [45 n, 45 (n +
    1)) degrees, n = 0 to 7, counted from the right through the bottom of the picture; 0, none of these, a region to
    itself, and padding.

    Args:
        boxes_px: (B, K, 4), x1, y1, x2, y2 in pixels.
        image_size: (B, 2), width and height in pixels.
        mask: (B, K), 1 for a region, 0 for padding.

    Returns:
        (B, K, K) int64.

    >>> boxes = torch.tensor([[[0.0, 0, 10, 10], [2, 2, 4, 4], [20, 0, 30, 10]]])
    >>> spatial_relations(boxes, torch.tensor([[50.0, 50.0]]), torch.ones(1, 3)).tolist()
    [[[0, 2, 4], [1, 0, 4], [8, 8, 0]]]
    """
    boxes = boxes_px.double()
    one, other = boxes.unsqueeze(2), boxes.unsqueeze(1)  # (B, K, 1, 4) of i, (B, 1, K, 4) of j
    area = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    shared = sides.clamp_min(0).prod(-1)
    union = area.unsqueeze(2) + area.unsqueeze(1) - shared
    equal = (one == other).all(-1)
    inside = (one[..., :2] >= other[..., :2]).all(-1) & (one[..., 2:] <= other[..., 2:]).all(-1) & ~equal
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    dx, dy = (centres.unsqueeze(1) - centres.unsqueeze(2)).unbind(-1)
    near = torch.hypot(dx, dy) < 0.5 * torch.linalg.vector_norm(image_size.double(), dim=1).view(-1, 1, 1)
    angle = torch.atan2(dy, dx) % (2 * math.pi)
    sector = FIRST_SECTOR + (angle / (2 * math.pi / SECTORS)).floor().long() % SECTORS
    found = torch.where(near, sector, NONE)
    found = torch.where((2 * shared >= union) & (union > 0) | equal, OVERLAPS, found)
    found = torch.where(inside.transpose(1, 2), COVERS, found)
    found = torch.where(inside, INSIDE, found)
    real = mask.unsqueeze(2).bool() & mask.unsqueeze(1).bool()
    return torch.where(real & ~torch.eye(boxes.shape[1], dtype=torch.bool, device=boxes.device), found, NONE)


def gathered(relation: Tensor, gate: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """sum_j m_ij sigmoid(gate_ij) (values_j + bias_r), r = relation_ij, m_ij 1 where there is a relation: (B, K, E).

    The sums of the gates per relation are made first, so that nothing of size K x K x E is.

    Args:
        relation: (B, K, K) int64.
        gate: (B, K, K), before the sigmoid.
        values: (B, K, E).
        bias: (relations, E).
    """
    gate = gate.sigmoid() * (relation > 0)
    of_relation = gate.new_zeros(*gate.shape[:2], len(bias)).scatter_add(2, relation, gate)
    return torch.bmm(gate, values) + of_relation @ bias


@EMBEDDING_REGISTRY.register()
class SpatialGraphEmbedding(VisualBaseEmbedding):
    """ATT_FEATS (B, K, D) -> h (B, K, E), then the dropout of MODEL.VISUAL_EMBED.

    Where E (``out_dim``) differs from D (``in_dim``), v_i is a linear map of the feature; X-modaler has D = E = 2048
    and no map. The other settings of MODEL.VISUAL_EMBED have no meaning here.
    """

    @configurable
    def __init__(self, *, in_dim: int, out_dim: int, embeddings_dropout: nn.Module | None = None, **unused: Any):
        super().__init__(in_dim=in_dim, out_dim=out_dim, embeddings_dropout=embeddings_dropout)
        dim = out_dim
        if in_dim == dim:
            self.embeddings = nn.Identity()
        self.gcn_loop, self.gcn_loop_gate = nn.Linear(dim, dim), nn.Linear(dim, 1)
        self.gcn_sub, self.gcn_sub_gate = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 1, bias=False)
        self.gcn_obj, self.gcn_obj_gate = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 1, bias=False)
        self.gate_bias = nn.Parameter(torch.zeros(RELATIONS, 1))
        self.bias = nn.Parameter(torch.zeros(RELATIONS, dim))

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        require_grounded_captioner(completed(cfg), cls.__name__, "whose preprocess_batch drops the boxes")
        return super().from_config(cfg)

    def forward(self, batched_inputs: dict) -> dict:
        """Replace ATT_FEATS by h; reads BOXES_PX, IMAGE_SIZE and IMAGE_MASK."""
        boxes, size, mask = (batched_inputs[key] for key in (keys.BOXES_PX, keys.IMAGE_SIZE, keys.IMAGE_MASK))
        relation = spatial_relations(boxes, size, mask)
        v = self.embeddings(batched_inputs[kfg.ATT_FEATS])
        gate_bias = self.gate_bias.squeeze(1)[relation]
        loop = self.gcn_loop(v) * self.gcn_loop_gate(v).sigmoid()
        to_others = gathered(relation, self.gcn_sub_gate(v).transpose(1, 2) + gate_bias, self.gcn_sub(v), self.bias)
        gate = (self.gcn_obj_gate(v) + gate_bias).transpose(1, 2)
        from_others = gathered(relation.transpose(1, 2), gate, self.gcn_obj(v), self.bias)
        h = torch.relu(loop + to_others + from_others + v)
        return {kfg.ATT_FEATS: h if self.embeddings_dropout is None else self.embeddings_dropout(h)}


ENCODE_ONCE.append(SpatialGraphEmbedding)
