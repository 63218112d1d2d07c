"""The real Bottom-Up features of ten COCO pictures, read, rewritten in every format, and damaged."""

import base64
import bz2
import gzip
import json
import lzma
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.ids import id_in_name
from xmodaler_ssattn.packs.checks import inspect_boxes, inspect_numbers
from xmodaler_ssattn.packs.convert import convert_regions
from xmodaler_ssattn.packs.formats.caffe_tsv import CaffeTsv
from xmodaler_ssattn.packs.formats.gic import GroundedImageCaptioning
from xmodaler_ssattn.packs.formats.gvd import GroundedVideoDescription
from xmodaler_ssattn.packs.formats.lxmert_tsv import LxmertTsv
from xmodaler_ssattn.packs.formats.milvlg_npz import MilvlgNpz
from xmodaler_ssattn.packs.formats.regions import RegionPack
from xmodaler_ssattn.packs.formats.vlp import VisionLanguagePretraining
from xmodaler_ssattn.packs.formats.xmodaler_npz import XmodalerNpz, export_npz
from xmodaler_ssattn.packs.select import Rules
from xmodaler_ssattn.packs.store import RegionStore

REAL = Path(os.environ.get("SSATTN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "real_regions"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real regions in {REAL.parent}; set SSATTN_TEST_DATA")
ROWS = 3  # of the ten, where the format and not the amount is tried
COLUMNS = LxmertTsv.columns


@pytest.fixture(scope="module")
def lines():
    return (REAL / "train2014_obj36.tsv").read_bytes().splitlines()


@pytest.fixture(scope="module")
def truth(lines):
    """image id -> width, height, boxes, features, scores, by the shortest way that there is."""
    found = {}
    for line in lines:
        row = dict(zip(COLUMNS, line.split(b"\t")))
        arrays = [np.frombuffer(base64.b64decode(row[key]), "<f4") for key in ("boxes", "features", "objects_conf")]
        found[int(row["img_id"].split(b"_")[-1])] = (
            int(row["img_w"]),
            int(row["img_h"]),
            arrays[0].reshape(36, 4),
            arrays[1].reshape(36, 2048),
            arrays[2],
        )
    return found


def assert_equal(path, truth, count):
    store = RegionStore(path)
    assert len(store) == count and (store.num_regions, store.feature_dim) == (36, 2048)
    for image_id in store.ids.tolist():
        regions, (width, height, boxes, features, _) = store.read(image_id), truth[image_id]
        assert (regions.width, regions.height) == (width, height)
        np.testing.assert_array_equal(regions.boxes_px, boxes)
        np.testing.assert_array_equal(regions.features, features)


def test_all_ten_are_read_and_belong_to_their_pictures(tmp_path, truth):
    report = convert_regions(LxmertTsv([REAL / "train2014_obj36.tsv"]), tmp_path / "r.h5", Rules())
    assert report.images == 10 and report.left_out == []
    assert_equal(tmp_path / "r.h5", truth, 10)
    store = RegionStore(tmp_path / "r.h5")
    pictures = {id_in_name(path): path for path in (REAL / "images").iterdir()}
    assert sorted(pictures) == sorted(store.ids.tolist())
    for image_id, path in pictures.items():
        with Image.open(path) as picture:
            assert picture.size == store.image_size(image_id)
        boxes, features = store.boxes_px(image_id), store.read(image_id).features
        assert boxes.shape == (36, 4) and features.min() == 0 and 1 < features.max() < 100
        assert (boxes >= 0).all() and (boxes <= np.array([*store.image_size(image_id)] * 2)).all()
    ids = store.ids.tolist()
    for found in (inspect_boxes(store, ids), inspect_numbers(store, ids, False)):
        assert found.problems == [] and found.warnings == []
    # and once more as our own format, and as X-modaler's
    convert_regions(RegionPack(tmp_path / "r.h5"), tmp_path / "again.h5", Rules())
    assert_equal(tmp_path / "again.h5", truth, 10)
    export_npz(store, tmp_path / "npz")
    convert_regions(XmodalerNpz(tmp_path / "npz"), tmp_path / "back.h5", Rules())
    assert_equal(tmp_path / "back.h5", truth, 10)


def text(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def as_caffe(folder, images):
    with open(folder / "a.tsv", "w") as file:
        for image_id, (width, height, boxes, features, _) in images.items():
            print(image_id, width, height, 36, text(boxes), text(features), sep="\t", file=file)
    return CaffeTsv([folder / "a.tsv"])


def as_milvlg(folder, images):
    for image_id, (width, height, boxes, features, _) in images.items():
        name = f"COCO_train2014_{image_id:012}.jpg.npz"
        np.savez(folder / name, x=features, bbox=boxes, num_bbox=36, image_w=width, image_h=height, info={"a": 1})
    return MilvlgNpz(folder)


def as_gvd(folder, images):
    labels = np.zeros((len(images), 100, 6))
    for row, (image_id, (_, _, boxes, features, scores)) in enumerate(images.items()):
        labels[row, :36] = np.concatenate([boxes, np.ones((36, 1)), scores[:, None]], 1)
        np.save(folder / f"{image_id}.npy", features)
    with h5py.File(folder / "b.h5", "w") as file:
        file["dets_labels"], file["nms_num"] = labels, np.full(len(images), 36.0)
    listed = [{"id": image_id, "split": "train", "file_path": f"{image_id}.jpg"} for image_id in images]
    (folder / "dic.json").write_text(json.dumps({"images": listed}))
    return GroundedVideoDescription(folder, folder / "b.h5", folder / "dic.json")


def as_vlp(folder, images):
    with h5py.File(folder / "b.h5", "w") as file:
        for image_id, (_, _, boxes, features, scores) in images.items():
            np.save(folder / f"{image_id}.npy", features)
            file[str(image_id)] = np.concatenate([boxes, np.ones((36, 1)), scores[:, None]], 1)
    return VisionLanguagePretraining(folder, folder / "b.h5")


def as_gic(folder, images):
    for image_id, (_, _, boxes, features, _) in images.items():
        np.savez(folder / f"{image_id}.npz", feat=features)
        np.save(folder / f"{image_id}.npy", boxes)
    return GroundedImageCaptioning(folder, folder)


@pytest.mark.parametrize("writer", [as_caffe, as_milvlg, as_gvd, as_vlp, as_gic])
def test_rewritten_in_every_format_they_stay_equal(tmp_path, truth, writer):
    (tmp_path / "pack").mkdir()
    images = dict(list(truth.items())[:ROWS])
    sizes = {image_id: image[:2] for image_id, image in images.items()}
    convert_regions(writer(tmp_path / "pack", images), tmp_path / "r.h5", Rules(), sizes=sizes)
    assert_equal(tmp_path / "r.h5", truth, ROWS)


def changed(lines, key, change, dtype="<f4"):
    """The first lines with one column changed."""
    at = COLUMNS.index(key)
    for line in lines[:ROWS]:
        values = line.split(b"\t")
        values[at] = text(change(np.frombuffer(base64.b64decode(values[at]), dtype))).encode()
        yield b"\t".join(values)


def joined(lines):
    return b"\n".join(lines) + b"\n"


RIGHT = {
    "gz": lambda lines: gzip.compress(joined(lines), 1), "bz2": lambda lines: bz2.compress(joined(lines)),
    "xz": lambda lines: lzma.compress(joined(lines), preset=0),
    "b'...'": lambda lines: joined(b"\t".join(b"b'" + value + b"'" for value in line.split(b"\t")) for line in lines),
    "a header": lambda lines: joined(["\t".join(COLUMNS).encode(), *lines]), "CRLF": lambda lines: b"\r\n".join(lines),
}  # fmt: skip
REFUSED = {
    "swapped": (lambda lines: changed(lines, "features", lambda a: a.byteswap()), "features does not hold float32"),
    "float16": (lambda lines: changed(lines, "features", lambda a: a.astype("<f2")), "features does not hold float32"),
    "float64": (lambda lines: changed(lines, "features", lambda a: a.astype("<f8")), "features does not hold float32"),
    "boxes swapped": (lambda lines: changed(lines, "boxes", lambda a: a.byteswap()), "boxes does not hold float32"),
    "boxes float16": (lambda lines: changed(lines, "boxes", lambda a: a.astype("<f2")), "boxes has 288 bytes"),
    "fractions": (lambda lines: changed(lines, "boxes", lambda a: a / 640), "these are fractions"),
    "percent": (lambda lines: changed(lines, "objects_conf", lambda a: 100 * a), "the score .* in percent"),
    "ids swapped": (lambda lines: changed(lines, "objects_id", lambda a: a.byteswap(), "<i8"), "objects_id does not"),
    "more columns": (lambda lines: [line + b"\t1" for line in lines[:ROWS]], "11 columns, expected 10"),
    "fewer columns": (lambda lines: [line[: line.rindex(b"\t")] for line in lines[:ROWS]], "9 columns, expected 10"),
    "cut": (lambda lines: [line[:-1] for line in lines[:ROWS]], "features is not base64"),
}  # fmt: skip


@pytest.mark.parametrize("what", RIGHT)
def test_in_another_wrapping_they_are_read_right(tmp_path, lines, truth, what):
    (tmp_path / "a.tsv").write_bytes(RIGHT[what](lines[:ROWS]))
    convert_regions(LxmertTsv([tmp_path / "a.tsv"]), tmp_path / "r.h5", Rules())
    assert_equal(tmp_path / "r.h5", truth, ROWS)


@pytest.mark.parametrize("what", REFUSED)
def test_as_another_type_or_unit_they_are_refused(tmp_path, lines, what):
    change, message = REFUSED[what]
    (tmp_path / "a.tsv").write_bytes(joined(change(lines)))
    with pytest.raises(UserError, match=message):
        convert_regions(LxmertTsv([tmp_path / "a.tsv"]), tmp_path / "r.h5", Rules(), skip_bad=True)
    assert not (tmp_path / "r.h5").exists()
