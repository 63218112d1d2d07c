"""A fixed grid of bins from each box: ROIPool (rounded maxima) and ROIAlignV2 (bilinear samples).

R boxes, C channels, H and W of the map, P bins per side. Plain torch without a loop over boxes or bins, equal to
torchvision's ``roi_pool`` and ``roi_align(aligned=True)``, which are used where they can be imported.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import ModuleType

import torch

logger = logging.getLogger(__name__)


class Pooled:
    """The bins of R boxes, ``pooled[a:b]`` is (b - a, C, P, P); read slice by slice: those of 300 boxes take 240 MB.

    Args:
        boxes_px: (R, 4).
        bins_of: some of the boxes -> their bins.
    """

    def __init__(self, boxes_px: torch.Tensor, bins_of: Callable[[slice], torch.Tensor]) -> None:
        self.boxes_px, self._bins_of = boxes_px, bins_of

    def __len__(self) -> int:
        return len(self.boxes_px)

    def __getitem__(self, boxes: slice) -> torch.Tensor:
        return self._bins_of(boxes)


def _channels_last(features: torch.Tensor) -> torch.Tensor:
    """(1, C, H, W) -> (H, W, C), a view where the memory already has that order."""
    return features[0].permute(1, 2, 0).contiguous()


def _round(x: torch.Tensor) -> torch.Tensor:
    """To the nearest whole number, halves away from zero as in C (torch rounds them to even)."""
    return x.trunc() + x.sign() * (x.frac().abs() >= 0.5)


def pool_ranges(
    low: torch.Tensor, high: torch.Tensor, stride: int, bins: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and one-past-last position of each bin on one axis.

    Args:
        low, high: (R,) float32 ends of the boxes in pixels.
        stride: pixels per position.
        bins: P.
        size: positions of the map on this axis.

    Returns:
        two (R, P) int64; a bin outside the map is empty (start >= end).
    """
    # float32 throughout, like the original: ceil(14 * (h / 14)) may be h + 1 there.
    start, end = _round(low * (1.0 / stride)), _round(high * (1.0 / stride))
    length = (end - start + 1).clamp(min=1)
    bin_length = (length / torch.full_like(length, bins))[:, None]
    k = torch.arange(bins, device=low.device, dtype=low.dtype)
    first = (k * bin_length).floor() + start[:, None]
    last = ((k + 1) * bin_length).ceil() + start[:, None]
    return first.clamp(0, size).long(), last.clamp(0, size).long()


def _window_maxima(maps: torch.Tensor, dim: int, longest: int) -> torch.Tensor:
    """Maxima over 1, 2, 4, ... positions that begin at each one, stacked in front; 2^last <= longest.

    Windows that leave the map at its end are never read.
    """
    levels = [maps]
    while 2 ** len(levels) <= longest:
        half = 2 ** (len(levels) - 1)
        whole = levels[-1].clone()
        beginnings = whole.narrow(dim, 0, whole.shape[dim] - half)
        torch.maximum(beginnings, levels[-1].narrow(dim, half, whole.shape[dim] - half), out=beginnings)
        levels.append(whole)
    return torch.stack(levels)


