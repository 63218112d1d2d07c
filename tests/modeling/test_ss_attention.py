"""Section 2.2 of the paper on three regions, checked by hand."""

import math
import tarfile
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from xmodaler_ssattn.boxes import spatial_vectors
from xmodaler_ssattn.config import add_ss_attention_config
from xmodaler_ssattn.modeling.dead_units import dead_share_warning, dead_shares
from xmodaler_ssattn.modeling.ss_attention import (
    SpatialSemanticAttention,
    TopDownAttention,
    extended_mask,
    fuse,
    pool,
)

# Three regions of one image: p = [x1, x2, y1, y2, s] and c over two classes.
P = torch.tensor([[[0.0, 0.5, 0.0, 0.5, 0.25], [0.5, 1.0, 0.0, 1.0, 0.5], [0.2, 0.4, 0.2, 0.7, 0.1]]])
C = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])


def hand_attention() -> SpatialSemanticAttention:
    """W_c = [2, -1], W_p = [0, 0, 0, 0, 4] (the area), W_b = [1, 0.5], no bias."""
    attention = SpatialSemanticAttention(spatial_size=5, semantic_size=2, bias=False)
    with torch.no_grad():
        attention.w_c.weight.copy_(torch.tensor([[2.0, -1.0]]))
        attention.w_p.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 0.0, 4.0]]))
        attention.w_b.weight.copy_(torch.tensor([[1.0, 0.5]]))
    return attention


def test_beta_equals_the_equation_on_three_regions():
    # region 1: ReLU[2*1, 4*0.25] = [2, 1]                     b = 2 + 0.5 * 1 = 2.5
    # region 2: ReLU[2*0.5 - 0.5, 4*0.5] = [0.5, 2]            b = 0.5 + 0.5 * 2 = 1.5
    # region 3: ReLU[-1, 4*0.1] = [0, 0.4]                     b = 0 + 0.5 * 0.4 = 0.2
    b = [2.5, 1.5, 0.2]
    total = sum(math.exp(x) for x in b)
    expected = torch.tensor([[math.exp(x) / total for x in b]])
    torch.testing.assert_close(hand_attention()(P, C).exp(), expected)


def test_padded_regions_get_nothing_and_the_others_their_own_softmax():
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    beta = hand_attention()(P, C, extended_mask(mask)).exp()
    # Without region 3: softmax(2.5, 1.5) = sigmoid(1), 1 - sigmoid(1)
    first = 1 / (1 + math.exp(-1.0))
    torch.testing.assert_close(beta, torch.tensor([[first, 1 - first, 0.0]]))
    assert beta[0, 2] == 0


def test_a_single_region_has_beta_one():
    assert hand_attention()(P[:, :1], C[:, :1]).exp().tolist() == [[1.0]]


def test_tied_regions_share_beta_equally():
    attention = hand_attention()
    same_p, same_c = P[:, :1].expand(1, 3, 5), C[:, :1].expand(1, 3, 2)
    torch.testing.assert_close(attention(same_p, same_c).exp(), torch.full((1, 3), 1 / 3))


def test_gamma_is_a_plain_sum_and_pools_the_features():
    alpha = torch.tensor([[[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]])  # one image, two captions
    beta = torch.tensor([[0.6, 0.4, 0.0]])
    gamma = fuse(alpha, beta, 0.5)
    torch.testing.assert_close(gamma, torch.tensor([[[0.5, 0.5, 0.5], [1.3, 0.2, 0.0]]]))
    torch.testing.assert_close(gamma.sum(-1), torch.tensor([[1.5, 1.5]]))  # 1 + lambda
    v = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]])
    # caption 1: 0.5 * (1, 0) + 0.5 * (0, 1) + 0.5 * (2, 2) = (1.5, 1.5); caption 2: (1.3, 0.2)
    torch.testing.assert_close(pool(gamma, v), torch.tensor([[[1.5, 1.5], [1.3, 0.2]]]))


@pytest.mark.parametrize(("activation", "f"), [("relu", lambda x: max(x, 0.0)), ("tanh", math.tanh)])
def test_alpha_equals_the_equation_on_two_regions(activation, f):
    attention = TopDownAttention(hidden_size=1, att_embed_size=2, att_embed_dropout=0.0, activation=activation)
    with torch.no_grad():
        attention.w_h.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        attention.w_alpha.weight.copy_(torch.tensor([[1.0, 2.0]]))
    p_att_feats = torch.tensor([[[0.5, 0.5], [-1.0, 2.0]]])
    # h = 0.25: W_h h = (0.25, -0.25)
    a = [f(0.75) + 2 * f(0.25), f(-0.75) + 2 * f(1.75)]
    expected = math.exp(a[0]) / (math.exp(a[0]) + math.exp(a[1]))
    alpha = attention(torch.tensor([[0.25]]), p_att_feats, None)
    torch.testing.assert_close(alpha, torch.tensor([[[expected, 1 - expected]]]))


