"""Fill a table of ``resident.py`` from the region file: DATALOADER.CACHE: device.

Letters: n images, K regions, D feature size, C classes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from xmodaler_ssattn import keys
from xmodaler_ssattn.boxes import spatial_vectors
from xmodaler_ssattn.fast.resident import ResidentRegions
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.progress import progress

# Share of the device's free memory; the rest is for the optimiser's state, the gradients and a step's own tensors.
FREE_SHARE = 0.8
ROWS_AT_ONCE = 256


def resident_regions(
    store: RegionStore,
    image_ids: Sequence[int],
    device: str | torch.device,
    *,
    limit: int | None = None,
    class_probs: bool = True,
) -> tuple[ResidentRegions | None, str]:
    """The regions of these images on ``device``, in their order, when they fit.

    Args:
        limit: keep the first ``limit`` regions per image.
        class_probs: False leaves them out.

    Returns:
        (the table, "device"); or, after one warning, (None, the cache to use instead: "ram" or "none").

    Raises:
        UserError: a number is NaN or infinite; names the image.
    """
    device = torch.device(device)
    fields = _fields(store, len(image_ids), limit, class_probs)
    needed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in fields.values())
    free = free_bytes(device)
    if free is None or needed > FREE_SHARE * free:
        instead = "ram" if store.path.stat().st_size <= (free_bytes(torch.device("cpu")) or 0) else "none"
        has = "an unknown amount" if free is None else f"{FREE_SHARE:.0%} of {_gib(free)}"
        logging.getLogger(__name__).warning(
            "DATALOADER.CACHE device: the regions of %d images need %s, but %s has %s free for them. Training "
            "continues with DATALOADER.CACHE %s. Fewer regions (DATALOADER.MAX_FEAT_NUM) or a file in float16 need less.",
            len(image_ids),
            _gib(needed),
            device,
            has,
            instead,
        )
        return None, instead
    return _fill(store, image_ids, device, fields), "device"


def free_bytes(device: torch.device) -> int | None:
    """Free memory of ``device``; None when it does not say."""
    if device.type == "cpu":
        info = Path("/proc/meminfo")
        rows = dict(line.split(":") for line in info.read_text().splitlines()) if info.exists() else {}
        available = rows.get("MemAvailable")
        return int(available.split()[0]) * 1024 if available else None
    mem_get_info = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return mem_get_info(device)[0] if mem_get_info is not None else None


def _fields(
    store: RegionStore, count: int, limit: int | None, class_probs: bool
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each field of the table; the large ones in the file's own type."""
    regions = store.num_regions if limit is None else min(limit, store.num_regions)
    float32 = np.dtype("float32")
    fields = {
        kfg.ATT_FEATS: ((count, regions, store.feature_dim), store.field_dtype("features")),
        keys.BOXES_PX: ((count, regions, 4), float32),
        keys.SPATIAL: ((count, regions, 5), float32),
        keys.IMAGE_SIZE: ((count, 2), float32),
    }
    if class_probs and store.num_classes is not None:
        fields[keys.CLASS_PROBS] = ((count, regions, store.num_classes), store.field_dtype("class_probs"))
    return fields


def _fill(
    store: RegionStore,
    image_ids: Sequence[int],
    device: torch.device,
    fields: dict[str, tuple[tuple[int, ...], np.dtype]],
) -> ResidentRegions:
    """Read the file from front to back, ``ROWS_AT_ONCE`` rows at once, each to its place on the device."""
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
        ids = [image_ids[place] for place in places]
        chunk = {key: np.empty((len(places), *shape[1:]), dtype) for key, (shape, dtype) in fields.items()}
        for key, name in {kfg.ATT_FEATS: "features", **keys.STORED}.items():
            if key in chunk:
                store.copy_rows(name, file_rows[places], chunk[key])
        for i, (image_id, place) in enumerate(zip(ids, places)):
            width, height = store.image_size(image_id)
            chunk[keys.IMAGE_SIZE][i] = width, height
            chunk[keys.SPATIAL][i] = spatial_vectors(chunk[keys.BOXES_PX][i], width, height)
            for values in chunk.values():
                if values.ndim == 3:
                    values[i, counts[place] :] = 0
            _check_finite(store, image_id, [values[i] for values in chunk.values()])
        index = torch.from_numpy(places).to(device)
        for key, table in tables.items():
            table.index_copy_(0, index, torch.from_numpy(chunk[key]).to(device))
    per_image = {keys.IMAGE_SIZE: tables.pop(keys.IMAGE_SIZE)}
    logging.getLogger(__name__).info(
        "%d images' regions are resident on %s: %s",
        len(counts),
        device,
        _gib(sum(table.nbytes for table in tables.values())),
    )
    return ResidentRegions(tables, per_image, counts)


def _check_finite(store: RegionStore, image_id: int, parts: list[np.ndarray]) -> None:
    if not all(np.isfinite(part.sum(dtype=np.float64)) for part in parts):
        store.read(image_id).check_finite(store.path)  # says which number of which region


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
