"""Small detectors for tests: a spec, a random network that behaves like a trained one, and a weights file of it.

A ResNet-101 with plain random weights explodes or fades over its hundred layers and proposes nothing. Here a few
pictures of coloured noise pass through the network once. Each layer is scaled and shifted as it is reached, so that its
outputs have mean 0 and the spread chosen below.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from xmodaler_ssattn.detectors.backbone import NORM_EPS
from xmodaler_ssattn.detectors.dialects import BOX_PRED, KINDS, NORM, Dialect, Weights
from xmodaler_ssattn.detectors.network import BottomUpNetwork, Described
from xmodaler_ssattn.detectors.spec import DetectorSpec
from xmodaler_ssattn.detectors.torch_backend import features_in_chunks

TINY = {
    "blocks": (1, 1, 1, 2),
    "base_width": 4,
    "num_classes": 12,
    "num_attributes": 5,
    "attribute_embedding": 6,
    "attribute_hidden": 8,
    "rpn_channels": 16,
    "short_side": 96,
    "long_side": 160,
    "post_nms_topk": 60,
}


def tiny(dialect: str = "caffe", **changes) -> DetectorSpec:
    """A few thousand parameters in the shape of a dialect ("caffe", "airsplay", "milvlg_d2")."""
    return getattr(DetectorSpec, dialect)(**{**TINY, **changes})


def dialect_for(spec: DetectorSpec) -> Dialect:
    """The dialect of a spec, by its name."""
    return Dialect(spec.name, spec, KINDS[spec.name][1])


PICTURES, HEIGHT, WIDTH, REGIONS = 4, 160, 208, 12


def _spread(layer: str, spec: DetectorSpec) -> float:
    """The standard deviation wanted of a layer's outputs, by the end of its name."""
    return {
        "conv3": 0.5,  # each block adds a little to what it carries, so that the sum does not grow with the depth
        "logits": 1.5,
        "deltas": 0.2,
        # Of C normal logits, one would take most of the probability at sqrt(2 log C); other pictures spread wider.
        "cls_score": 0.45 * math.sqrt(2 * math.log(spec.num_classes + 1)),
    }.get(layer, 1.0)


def _noise_pictures(generator: torch.Generator) -> torch.Tensor:
    """(PICTURES, 3, HEIGHT, WIDTH), minus the mean: blobs of every size, strong and weak, each picture in its light."""

    def blobs(channels: int, cells: int) -> torch.Tensor:
        noise = torch.randn(PICTURES, channels, cells, cells, generator=generator)
        return F.interpolate(noise, (HEIGHT, WIDTH), mode="bilinear")

    sizes = [2**i for i in range(1, int(math.log2(HEIGHT)) + 1)]
    pictures = sum(blobs(3, cells) * cells**-0.5 for cells in sizes) * blobs(1, 4).exp()
    pictures = pictures / pictures.std(dim=(1, 2, 3), keepdim=True)
    contrast = 30 + 50 * torch.rand(PICTURES, 1, 1, 1, generator=generator)
    light = 40 * torch.randn(PICTURES, 3, 1, 1, generator=generator)
    return (pictures * contrast + light).clamp(-128, 127)


def _boxes(generator: torch.Generator) -> list[torch.Tensor]:
    """(REGIONS, 4) a picture, xyxy pixels, a tenth to all of it wide and high."""
    low, share = torch.rand(2, PICTURES * REGIONS, 2, generator=generator)
    size = torch.tensor([WIDTH, HEIGHT])
    sides = (0.1 + 0.9 * share) * size
    corners = low * (size - sides)
    return list(torch.cat((corners, corners + sides), dim=1).split(REGIONS))


