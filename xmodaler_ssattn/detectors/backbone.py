"""A ResNet whose normalisations are folded into its convolutions.

The batch norms of the published detectors are frozen, so each is a constant scale and shift. Folding saves one pass
over memory per layer; ``fold_norm`` does it when weights are loaded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from xmodaler_ssattn.detectors.spec import DetectorSpec

NORM_EPS = 1e-5


def fold_norm(
    weight: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution that equals ``norm(conv(x))``; computed in double and rounded once.

    Args:
        weight: (out, in, kh, kw), of a convolution without bias.
        gamma, beta, running_mean, running_var: (out,), the batch norm's.
    """
    scale = gamma.double() / (running_var.double() + NORM_EPS).sqrt()
    shift = beta.double() - running_mean.double() * scale
    return (weight.double() * scale[:, None, None, None]).to(weight.dtype), shift.to(weight.dtype)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut: relu(conv3(relu(conv2(relu(conv1(x))))) + shortcut(x))."""

    def __init__(
        self,
        inputs: int,
        width: int,
        outputs: int,
        *,
        stride: int = 1,
        stride_in_1x1: bool = True,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=first)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=dilation, dilation=dilation, groups=groups)
        self.conv3 = nn.Conv2d(width, outputs, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if inputs != outputs else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2(out))
        out = self.conv3(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


def resnet_stage(spec: DetectorSpec, stage: int) -> nn.Sequential:
    """res2, res3, res4 or res5 of a spec, by its number."""
    double = 2 ** (stage - 2)
    outputs = 4 * spec.base_width * double
    dilation = 2 if stage == 5 and spec.res5_dilated else 1
    stride = 1 if stage == 2 or dilation > 1 else 2
    width, same = spec.bottleneck_width * double, {"dilation": dilation, "groups": spec.groups}
    inputs = spec.base_width if stage == 2 else outputs // 2
    first = Bottleneck(inputs, width, outputs, stride=stride, stride_in_1x1=spec.stride_in_1x1, **same)
    return nn.Sequential(
        first, *(Bottleneck(outputs, width, outputs, **same) for _ in range(1, spec.blocks[stage - 2]))
    )


class Stem(nn.Module):
    """7x7/2 convolution, relu, 3x3/2 maximum: a quarter of each side."""

    def __init__(self, channels: int, pool: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3)
        self.pool = {"padding": 0, "ceil_mode": True} if pool == "caffe" else {"padding": 1}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, **self.pool)


class Trunk(nn.Module):
    """Stem, res2, res3, res4: (1, 3, h, w) -> (1, 16 base_width, about h / 16, about w / 16)."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.stem = Stem(spec.base_width, spec.stem_pool)
        self.res2, self.res3, self.res4 = (resnet_stage(spec, stage) for stage in (2, 3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res4(self.res3(self.res2(self.stem(x))))
