"""DATALOADER.CACHE: device: the same batches as without it, bit for bit, and a table that never travels."""

import gc
import logging
import pickle
import random

import h5py
import numpy as np
import pytest
import torch

from toys import toy_dataset, toy_model
from xmodaler_ssattn import keys
from xmodaler_ssattn.boxes import spatial_vectors
from xmodaler_ssattn.data import device_cache
from xmodaler_ssattn.data.annotations import annotation_header
from xmodaler_ssattn.data.device_cache import resident_regions
from xmodaler_ssattn.data.inputs import RegionInputs
from xmodaler_ssattn.data.json_list import json_list
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.host import build_xmodaler_train_loader, kfg
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter

CPU = torch.device("cpu")
INPUTS = RegionInputs(feature_dim=6, num_classes=4, max_regions=None)
IDS = (31, 11, 22)  # the file's order; the annotation file's is 11, 22, 31
COUNTS = {11: 4, 22: 1, 31: 3}


@pytest.fixture(params=["float32", "float16"])
def files(tmp_path, request):
    with json_list(tmp_path / "train.json", annotation_header("train", "t", False, "r", ["man"]), "images") as out:
        for image_id in sorted(IDS):
            box = {"start": 0, "end": 1, "head": 0, "class": "man", "chain": "1", "boxes": [[0, 0, 9, 9]]}
            out.add(
                {
                    "image_id": image_id,
                    "width": 100,
                    "height": 80,
                    "captions": [
                        {"raw": "A man .", "tokens": ["a", "man"], "phrases": [box]},
                        {"raw": "A dog sees .", "tokens": ["a", "dog", "sees"], "phrases": []},
                    ],
                }
            )
    (tmp_path / "vocabulary.txt").write_text("a\nman\ndog\nruns\nwith\nUNK\n")
    rng = np.random.default_rng(0)
    with RegionWriter(
        tmp_path / "regions.h5", IDS, 4, 6, 4, source="test", feature_dtype=request.param, probs_dtype=request.param
    ) as writer:
        for image_id in IDS:
            corner = rng.random((COUNTS[image_id], 2)) * 50
            probs = rng.random((COUNTS[image_id], 4))
            writer.write(
                image_id,
                100 + image_id,
                80,
                np.concatenate([corner, corner + 10], 1),
                rng.standard_normal((COUNTS[image_id], 6)),
                probs / probs.sum(1, keepdims=True),
            )
    return tmp_path


def dataset(files, **change):
    return toy_dataset(files, **{"vocab_size": 7, "num_classes": 4, **change})


def batches(files, model, workers=0, **change):
    """Two epochs through the host's own loader and our captioner, in batches of two of three images."""
    mapper = dataset(files, **change)
    loader = build_xmodaler_train_loader(
        mapper.load_data(None), dataset_mapper=mapper, batch_size=2, num_workers=workers
    )
    torch.manual_seed(3)
    random.seed(3)
    return [model.preprocess_batch(samples) for _ in range(2) for samples in loader]


@pytest.mark.parametrize("change", [{}, {"max_regions": 2}, {"num_classes": None}, {"targets": "sentence"}])
def test_a_resident_batch_equals_one_that_was_carried_bit_for_bit(files, tmp_path, change):
    model = toy_model(tmp_path)
    carried, gathered = batches(files, model, **change), batches(files, model, cache="device", **change)
    assert len(carried) == 2
    for one, other in zip(carried, gathered, strict=True):
        assert set(one) == set(other)
        for key, value in one.items():
            if torch.is_tensor(value):
                assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key
            else:
                assert value == other[key], key


def test_workers_hand_on_rows_and_no_features(files, tmp_path):
    model = toy_model(tmp_path)
    alone, by_workers = (batches(files, model, workers, cache="device") for workers in (0, 2))
    assert [batch[kfg.IDS] for batch in alone] == [batch[kfg.IDS] for batch in by_workers]
    for one, other in zip(alone, by_workers, strict=True):
        assert torch.equal(one[kfg.ATT_FEATS], other[kfg.ATT_FEATS])
    mapper = dataset(files, cache="device")
    records = mapper.load_data(None)
    sample = mapper(records[0])
    assert not set(sample) & {kfg.ATT_FEATS, keys.BOXES_PX, keys.SPATIAL, keys.CLASS_PROBS, keys.IMAGE_SIZE}
    assert not any(torch.is_tensor(value) for value in sample.values())
    assert sample[keys.SIGMA].shape == (1, 4)  # image 11 has four regions


def test_a_mapper_in_another_process_takes_the_tables_name_and_not_the_table(files):
    mapper = dataset(files, cache="device")
    records = mapper.load_data(None)
    copied = pickle.loads(pickle.dumps(mapper))
    assert copied._resident is None and copied(records[1])[keys.RESIDENT] == mapper._resident.name
    assert len(pickle.dumps(mapper)) < 5000


def test_the_table_goes_when_the_dataset_goes(files):
    mapper = dataset(files, cache="device")
    mapper.load_data(None)
    name = mapper._resident.name
    assert name.gather([0], torch.device("cpu"))[1] == [4]  # image 11 has four regions
    del mapper
    gc.collect()
    with pytest.raises(RuntimeError, match="is not in this process"):
        name.gather([0], torch.device("cpu"))


