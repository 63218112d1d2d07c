"""Data loaders: a registered mapper's list of records, mapped one by one, batched as plain lists of samples."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.stopping import left_to_its_parent

from . import comm
from .config import CfgNode
from .configurable import configurable
from .order import BatchesOfRank, Draw, SharedOrder
from .registry import DATASETS_REGISTRY
from .rng import drawing_from, get_random_state, seed_all_rng, set_random_state
from .setup import FILE_ONLY

logger = logging.getLogger(__name__)


class DatasetFromList(Dataset):
    """A list as a dataset; each record is returned as a new copy, so that a mapper may change it.

    Records that a JSON round trip does not change are packed into one array of bytes: the loader's worker processes
    then share its memory, whereas a list of Python objects would gradually be copied into each of them.
    """

    def __init__(self, lst: Sequence) -> None:
        packed = _pack(lst)
        self._list: Sequence | None = lst if packed is None else None
        if packed is not None:
            self._ends = np.cumsum([len(record) for record in packed])
            self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)
            logger.info("Packed %d records into %.1f MiB", len(packed), self._bytes.nbytes / 2**20, extra=FILE_ONLY)

    def __len__(self) -> int:
        return len(self._ends) if self._list is None else len(self._list)

    def __getitem__(self, index: int) -> Any:
        if self._list is not None:
            return copy.deepcopy(self._list[index])
        if not 0 <= index < len(self):
            raise IndexError(f"Record {index} was requested, but there are {len(self)}.")
        start = self._ends[index - 1] if index else 0
        return json.loads(self._bytes[start : self._ends[index]].tobytes())


def _pack(records: Sequence) -> list[bytes] | None:
    packed = []
    for record in records:
        try:
            text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError):
            return None
        if json.loads(text) != record:
            return None
        packed.append(text.encode("utf-8", "surrogatepass"))
    return packed


class MapDataset(Dataset):
    """``map_func(record)`` for each record of a dataset; None instead of a sample is an error."""

    def __init__(self, dataset: Dataset, map_func: Callable[[Any], dict[str, Any]]) -> None:
        self._dataset, self._map_func = dataset, map_func

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int | Draw) -> dict[str, Any]:
        if isinstance(index, Draw):
            with drawing_from(index.seed):
                return self[index.index]
        sample = self._map_func(self._dataset[int(index)])
        if sample is None:
            name = type(self._map_func).__name__
            raise ValueError(f"{name} returned None for record {int(index)}; it must return a sample or raise.")
        return sample


def trivial_batch_collator(batch: list) -> list:
    """Return the samples unchanged: the model collates them in ``preprocess_batch``."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed a worker from numpy's state, which torch derived from the loader's seed and the worker's number.

    The worker outlives a signal to all processes of the run, which finishes its step and saves.
    """
    left_to_its_parent()
    seed_all_rng(np.random.randint(2**31) + worker_id)


def _from_config(cfg: CfgNode, dataset_mapper=None, *, datalist=None, stage="val") -> dict[str, Any]:
    """The mapper registered for the stage, the records that it loads, and the loader's settings."""
    name = cfg.DATASETS[stage.upper()]
    if name and dataset_mapper is None:
        dataset_mapper = DATASETS_REGISTRY.get(name)(cfg, stage)
    if name and datalist is None:
        datalist = dataset_mapper.load_data(cfg)
    return {
        "datalist": datalist if name else None,
        "dataset_mapper": dataset_mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "batch_size": cfg.DATALOADER["TRAIN_BATCH_SIZE" if stage == "train" else "TEST_BATCH_SIZE"],
    }


def _train_from_config(cfg: CfgNode, dataset_mapper=None, *, datalist=None) -> dict[str, Any]:
    arguments = _from_config(cfg, dataset_mapper, datalist=datalist, stage="train")
    return arguments | {"global_batch": cfg.DATALOADER.GLOBAL_BATCH}


def _dataset(datalist: Sequence | Dataset, mapper: Callable) -> MapDataset:
    return MapDataset(DatasetFromList(datalist) if isinstance(datalist, list) else datalist, mapper)


