"""Fill a table of ``fast/resident.py`` from the region file: DATALOADER.CACHE: device.

The fields of the table are those of ``inputs.stored_sample``, so that a gathered batch equals one of ordinary samples.

With several GPUs each has a table of all images: in every epoch any image can be in the batch of any process. A table
that is divided among the GPUs would exchange the features of every batch between them, as many bytes as a batch from
the region file is, which all processes of a machine read through one file cache (DATALOADER.CACHE none, the default).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.boxes import spatial_vectors
from xmodaler_ssattn.data.inputs import STORED, RegionInputs, stored_sample
from xmodaler_ssattn.fast.resident import ResidentRegions
from xmodaler_ssattn.host import comm, kfg
from xmodaler_ssattn.packs.store import LIMITS, RegionStore
from xmodaler_ssattn.progress import progress

# Share of the device's free memory; the rest is for the optimiser's state, the gradients and a step's own tensors.
FREE_SHARE = 0.8
# Images that are copied to the device at once.
ROWS_AT_ONCE = 256


def resident_regions(
    store: RegionStore, image_ids: Sequence[int], device: str | torch.device, inputs: RegionInputs
) -> tuple[ResidentRegions | None, str]:
    """The regions of these images on ``device``, in their order, when they fit.

    Returns:
        (the table, "device"); or, after one warning, (None, the cache to use instead: "ram" or "none").

    Raises:
        UserError: a number is NaN or infinite; the message names the image.
    """
    device, warn = torch.device(device), logging.getLogger(__name__).warning
    if device.type == "cpu" and comm.get_world_size() > 1:
        warn(
            f"DATALOADER.CACHE device: each of {comm.get_world_size()} processes would have its own copy in main "
            "memory. Training continues with DATALOADER.CACHE ram, the file cache that all of them share."
        )
        return None, "ram"
    fields = _fields(store, len(image_ids), inputs, stored_sample(store, image_ids[0], inputs))
    needed = sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in fields.values())
    free = free_bytes(device)
    if free is None or needed > FREE_SHARE * free:
        instead = "ram" if store.path.stat().st_size <= (free_bytes(torch.device("cpu")) or 0) else "none"
        has = "an unknown amount" if free is None else f"{FREE_SHARE:.0%} of {_gib(free)}"
        warn(
            f"DATALOADER.CACHE device: the regions of {len(image_ids)} images need {_gib(needed)}, but {device} has "
            f"{has} free for them. Training continues with DATALOADER.CACHE {instead}. Fewer regions "
            "(DATALOADER.MAX_FEAT_NUM) or a file in float16 need less."
        )
        return None, instead
    return _fill(store, image_ids, device, fields), "device"


def free_bytes(device: torch.device) -> int | None:
    """Free memory of ``device``; None when unknown."""
    if device.type == "cpu":
        info = Path("/proc/meminfo")
        rows = dict(line.split(":") for line in info.read_text().splitlines()) if info.exists() else {}
        available = rows.get("MemAvailable")
        return int(available.split()[0]) * 1024 if available else None
    mem_get_info = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return mem_get_info(device)[0] if mem_get_info is not None else None


Fields = dict[str, tuple[tuple[int, ...], np.dtype]]


def _fields(store: RegionStore, count: int, inputs: RegionInputs, one: dict[str, Any]) -> Fields:
    """Shape and type of each field of the table, from one sample; stored fields keep the dtype of the file."""
    regions = min(store.num_regions, inputs.max_regions or store.num_regions)
    values = {key: np.asarray(value) for key, value in one.items() if key != kfg.IDS}
    return {
        key: (
            (count, *value.shape) if key == keys.IMAGE_SIZE else (count, regions, *value.shape[1:]),
            store.field_dtype(STORED[key]) if key in STORED else value.dtype,
        )
        for key, value in values.items()
    }


def _fill(store: RegionStore, image_ids: Sequence[int], device: torch.device, fields: Fields) -> ResidentRegions:
    """Read the file from front to back, ``ROWS_AT_ONCE`` rows at once, and copy each row to its place on the device."""
    tables = {
        key: torch.empty(shape, dtype=getattr(torch, dtype.name), device=device)
        for key, (shape, dtype) in fields.items()
    }
    regions = fields[kfg.ATT_FEATS][0][1]
    file_rows = np.array([store.row(image_id) for image_id in image_ids])
    counts = [min(store.num_boxes(image_id), regions) for image_id in image_ids]
    order = np.argsort(file_rows)
    for start in progress(range(0, len(order), ROWS_AT_ONCE), desc=f"region features to {device}"):
        places = order[start : start + ROWS_AT_ONCE]
        chunk = {key: np.empty((len(places), *shape[1:]), dtype) for key, (shape, dtype) in fields.items()}
        for key in STORED.keys() & chunk.keys():
            store.copy_rows(STORED[key], file_rows[places], chunk[key])
        for i, place in enumerate(places):
            image_id = image_ids[place]
            width, height = store.image_size(image_id)
            chunk[keys.IMAGE_SIZE][i] = width, height
            chunk[keys.SPATIAL][i] = spatial_vectors(chunk[keys.BOXES_PX][i], width, height)
            for values in chunk.values():
                if values.ndim == 3:
                    values[i, counts[place] :] = 0
            for key, name in STORED.items():
                low, high = LIMITS[name]
                if key in chunk and not (chunk[key][i].min() >= low and chunk[key][i].max() <= high):
                    store.read(image_id).check_numbers(store.path)  # its error names the number and the region
        index = torch.from_numpy(places).to(device)
        for key, table in tables.items():
            table.index_copy_(0, index, torch.from_numpy(chunk[key]).to(device))
    per_image = {keys.IMAGE_SIZE: tables.pop(keys.IMAGE_SIZE)}
    return ResidentRegions(tables, per_image, counts)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
