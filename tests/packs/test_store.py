"""The region file: what is written is read back, from any process, and a broken file is named."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs import trust
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter
from xmodaler_ssattn.packs.trust import check_region_file
from xmodaler_ssattn.sealed import SEAL_BYTES


def made_up(image_id, count=3, dim=4, classes=5):
    """One image whose numbers say where they belong; boxes are 10 pixels wide and high."""
    rng = np.random.default_rng(image_id)
    corner = rng.integers(0, 80, (count, 2)).astype(np.float32)
    probs = rng.random((count, classes)).astype(np.float32)
    return {
        "width": 100 + image_id,
        "height": 90,
        "boxes_px": np.concatenate([corner, corner + 10], axis=1),
        "features": rng.standard_normal((count, dim)).astype(np.float32),
        "class_probs": probs / probs.sum(1, keepdims=True),
    }


def write_file(path, ids=(7, 3, 5), regions=3, counts=None, **options):
    with RegionWriter(path, ids, regions, 4, 5, source="test", **options) as writer:
        for position, image_id in enumerate(ids):
            writer.write(image_id, **made_up(image_id, counts[position] if counts else regions))
    return path


def assert_same(regions, image_id, count=3):
    for name, value in made_up(image_id, count).items():
        np.testing.assert_array_equal(getattr(regions, name), value)
    assert regions.image_id == image_id


def test_what_is_written_is_read_back_in_any_order(tmp_path):
    store = RegionStore(write_file(tmp_path / "r.h5", counts=[3, 1, 2]))
    assert (len(store), store.num_regions, store.feature_dim, store.num_classes) == (3, 3, 4, 5)
    assert store.ids.tolist() == [7, 3, 5] and 3 in store and 4 not in store
    for image_id, count in ((5, 2), (7, 3), (3, 1)):
        assert_same(store.read(image_id), image_id, count)
        assert store.num_boxes(image_id) == count
        assert store.image_size(image_id) == (100 + image_id, 90)
    assert store.attributes["source"] == "test"
    assert os.listdir(tmp_path) == ["r.h5"]


def test_the_file_is_what_h5py_reads_and_has_the_designs_names(tmp_path):
    with h5py.File(write_file(tmp_path / "r.h5", counts=[3, 1, 2])) as file:
        assert file.attrs["schema"] == "xmodaler_ssattn/regions" and file.attrs["version"] == 1
        assert file.attrs["order"] == "descending max class probability"
        assert file["features"].shape == (3, 3, 4) and file["features"].chunks is None
        np.testing.assert_array_equal(file["boxes"][1, :1], made_up(3, 1)["boxes_px"])
        assert not file["boxes"][1, 1:].any()  # rows after num_boxes are zero


def test_arrays_are_copies_and_a_limit_takes_the_first_regions(tmp_path):
    store = RegionStore(write_file(tmp_path / "r.h5"))
    regions = store.read(3, limit=2, class_probs=False)
    assert regions.class_probs is None and regions.features.shape == (2, 4)
    np.testing.assert_array_equal(regions.features, made_up(3)["features"][:2])
    regions.features[:] = 0
    assert_same(store.read(3), 3)


def test_half_precision_is_stored_and_single_precision_comes_out(tmp_path):
    store = RegionStore(write_file(tmp_path / "r.h5", feature_dtype="float16"))
    regions = store.read(7)
    assert regions.features.dtype == np.float32
    np.testing.assert_array_equal(regions.features, made_up(7)["features"].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(regions.class_probs, made_up(7)["class_probs"])


def test_a_chunked_and_compressed_file_is_read_as_well(tmp_path):
    with h5py.File(write_file(tmp_path / "r.h5")) as old, h5py.File(tmp_path / "c.h5", "w") as new:
        for name, value in old.attrs.items():
            new.attrs[name] = value
        for name in old:
            new.create_dataset(name, data=old[name][...], chunks=True, compression="gzip")
    store = RegionStore(tmp_path / "c.h5")
    assert_same(store.read(5), 5)
    assert_same(pickle.loads(pickle.dumps(store)).read(7), 7)


def _read_in_child(store, queue):
    queue.put([store.read(image_id).features.sum() for image_id in (7, 3, 5)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_that_the_parent_has_used_works_in_several_processes(tmp_path, method):
    store = RegionStore(write_file(tmp_path / "r.h5"))
    expected = [store.read(image_id).features.sum() for image_id in (7, 3, 5)]
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_read_in_child, args=(store, queue)) for _ in range(2)]
    for child in children:
        child.start()
    answers = [queue.get(timeout=300) for _ in children]
    for child in children:
        child.join()
    assert answers == [expected, expected]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    write_file(tmp_path / "a.h5")
    time.sleep(1.1)  # HDF5 time stamps have seconds
    write_file(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_image_that_is_not_there_is_named(tmp_path):
    store = RegionStore(write_file(tmp_path / "r.h5"))
    with pytest.raises(UserError, match=r"Image 4 is not in the region file .*r\.h5, which has 3 images"):
        store.read(4)


def test_an_image_without_regions_is_named(tmp_path):
    path = write_file(tmp_path / "r.h5")
    with h5py.File(path, "r+") as file:
        file["num_boxes"][1] = 0
    with pytest.raises(UserError, match="Image 3 has no region"):
        RegionStore(path).read(3)


@pytest.mark.parametrize(
    ("name", "value"),
    [("features", np.nan), ("features", np.inf), ("features", 60_000), ("boxes", 1e9), ("class_probs", 7)],
)
def test_a_number_that_no_detector_gives_is_found_when_reading_and_names_the_image(tmp_path, name, value):
    path = write_file(tmp_path / "r.h5")
    with h5py.File(path, "r+") as file:
        file[name][2, 1, 0] = value
    store = RegionStore(path)
    store.read(7).check_numbers(path)
    with pytest.raises(UserError, match=rf"Image 5 in .*{name} of region \[1\] is NaN, infinite or not between"):
        store.read(5).check_numbers(path)


def test_a_written_file_has_a_seal_and_every_changed_byte_is_found(tmp_path):
    path = write_file(tmp_path / "r.h5")
    assert check_region_file(path) is True
    whole = path.read_bytes()
    for place in range(0, len(whole), max(len(whole) // 100, 1)):
        changed = bytearray(whole)
        changed[place] ^= 16
        path.write_bytes(changed)
        with pytest.raises(UserError, match="has changed since it was written"):
            check_region_file(path)


def test_a_file_without_a_seal_is_first_opened_elsewhere(tmp_path, monkeypatch):
    path = write_file(tmp_path / "r.h5")
    path.write_bytes(path.read_bytes()[:-SEAL_BYTES])
    assert check_region_file(path) is False and len(RegionStore(path)) == 3
    assert check_region_file(tmp_path / "none.h5") is False
    head = trust._PROBE[: trust._PROBE.index("def look")]  # the limits
    held = b"1" * (700 << 20)  # memory of this process is not memory of the other one
    assert len(held) == 700 << 20
    del held
    for number, (program, message) in enumerate(
        [
            ("os.kill(os.getpid(), 11)", r"opening it ends the process \(SIGSEGV\)"),
            ("time.sleep(60)", "HDF5 does not come to an end with it"),
            ("[0 for _ in iter(int, 1)]", "HDF5 does not come to an end with it"),
            (
                "x = b'1' * (600 << 20)\nif peak() - before > 500 << 20: sys.exit(76)",
                "opening it takes more than 512 MiB",
            ),
            ("try: bytearray(2 << 30)\nexcept MemoryError: sys.exit(76)", "opening it takes more than 512 MiB"),
        ]
    ):
        monkeypatch.setattr(trust, "_PROBE", f"{head}\nimport os, time\nprint(sys.argv[3], flush=True)\n{program}")
        monkeypatch.setattr(trust, "SECONDS", 1)
        monkeypatch.setattr(trust, "PATIENCE", 2 if "sleep" in program else 60)  # the others end by themselves
        os.utime(path, ns=(number, number))  # seen as another file
        with pytest.raises(UserError, match=rf"Region file: .*r\.h5 is damaged: {message}"):
            RegionStore(path)


def test_opening_a_file_elsewhere_reads_only_little_of_it(tmp_path):
    """1,400 bytes that claim 999,999 texts of 4,000 bytes."""
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file.create_dataset("names", shape=(999_999,), dtype="S4000")
    command = [sys.executable, "-c", f"{trust._PROBE}\nprint(peak())", "20", "99", str(tmp_path / "r.h5")]
    *_, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(peak) < 1 << 30


@pytest.mark.parametrize("name", ["features", "class_probs"])
@pytest.mark.parametrize("how", ["external link", "soft link", "external storage", "virtual"])
def test_numbers_of_another_file_are_refused(tmp_path, name, how):
    path, other = write_file(tmp_path / "r.h5"), write_file(tmp_path / "other.h5")
    with h5py.File(path, "r+") as file:
        shape = file[name].shape
        file.move(name, "kept")
        if how == "external link":
            file[name] = h5py.ExternalLink(str(other), name)
        elif how == "soft link":
            file[name] = h5py.SoftLink("/kept")
        elif how == "external storage":
            file.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout(shape, "f4")
            layout[:] = h5py.VirtualSource(str(other), name, shape)
            file.create_virtual_dataset(name, layout)
    with pytest.raises(UserError, match=f"{name}.*must be in this file"):
        RegionStore(path)


def test_a_false_number_of_images_reserves_no_memory(tmp_path):
    path = tmp_path / "r.h5"
    with h5py.File(path, "w") as file:
        file.attrs["schema"], file.attrs["version"] = "xmodaler_ssattn/regions", 1
        small = {"image_ids": ((), "i8"), "num_boxes": ((), "i4"), "image_size": ((2,), "i4")}
        for name, (tail, dtype) in {**small, "features": ((3, 4), "f4"), "boxes": ((3, 4), "f4")}.items():
            file.create_dataset(name, (2**40, *tail), dtype, chunks=(1, *tail))
    with pytest.raises(UserError, match=r"image_ids claims the shape \(1099511627776,\) in a file of"):
        RegionStore(path)


def test_broken_files_are_named_with_the_reason(tmp_path):
    path = write_file(tmp_path / "r.h5")
    whole = path.read_bytes()
    with pytest.raises(UserError, match="does not exist"):
        RegionStore(tmp_path / "none.h5")
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cut short"):
        RegionStore(path)
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(UserError, match="not an HDF5 file"):
        RegionStore(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 9
    with pytest.raises(UserError, match="version 9"):
        RegionStore(path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = "other"
    with pytest.raises(UserError, match="schema is 'other'"):
        RegionStore(path)


def test_a_folder_in_the_place_of_a_region_file_is_called_one(tmp_path):
    with pytest.raises(UserError, match="is a folder, expected an HDF5 file"):
        RegionStore(tmp_path)


def test_all_wrong_shapes_stand_in_one_message(tmp_path):
    path = write_file(tmp_path / "r.h5")
    with h5py.File(path, "r+") as file:
        del file["features"], file["boxes"]
        file["boxes"] = np.zeros((3, 3, 5), np.float32)
    message = r"(?s)2 problems.*boxes has shape \(3, 3, 5\), expected \(N, \*, 4\).*'features' is missing"
    with pytest.raises(UserError, match=message):
        RegionStore(path)


def test_repeated_ids_and_impossible_counts_are_found(tmp_path):
    path = write_file(tmp_path / "r.h5")
    with h5py.File(path, "r+") as file:
        file["image_ids"][1] = 7
        file["num_boxes"][2] = 4
    with pytest.raises(UserError, match=r"(?s)duplicated, e.g. \[7\].*must be 0 to 3; wrong for image ids \[5\]"):
        RegionStore(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"boxes_px": np.zeros((0, 4)), "features": np.zeros((0, 4)), "class_probs": np.zeros((0, 5))},
            "it has 0 regions",
        ),
        ({"features": np.zeros((3, 3))}, r"features has shape \(3, 3\), expected \(3, 4\)"),
        ({"features": np.full((3, 4), np.nan)}, r"features\[0, 0\] is nan"),
        ({"boxes_px": np.tile([5, 0, 4, 9], (3, 1))}, "x2 < x1"),
        ({"class_probs": np.full((3, 5), 2.0)}, "before the softmax"),
        ({"class_probs": None}, "class probabilities are missing"),
        ({"width": 0}, "width and height must be 1 to 1,000,000"),
    ],
)
def test_a_bad_image_is_refused_by_name_and_nothing_is_left(tmp_path, change, message):
    with (
        pytest.raises(UserError, match=message) as caught,
        RegionWriter(tmp_path / "r.h5", [7], 3, 4, 5, source="test") as writer,
    ):
        writer.write(7, **{**made_up(7), **change})
    assert "Image 7" in str(caught.value) and os.listdir(tmp_path) == []


def test_half_precision_overflow_is_refused(tmp_path):
    with (
        pytest.raises(UserError, match="too large for float16"),
        RegionWriter(tmp_path / "r.h5", [7], 3, 4, 5, source="test", feature_dtype="float16") as writer,
    ):
        writer.write(7, **{**made_up(7), "features": np.full((3, 4), 1e5)})


def test_images_left_unwritten_are_refused_or_left_out_on_request(tmp_path):
    with (
        pytest.raises(UserError, match=r"2 of 3 images were not written, e.g. \[3, 5\]"),
        RegionWriter(tmp_path / "r.h5", [7, 3, 5], 3, 4, 5, source="test") as writer,
    ):
        writer.write(7, **made_up(7))
    with RegionWriter(tmp_path / "r.h5", [7, 3, 5], 3, 4, 5, source="test", drop_missing=True) as writer:
        writer.write(5, **made_up(5))
        writer.write(7, **made_up(7))
    store = RegionStore(tmp_path / "r.h5")
    assert store.ids.tolist() == [7, 5]
    assert_same(store.read(5), 5)
    assert os.listdir(tmp_path) == ["r.h5"]


def _write_slowly(path, ids):
    with RegionWriter(path, ids, 3, 4, 5, source="test", resume=True) as writer:
        for image_id in ids:
            if not writer.is_written(image_id):
                writer.write(image_id, **made_up(image_id))
                time.sleep(0.002)


def test_killed_and_started_again_gives_the_bytes_of_an_uninterrupted_run(tmp_path):
    ids = list(range(1, 400))
    _write_slowly(tmp_path / "whole.h5", ids)
    context = multiprocessing.get_context("fork")
    for wait in (0.1, 0.5):
        child = context.Process(target=_write_slowly, args=(tmp_path / "killed.h5", ids))
        child.start()
        time.sleep(wait)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert not (tmp_path / "killed.h5").exists()
    assert (tmp_path / "killed.h5.partial").exists()
    _write_slowly(tmp_path / "killed.h5", ids)
    assert (tmp_path / "whole.h5").read_bytes() == (tmp_path / "killed.h5").read_bytes()
    assert not (tmp_path / "killed.h5.partial").exists()


def test_an_unfinished_file_of_another_plan_is_refused(tmp_path):
    with (
        pytest.raises(RuntimeError),
        RegionWriter(tmp_path / "r.h5", [7, 3], 3, 4, 5, source="test", resume=True) as writer,
    ):
        writer.write(7, **made_up(7))
        raise RuntimeError("stopped")
    with (
        pytest.raises(UserError, match="begun with other settings .*source: 'test' there, 'other' now"),
        RegionWriter(tmp_path / "r.h5", [7, 3], 3, 4, 5, source="other", resume=True),
    ):
        pass
    with RegionWriter(tmp_path / "r.h5", [7, 3], 3, 4, 5, source="test", resume=True) as writer:
        assert writer.written.tolist() == [7]
        writer.write(3, **made_up(3))
    assert_same(RegionStore(tmp_path / "r.h5").read(7), 7)


def test_a_second_writer_of_the_same_file_is_refused(tmp_path):
    with RegionWriter(tmp_path / "r.h5", [7], 3, 4, 5, source="test", resume=True) as writer:
        with (
            pytest.raises(UserError, match="written by another process"),
            RegionWriter(tmp_path / "r.h5", [7], 3, 4, 5, source="test", resume=True),
        ):
            pass
        writer.write(7, **made_up(7))


def test_an_unfinished_file_is_not_taken_for_a_finished_one(tmp_path):
    with (
        pytest.raises(RuntimeError),
        RegionWriter(tmp_path / "r.h5", [7, 3], 3, 4, 5, source="test", resume=True) as writer,
    ):
        writer.write(7, **made_up(7))
        raise RuntimeError("stopped")
    with pytest.raises(UserError, match="1 of 2 images are not written yet"):
        RegionStore(tmp_path / "r.h5.partial")