def _loader(dataset: Dataset, num_workers: int, **order: Any) -> DataLoader:
    functions = {"collate_fn": trivial_batch_collator, "worker_init_fn": worker_init_reset_seed}
    return DataLoader(dataset, num_workers=num_workers, **functions, **order)


@configurable(from_config=_train_from_config)
def build_xmodaler_train_loader(
    datalist: Sequence | Dataset | None,
    *,
    dataset_mapper: Callable | None,
    batch_size: int,
    num_workers: int,
    global_batch: bool = False,
) -> DataLoader | None:
    """Shuffled full batches (an incomplete last one is dropped), or None without a data set.

    Several processes share one order (``SharedOrder``). One process has X-modaler's order, drawn from the random state,
    unless ``global_batch`` asks for the order that any number of processes has.

    Args:
        batch_size: images of a step in each process, or with ``global_batch`` in all processes together.

    Raises:
        UserError: there are fewer records than one step needs, or the processes cannot share the batch equally.
    """
    if datalist is None or dataset_mapper is None:
        return None
    dataset = _dataset(datalist, dataset_mapper)
    processes = comm.get_world_size()
    if global_batch and batch_size % processes:
        raise UserError(
            f"DATALOADER.TRAIN_BATCH_SIZE is {batch_size} in total (GLOBAL_BATCH True), which {processes} processes "
            "cannot share equally. Choose a multiple of their number."
        )
    share = batch_size // processes if global_batch else batch_size
    if len(dataset) < share * processes:
        raise UserError(
            f"The training split has {len(dataset)} images, fewer than DATALOADER.TRAIN_BATCH_SIZE asks for: {share} "
            f"in each of {processes} process(es). Lower the batch size."
        )
    shared = global_batch or processes > 1
    sampler: Sampler = SharedOrder(len(dataset), share) if shared else RandomSampler(dataset)
    return _loader(dataset, num_workers, sampler=sampler, batch_size=share, drop_last=True)


@configurable(from_config=_from_config)
def build_xmodaler_valtest_loader(
    datalist: Sequence | Dataset | None, *, dataset_mapper: Callable | None, batch_size: int, num_workers: int
) -> DataLoader | None:
    """All records in order, or None without a data set. Several processes read every R-th batch each."""
    if datalist is None or dataset_mapper is None:
        return None
    dataset = _dataset(datalist, dataset_mapper)
    return _loader(dataset, num_workers, batch_sampler=BatchesOfRank(len(dataset), batch_size))


class BatchesOfAnEpoch:
    """Counts the batches of an epoch, and can bring a new iterator to the same place.

    The order of the images and the seeds of the loading processes are drawn from the random state, partly when the
    iterator is made and partly at its first batch. Both states are remembered. The batches before the place are
    loaded again and dropped, so that every process that loads data has drawn its random numbers.
    """

    def __init__(self) -> None:
        self.taken = 0
        self._before: dict[str, Any] = {}
        self._before_first: dict[str, Any] = {}

    def begin(self, loader: DataLoader) -> Iterator:
        """A new iterator for an epoch."""
        self.taken, self._before, self._before_first = 0, get_random_state(), {}
        return iter(loader)

    def take(self, iterator: Iterator) -> list | None:
        """The next batch; None at the end of the epoch."""
        if not self.taken:
            self._before_first = get_random_state()
        batch = next(iterator, None)
        self.taken += batch is not None
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "before": self._before, "before_first": self._before_first}

    def go_to(self, state: dict[str, Any], loader: DataLoader, epoch: int) -> Iterator:
        """An iterator whose next batch is the one after the place of ``state``. Changes the random state."""
        if isinstance(loader.sampler, SharedOrder):  # no batch depends on those before it
            loader.sampler.set_epoch(epoch, first_step=state["taken"])
            iterator = self.begin(loader)
            self.taken = state["taken"]
            return iterator
        set_random_state(state["before"])
        iterator = self.begin(loader)
        set_random_state(state["before_first"])
        for _ in progress(range(state["taken"]), desc="going to the place in the epoch", say=logger.info):
            self.take(iterator)
        self._before_first = state["before_first"]
        return iterator
