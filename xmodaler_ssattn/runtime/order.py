"""The order of the images when several processes train together: that of one process, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from . import comm


class Draw(NamedTuple):
    """An image to load, by its place in the data set, and the seed of what the mapper draws for it."""

    index: int
    seed: int


class SharedOrder(Sampler[Draw]):
    """A new random order of all images in each epoch; step s takes the images s B, ..., (s + 1) B - 1 of it.

    B images are a step of all processes together, and process r of R takes the r-th of R equal parts. The order and
    the seed of each image depend on the epoch and on a seed that the first process draws, and on nothing else. The
    last, incomplete step is left out.

    Args:
        images: their number.
        batch_size: images of a step in this process, B / R.
    """

    def __init__(self, images: int, batch_size: int) -> None:
        self._images, self._batch_size = images, batch_size
        self.seed = comm.from_first(int(torch.empty((), dtype=torch.int64).random_()))
        self.set_epoch(0)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """The epoch of the next iterators, and the step of it from which the next one starts."""
        self.epoch, self._first_step = epoch, first_step

    def __len__(self) -> int:
        return self._images // (self._batch_size * comm.get_world_size()) * self._batch_size

    def __iter__(self) -> Iterator[Draw]:
        # 2**63 is the limit of torch's seeds.
        generator = torch.Generator().manual_seed((self.seed + self.epoch) % 2**63)
        order = torch.randperm(self._images, generator=generator)
        seeds = torch.randint(2**32, (self._images,), generator=generator)
        size, first_step, self._first_step = self._batch_size, self._first_step, 0
        for step in range(first_step, len(self) // size):
            start = (step * comm.get_world_size() + comm.get_rank()) * size
            for index in order[start : start + size].tolist():
                yield Draw(index, int(seeds[index]))


class BatchesOfRank(Sampler[list[int]]):
    """Every R-th of the batches in which one process reads all images in order, from the r-th on, in process r of R."""

    def __init__(self, images: int, batch_size: int) -> None:
        self._starts = range(comm.get_rank() * batch_size, images, comm.get_world_size() * batch_size)
        self._images, self._batch_size = images, batch_size

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[list[int]]:
        for start in self._starts:
            yield list(range(start, min(start + self._batch_size, self._images)))