def test_rows_of_an_image_share_its_features_without_copies():
    attention = TopDownAttention(hidden_size=3, att_embed_size=4, att_embed_dropout=0.0, activation="relu")
    torch.manual_seed(0)
    p_att_feats, h = torch.randn(2, 5, 4), torch.randn(6, 3)  # two images, three rows each
    together = attention(h, p_att_feats, None).view(6, 5)
    alone = torch.cat([attention(h[i : i + 1], p_att_feats[i // 3 : i // 3 + 1], None)[0] for i in range(6)])
    torch.testing.assert_close(together, alone)


def test_sampling_the_weights_leaves_the_global_generator_unchanged():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = SpatialSemanticAttention(spatial_size=5, semantic_size=7, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    second = SpatialSemanticAttention(spatial_size=5, semantic_size=7, seed=1)
    other = SpatialSemanticAttention(spatial_size=5, semantic_size=7, seed=2)
    assert torch.equal(first.w_c.weight, second.w_c.weight)
    assert not torch.equal(first.w_c.weight, other.w_c.weight)
    assert first.w_c.weight.abs().max() <= 7**-0.5


def test_dead_units_are_counted_over_valid_regions_and_named():
    attention = hand_attention()
    with torch.no_grad():
        attention.w_p.weight.neg_()  # the area now counts negatively: W_p is dead everywhere
    # W_c is dead only on region 3: one of three, or none of two when region 3 is padding.
    assert dead_shares(attention, (P, C), torch.ones(1, 3)) == {"W_c": pytest.approx(1 / 3), "W_p": 1.0}
    assert dead_shares(attention, (P, C), torch.tensor([[1.0, 1.0, 0.0]])) == {"W_c": 0.0, "W_p": 1.0}
    warning = dead_share_warning({"W_c": 0.3, "W_p": 1.0})
    assert "W_p" in warning and "W_c" not in warning
    assert dead_share_warning({"W_c": 0.99, "W_p": 0.0}) is None


def shares_of_dead_starts(p: torch.Tensor, c: torch.Tensor, seeds: int) -> tuple[float, float]:
    """The share of seeds whose W_p, and whose W_c, starts at 0 on every one of the regions, with the default start."""
    defaults = CfgNode({"MODEL": CfgNode()})
    add_ss_attention_config(defaults)
    start = defaults.MODEL.SS_ATTENTION
    dead_p = dead_c = 0
    for seed in range(seeds):
        attention = SpatialSemanticAttention(
            spatial_size=p.shape[1],
            semantic_size=c.shape[1],
            bias=start.BIAS,
            positive_bias_init=start.POSITIVE_BIAS_INIT,
            seed=seed,
        )
        with torch.no_grad():
            dead_p += bool((attention.w_p(p) <= 0).all())
            dead_c += bool((attention.w_c(c) <= 0).all())
    return dead_p / seeds, dead_c / seeds


def test_hardly_a_seed_starts_with_a_dead_slot():
    # W_p sees the whole picture and its upper left quarter; W_c a distribution so flat that its weights cancel.
    p = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.0, 0.5, 0.25]])
    dead_p, dead_c = shares_of_dead_starts(p, torch.full((1, 1601), 1 / 1601), 500)
    assert dead_p <= 0.01 and dead_c <= 0.01


def test_hardly_a_seed_starts_with_a_dead_slot_on_real_boxes(shared_data):
    archive = shared_data / "flickr30k" / "flickr30k_entities_v1.0.tar.xz"
    parts = []
    with tarfile.open(archive, "r|xz") as tar:  # a stream: the annotations come first, nothing behind them is unpacked
        for member in tar:
            if not member.name.endswith(".xml"):
                continue
            root = ElementTree.parse(tar.extractfile(member)).getroot()
            width, height = (int(root.find(f"size/{side}").text) for side in ("width", "height"))
            corners = [[int(node.text) - 1 for node in box] for box in root.iter("bndbox")]
            if corners:
                parts.append(spatial_vectors(np.array(corners, dtype=np.float32), width, height))
            if len(parts) == 200:
                break
    p = torch.from_numpy(np.concatenate(parts))
    assert len(p) > 1000
    c = torch.randn(len(p), 1601, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)
    dead_p, dead_c = shares_of_dead_starts(p, c, 1000)
    assert dead_p <= 0.01 and dead_c <= 0.01
