"""Region features that stay on the model's device for the whole run (DATALOADER.CACHE: device).

Equals batches that are copied to the device one by one. The dataset fills a table once and keeps it. A sample then only
contains the table's name and a row number, and the captioner gathers the batch on the device. Only names are sent
between processes, not tables: a loader's worker never uses a table, and each training process has its own.

Letters: n images in the table, B images of a batch, K regions.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodaler_ssattn.modeling.collate import send

_TABLES: weakref.WeakValueDictionary[TableName, ResidentRegions] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class TableName:
    """The name of a table, which a sample can pass between processes."""

    name: str

    def gather(self, rows: Sequence[int], device: torch.device) -> tuple[dict[str, Tensor], list[int]]:
        """``ResidentRegions.gather`` of the table with this name.

        Raises:
            RuntimeError: there is no such table in this process, or it is no longer referenced.
        """
        table = _TABLES.get(self)
        if table is None:
            raise RuntimeError(
                f"The resident region table {self.name} is not in this process, but where the dataset was loaded. A "
                "batch that was made in another process needs DATALOADER.CACHE ram or none."
            )
        return table.gather(rows, device)


class ResidentRegions:
    """The regions of n images on one device, which can be found by ``name`` in this process.

    The list of names has only weak references, so a table must be referenced elsewhere.

    Args:
        per_region: name of a field -> (n, K, ...), zeros on padding, in any floating type.
        per_image: name of a field -> (n, ...).
        counts: true number of regions of each image, on the CPU.
    """

    def __init__(self, per_region: Mapping[str, Tensor], per_image: Mapping[str, Tensor], counts: Sequence[int]):
        self._per_region, self._per_image = dict(per_region), dict(per_image)
        self._counts = list(counts)
        self.device = next(iter(self._per_region.values())).device
        self.name = TableName(f"resident-{os.getpid()}-{next(_NUMBERS)}")
        _TABLES[self.name] = self

    def __len__(self) -> int:
        return len(self._counts)

    def gather(self, rows: Sequence[int], device: torch.device) -> tuple[dict[str, Tensor], list[int]]:
        """Every field of a batch as float32, (B, K, ...), K the largest number of regions, and each image's own number.

        Raises:
            RuntimeError: the model is on another device than the table.
        """
        if torch.empty(0, device=device).device != self.device:
            raise RuntimeError(
                f"The region features are resident on {self.device}, but the model is on {device}. Set MODEL.DEVICE to "
                "the device of the model, or DATALOADER.CACHE to ram or none."
            )
        counts = [self._counts[row] for row in rows]
        index, widest = send(torch.tensor(rows), device), max(counts)
        fields = {key: table[:, :widest].index_select(0, index).float() for key, table in self._per_region.items()}
        fields |= {key: table.index_select(0, index).float() for key, table in self._per_image.items()}
        return fields, counts