def _corners(
    start: torch.Tensor, end: torch.Tensor, per_level: int, per_position: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in the table of the first and last power-of-two window inside start..end - 1, on one axis."""
    length = end - start
    level = torch.frexp(length.clamp(min=1).float()).exponent.long() - 1  # floor(log2(length)), exactly
    start, last = start.where(length > 0, 0), (end - 2**level).where(length > 0, 0)  # an empty bin reads anything
    return level * per_level + start * per_position, level * per_level + last * per_position


def _max_pooled(features: torch.Tensor, boxes_px: torch.Tensor, bins: int, stride: int) -> Pooled:
    """ROIPool with the rounding of the original; an empty bin is 0.

    A bin's maximum is the maximum of four overlapping windows whose sides are powers of two, one in each corner of
    the bin; the windows' maxima at every position are computed once (a two-dimensional sparse table).
    """
    maps = _channels_last(features)
    height, width, channels = maps.shape
    rows = pool_ranges(boxes_px[:, 1], boxes_px[:, 3], stride, bins, height)
    columns = pool_ranges(boxes_px[:, 0], boxes_px[:, 2], stride, bins, width)
    empty = (rows[0] >= rows[1])[:, :, None] | (columns[0] >= columns[1])[:, None, :]
    tallest, widest = (int((end - start).max()) if len(boxes_px) else 1 for start, end in (rows, columns))
    # (level of the height, level of the width, H, W, C)
    table = _window_maxima(_window_maxima(maps, 1, widest), 1, tallest)
    row_corners = _corners(*rows, per_level=table.shape[1] * height * width, per_position=width)
    column_corners = _corners(*columns, per_level=height * width, per_position=1)
    table = table.reshape(-1, channels)

    def bins_of(boxes: slice) -> torch.Tensor:
        maxima = None
        for y in row_corners:
            for x in column_corners:
                corner = table.index_select(0, (y[boxes, :, None] + x[boxes, None, :]).flatten())
                maxima = corner if maxima is None else torch.maximum(maxima, corner, out=maxima)
        maxima = maxima.view(-1, bins, bins, channels)
        if empty[boxes].any():
            maxima.masked_fill_(empty[boxes][..., None], 0)
        return maxima.permute(0, 3, 1, 2)

    return Pooled(boxes_px, bins_of)


def bilinear_weights(
    low: torch.Tensor, high: torch.Tensor, stride: int, bins: int, samples: int, size: int
) -> torch.Tensor:
    """(R, P, size) float32: the weight of each position of one axis in each bin, for ``samples`` interpolations.

    ROIAlignV2: coordinates are shifted by half a position; a sample more than one position outside counts as 0, one
    less far outside takes the border.
    """
    start, end = low * (1.0 / stride) - 0.5, high * (1.0 / stride) - 0.5
    bin_length = ((end - start) / torch.full_like(start, bins))[:, None, None]
    k = torch.arange(bins, device=low.device, dtype=low.dtype)[:, None]
    i = torch.arange(samples, device=low.device, dtype=low.dtype) + 0.5
    position = start[:, None, None] + k * bin_length + i * bin_length / samples  # (R, P, samples)
    inside = (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    first = position.floor()
    second_share = position - first
    weights = low.new_zeros(len(low), bins, size)
    share = inside / samples
    weights.scatter_add_(2, first.long(), (1 - second_share) * share)
    weights.scatter_add_(2, (first.long() + 1).clamp(max=size - 1), second_share * share)
    return weights


def _align_pooled(features: torch.Tensor, boxes_px: torch.Tensor, bins: int, stride: int, samples: int) -> Pooled:
    """ROIAlignV2 as two products with interpolation matrices, first down the rows, then across the columns."""
    maps = _channels_last(features)
    height, width, channels = maps.shape
    rows = bilinear_weights(boxes_px[:, 1], boxes_px[:, 3], stride, bins, samples, height)
    columns = bilinear_weights(boxes_px[:, 0], boxes_px[:, 2], stride, bins, samples, width)

    def bins_of(boxes: slice) -> torch.Tensor:
        lines = rows[boxes].reshape(-1, height) @ maps.view(height, width * channels)
        return (columns[boxes][:, None] @ lines.view(-1, bins, width, channels)).permute(0, 3, 1, 2)

    return Pooled(boxes_px, bins_of)


@functools.cache
def torchvision_ops() -> ModuleType | None:
    """``torchvision.ops`` when torchvision and its compiled operators can be used, else None."""
    try:
        from torchvision import ops
    except ImportError:
        return None
    except RuntimeError as error:  # torchvision registers its operators while it is imported
        logger.warning(
            "torchvision is installed but does not work with torch %s (%s); using the project's own operators.",
            torch.__version__,
            error,
        )
        return None
    return ops if hasattr(torch.ops.torchvision, "roi_pool") else None


def pool_regions(
    features: torch.Tensor,
    boxes_px: torch.Tensor,
    *,
    op: str,
    bins: int,
    stride: int,
    samples: int = 2,
    use_torchvision: bool | None = None,
) -> Pooled:
    """The bins of boxes.

    Args:
        features: (1, C, H, W).
        boxes_px: (R, 4) float32 xyxy, in pixels of the network's input, on the same device.
        op: "pool" or "align".
        bins: P.
        stride: pixels per position.
        samples: of "align", per side of a bin.
        use_torchvision: None: where it can be imported.
    """
    if torchvision_ops() is not None if use_torchvision is None else use_torchvision:
        ops, scale = torchvision_ops(), 1.0 / stride
        if op == "pool":
            return Pooled(boxes_px, lambda boxes: ops.roi_pool(features, [boxes_px[boxes]], bins, scale))
        return Pooled(
            boxes_px, lambda boxes: ops.roi_align(features, [boxes_px[boxes]], bins, scale, samples, aligned=True)
        )
    if op == "pool":
        return _max_pooled(features, boxes_px, bins, stride)
    return _align_pooled(features, boxes_px, bins, stride, samples)