@pytest.mark.parametrize(("free", "instead"), [(400, "none"), (50_000, "device")])
def test_what_does_not_fit_falls_back_with_one_warning_that_says_both_sizes(files, monkeypatch, caplog, free, instead):
    # 3 images x 4 regions: V 6, boxes 4, p 5, c 4 numbers each, and two for the size: under 1 kB
    monkeypatch.setattr(device_cache, "free_bytes", lambda device: free)
    warmed = []
    monkeypatch.setattr(RegionStore, "warm_up", lambda self: warmed.append(self))
    with caplog.at_level(logging.WARNING):
        mapper = dataset(files, cache="device")
        records = mapper.load_data(None)
    assert ("row" in records[0]) == (instead == "device") and not warmed
    if instead == "none":
        assert len(caplog.records) == 1
        message = caplog.text
        assert "3 images need 0.00 GiB" in message and "0.00 GiB free" in message and "CACHE none" in message
        assert torch.is_tensor(mapper(records[0])[kfg.ATT_FEATS])


def test_a_full_device_beside_enough_memory_falls_back_to_ram(files, monkeypatch):
    monkeypatch.setattr(device_cache, "free_bytes", lambda device: 10**9 if device.type == "cpu" else 0)
    warmed = []
    monkeypatch.setattr(RegionStore, "warm_up", lambda self: warmed.append(self))
    dataset(files, cache="device", device="meta").load_data(None)
    assert len(warmed) == 1


def test_the_share_of_the_free_memory_that_may_be_taken_is_kept(files, monkeypatch):
    store = RegionStore(files / "regions.h5")
    wide = 2 if store.field_dtype("features") == np.float16 else 4
    # n 3, K 4: V 6 and c 4 in the file's type, boxes 4 and p 5 in float32; w, h of three images
    needed = 3 * 4 * (10 * wide + 9 * 4) + 3 * 2 * 4
    for free, fits in ((needed / 0.8 + 1, True), (needed / 0.8 - 1, False)):
        monkeypatch.setattr(device_cache, "free_bytes", lambda device, free=free: free)
        assert (resident_regions(store, IDS, CPU, INPUTS)[0] is not None) is fits


def test_a_device_that_does_not_tell_its_free_memory_is_not_filled(files):
    table, instead = resident_regions(RegionStore(files / "regions.h5"), IDS, "meta", INPUTS)
    assert table is None and instead == "ram"


def test_a_table_filled_in_small_pieces_is_the_same(files, monkeypatch):
    store = RegionStore(files / "regions.h5")
    monkeypatch.setattr(device_cache, "ROWS_AT_ONCE", 2)
    table, _ = resident_regions(store, [22, 31, 11], CPU, INPUTS)
    fields, counts = table.gather([2, 0], CPU)
    assert counts == [4, 1]
    for i, image_id in enumerate((11, 22)):
        regions, count = store.read(image_id), COUNTS[image_id]
        np.testing.assert_array_equal(fields[kfg.ATT_FEATS][i, :count].numpy(), regions.features)
        np.testing.assert_array_equal(fields[keys.CLASS_PROBS][i, :count].numpy(), regions.class_probs)
        p = spatial_vectors(regions.boxes_px, 100 + image_id, 80)
        np.testing.assert_array_equal(fields[keys.SPATIAL][i, :count].numpy(), p)
        assert not fields[kfg.ATT_FEATS][i, count:].any()
    assert fields[keys.IMAGE_SIZE].tolist() == [[111, 80], [122, 80]]


def test_rows_that_another_program_left_behind_the_last_region_are_not_read(files):
    with h5py.File(files / "regions.h5", "r+") as file:
        file["features"][2, 1:] = np.nan  # image 22 has one region
    table, _ = resident_regions(RegionStore(files / "regions.h5"), [22, 11], CPU, INPUTS)
    fields, _ = table.gather([0, 1], CPU)
    assert not fields[kfg.ATT_FEATS][0, 1:].any()


def test_a_number_that_is_not_finite_is_named_before_training(files):
    with h5py.File(files / "regions.h5", "r+") as file:
        file["features"][1, 2, 3] = np.nan  # row 1 is image 11
    with pytest.raises(UserError, match=r"Image 11 in .*regions\.h5: features of region \[2\] is NaN"):
        dataset(files, cache="device").load_data(None)


def test_a_model_on_another_device_than_the_table_is_told_both(files):
    table, _ = resident_regions(RegionStore(files / "regions.h5"), [11], CPU, INPUTS)
    with pytest.raises(RuntimeError, match="resident on cpu, but the model is on meta"):
        table.gather([0], torch.device("meta"))


def test_only_training_images_are_resident(files, tmp_path):
    (files / "val.json").write_text((files / "train.json").read_text().replace('"train"', '"val"'))
    mapper = dataset(files, stage="val", cache="device")
    assert torch.is_tensor(mapper(mapper.load_data(None)[0])[kfg.ATT_FEATS])
