"""Loaders: what a batch is, that seeds decide it, and what is refused."""

import numpy as np
import pytest
import torch

from runtime.toy_host import TRAIN_IMAGES, VAL_IMAGES, toy_config
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.runtime import (
    DatasetFromList,
    MapDataset,
    build_xmodaler_train_loader,
    build_xmodaler_valtest_loader,
    kfg,
    seed_all_rng,
)


def ids(loader) -> list[list[int]]:
    return [[int(sample[kfg.IDS]) for sample in batch] for batch in loader]


def captions(loader) -> list:
    return [[row.tolist() for sample in batch for row in sample[kfg.G_TOKENS_IDS]] for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_reads_full_shuffled_batches_and_validation_everything_in_order(tmp_path, workers):
    cfg = toy_config(tmp_path, "DATALOADER.NUM_WORKERS", workers)
    seed_all_rng(0)
    train = build_xmodaler_train_loader(cfg)
    first, second = ids(train), ids(train)
    assert [len(batch) for batch in first] == [3] * (TRAIN_IMAGES // 3) == [3] * len(train)
    assert len({image for batch in first for image in batch}) == 12  # none twice
    assert first != second
    assert ids(build_xmodaler_valtest_loader(cfg, stage="val")) == [[0, 1], [2, 3], [4]]
    assert build_xmodaler_valtest_loader(cfg, stage="test") is None
    assert VAL_IMAGES == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_the_seed_decides_order_and_drawn_captions(tmp_path, workers):
    cfg = toy_config(tmp_path, "DATALOADER.NUM_WORKERS", workers)
    drawn = []
    for seed in (0, 0, 1):
        seed_all_rng(seed)
        drawn.append(captions(build_xmodaler_train_loader(cfg)))
    assert drawn[0] == drawn[1] != drawn[2]


def test_workers_draw_different_captions_of_the_same_image():
    """Two workers with the same random state would give the same pair twice."""
    seed_all_rng(0)
    loader = build_xmodaler_train_loader([{}] * 8, dataset_mapper=DrawNumbers(), batch_size=1, num_workers=2)
    numbers = [tuple(batch[0]) for batch in loader]
    assert len(set(numbers)) == 8


class DrawNumbers:
    def __call__(self, record):
        import random

        return [random.random(), np.random.rand(), torch.rand(1).item()]


def test_the_order_is_the_samplers_seed_after_the_loaders(tmp_path):
    """What upstream draws: the loader's base seed, then the sampler's seed, then a permutation of its own."""
    loader = build_xmodaler_train_loader(toy_config(tmp_path))
    torch.manual_seed(5)
    order = [image for batch in ids(loader) for image in batch]
    torch.manual_seed(5)
    torch.empty((), dtype=torch.int64).random_()
    generator = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
    assert order == torch.randperm(TRAIN_IMAGES, generator=generator).tolist()[:12]


def test_fewer_images_than_a_batch_is_an_error_with_both_numbers(tmp_path):
    with pytest.raises(UserError, match="has 13 images, fewer than DATALOADER.TRAIN_BATCH_SIZE asks for: 14 in"):
        build_xmodaler_train_loader(toy_config(tmp_path, "DATALOADER.TRAIN_BATCH_SIZE", 14))


@pytest.mark.parametrize(
    "records, packed",
    [
        ([{"a": [1, 2.5, None, True, "é\ud800"]}, {}], True),
        ([{"a": (1, 2)}], False),  # JSON would make a list of it
        ([{1: "a"}], False),  # and text of the key
        ([{"a": float("nan")}], False),
        ([], True),
    ],
)
def test_records_come_back_as_they_were_and_as_copies(records, packed):
    dataset = DatasetFromList(records)
    assert (dataset._list is None) == packed
    assert len(dataset) == len(records)
    for index, record in enumerate(records):
        assert repr(dataset[index]) == repr(record)
        dataset[index]["changed"] = True
        assert "changed" not in record and "changed" not in dataset[index]


def test_arrays_are_kept_as_objects_and_copied():
    records = [{"a": np.arange(3)}]
    dataset = DatasetFromList(records)
    dataset[0]["a"][0] = 9
    assert records[0]["a"].tolist() == dataset[0]["a"].tolist() == [0, 1, 2]


def test_an_index_past_the_end_is_refused():
    with pytest.raises(IndexError, match="Record 1 was requested, but there are 1"):
        DatasetFromList([{}])[1]


def test_a_mapper_that_returns_none_is_an_error_with_the_index():
    class Forgetful:
        def __call__(self, record):
            return None if record == "c" else {"record": record}

    dataset = MapDataset(["a", "b", "c"], Forgetful())
    assert dataset[1] == {"record": "b"}
    with pytest.raises(ValueError, match="Forgetful returned None for record 2"):
        dataset[2]