class _Condition:
    """A forward hook that scales a layer's rows so that this very output has mean 0 and the wanted spread."""

    def __init__(self, spread: float) -> None:
        self.spread = spread

    def __call__(self, layer: nn.Conv2d | nn.Linear, inputs: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor:
        rows = out.transpose(0, 1).flatten(1)  # one row per output channel
        mean, deviation = rows.mean(dim=1), rows.std(dim=1, correction=0)
        scale = self.spread / deviation.clamp(min=1e-3 * deviation.mean().item() + 1e-12)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.copy_((layer.bias - mean) * scale)
        shape = [1, -1] + [1] * (out.dim() - 2)
        return (out - mean.view(shape)) * scale.view(shape)


@torch.no_grad()
def conditioned_random_network(spec: DetectorSpec, seed: int = 0) -> BottomUpNetwork:
    """A network whose weights follow from the seed and the machine's rounding; float32, on the CPU, for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        network = BottomUpNetwork(spec)
    network = network.to_empty(device="cpu").eval()
    hooks = {}
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.normal_(std=layer.weight[0].numel() ** -0.5, generator=generator)
            layer.bias.zero_()
            hooks[layer] = layer.register_forward_hook(_Condition(_spread(name.rpartition(".")[2], spec)))
        elif isinstance(layer, nn.Embedding):
            layer.weight.normal_(generator=generator)
    trunks = network.backbone(_noise_pictures(generator))
    hidden = network.rpn.conv(trunks).relu()
    network.rpn.logits(hidden), network.rpn.deltas(hidden)
    for layer in (network.rpn.conv, network.rpn.logits, network.rpn.deltas):
        hooks.pop(layer).remove()
    boxes = _boxes(generator)
    bins = [network.pool(trunk, own)[:] for trunk, own in zip(trunks.split(1), boxes)]
    network.describe(network.features(torch.cat(bins)), torch.cat(boxes), HEIGHT, WIDTH)
    for hook in hooks.values():
        hook.remove()
    return network


def describe_all(network: BottomUpNetwork, image: torch.Tensor, scale: float = 1.0, chunk: int = 32) -> Described:
    """Every proposal of one picture (3, h, w), described: the network's steps in a row."""
    height, width = image.shape[1:]
    trunk = network.trunk(image)
    boxes = network.propose(trunk, height, width, scale).boxes_px
    features = features_in_chunks(network, [network.pool(trunk, boxes)], chunk)
    return network.describe(features, boxes, height, width)


def from_network_state(state: Weights, spec: DetectorSpec, *, seed: int | None = None) -> dict[str, torch.Tensor]:
    """A weights file of the dialect of ``spec``, for a network of ours: the inverse of ``to_network_state``.

    Args:
        state: of ``BottomUpNetwork(spec)``.
        seed: None: every norm changes nothing, and the way back gives the very numbers; otherwise norms are random, and
            the way back gives them up to rounding.
    """
    dialect = dialect_for(spec)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        layer, _, last = name.rpartition(".")
        if not name.startswith(("backbone.", "res5.")):  # the layers without a norm
            weights[dialect.theirs(name)] = tensor
        elif last == "weight":
            theirs = dialect.theirs(layer + ".")
            gamma, mean, var = _norm(len(tensor), generator)
            scale = gamma.double() / (var.double() + NORM_EPS).sqrt()
            weights[f"{theirs}weight"] = (tensor.double() / scale[:, None, None, None]).float()
            beta = (state[f"{layer}.bias"].double() + mean.double() * scale).float()
            weights |= {f"{theirs}norm.{part}": value for part, value in zip(NORM, (gamma, beta, mean, var))}
    if spec.boxes == "proposals":
        rows = 4 * (spec.num_classes + 1)
        weights |= {f"{BOX_PRED}weight": torch.zeros(rows, spec.feature_dim), f"{BOX_PRED}bias": torch.zeros(rows)}
    return weights


def _norm(channels: int, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gamma, mean and variance."""
    if generator is None:
        return torch.ones(channels), torch.zeros(channels), torch.full((channels,), 1 - NORM_EPS)
    gamma, var = (0.5 + torch.rand(channels, generator=generator) for _ in range(2))
    return gamma, torch.randn(channels, generator=generator), var
