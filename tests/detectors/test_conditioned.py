"""A random network that proposes and selects."""

import pytest
import torch
import torch.nn.functional as F

from detectors.toy_networks import conditioned_random_network, describe_all, tiny
from xmodaler_ssattn.detectors.network import BottomUpNetwork


def photograph(seed: int = 3) -> torch.Tensor:
    noise = torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return 60 * F.interpolate(noise, (96, 128), mode="bicubic")[0]


@torch.no_grad()
@pytest.mark.parametrize("dialect", ["caffe", "airsplay", "milvlg_d2"])
def test_it_proposes_and_tells_regions_apart(dialect):
    network = conditioned_random_network(tiny(dialect))
    described = describe_all(network, photograph())
    assert len(described.boxes_px) >= 36
    best = described.class_probs[:, 1:].max(dim=1)
    assert 0.2 < best.values.median() and best.values.min() < 0.99
    assert len(best.indices.unique()) > 2 and len(described.attributes.unique()) > 1
    assert described.features.isfinite().all() and described.features.std(dim=0).median() > 0.05


@torch.no_grad()
def test_a_hundred_layers_neither_explode_nor_fade():
    spec = tiny(depth=101, blocks_per_stage=None)
    described = describe_all(conditioned_random_network(spec), photograph())
    assert len(described.boxes_px) >= 36
    assert 0.1 < described.features.mean() < 10 and described.features.std(dim=0).median() > 0.05
    # the usual random weights, for contrast: every block doubles the variance
    plain, generator = BottomUpNetwork(spec), torch.Generator().manual_seed(0)
    for value in plain.parameters():
        if value.dim() == 4:
            value.normal_(std=(2 / value[0].numel()) ** 0.5, generator=generator)
    assert plain.trunk(photograph()).std() > 1e4


def test_the_seed_decides():
    spec = tiny()
    one, same, other = (conditioned_random_network(spec, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if name.endswith("weight"))


def test_the_generator_of_others_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    conditioned_random_network(tiny())
    assert torch.equal(torch.rand(3), expected)
