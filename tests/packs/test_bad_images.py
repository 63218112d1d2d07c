"""One bad image, whichever it is and whatever it raises, is named, and the others are converted."""

import base64
import gzip
import json
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from packs.pack_writers import CLASSES, DIM, SIZES, WRITERS, caffe_line, content
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.checks import inspect_boxes, inspect_numbers
from xmodaler_ssattn.packs.classifier import Classifier
from xmodaler_ssattn.packs.convert import convert_regions, read_sizes
from xmodaler_ssattn.packs.formats import all_formats, tsv
from xmodaler_ssattn.packs.formats.caffe_tsv import CaffeTsv
from xmodaler_ssattn.packs.formats.lxmert_tsv import LxmertTsv
from xmodaler_ssattn.packs.formats.tsv import decode
from xmodaler_ssattn.packs.formats.xmodaler_npz import XmodalerNpz
from xmodaler_ssattn.packs.pack import PackError
from xmodaler_ssattn.packs.select import Rules
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter


def convert(pack, out, rules=None, **options):
    return convert_regions(pack, out, rules or Rules(), **{"sizes": SIZES, "skip_bad": True, **options})


EXCEPTIONS = (
    ValueError("v"), KeyError("k"), IndexError("i"), TypeError("t"), AttributeError("a"), zlib.error("z"),
    zipfile.BadZipFile("b"), OSError(5, "input/output error"), struct.error("s"), MemoryError("m"), RecursionError("r"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "u"), OverflowError("o"), EOFError("e"), AssertionError("q"),
    RuntimeError("w"), UserError("x"),
)  # fmt: skip


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_whatever_one_image_raises_the_others_continue_and_type_and_text_are_kept(tmp_path, error):
    WRITERS["caffe_tsv"](tmp_path / "pack")

    class Raises(CaffeTsv):
        def _read(self, image_id):
            if image_id == 7:  # the first
                raise error
            return super()._read(image_id)

    report = convert(Raises(sorted((tmp_path / "pack").glob("*.tsv"))), tmp_path / "r.h5")
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == [3, 11]
    (problem,) = report.left_out
    if not isinstance(error, UserError):
        assert "a.tsv, line 1 (image 7)" in problem and type(error).__name__ in problem
    assert str(error) in problem


def test_an_image_without_the_right_to_read_it_is_not_called_damaged(tmp_path):
    WRITERS["caffe_tsv"](tmp_path / "pack")

    class Closed(CaffeTsv):
        def _read(self, image_id):
            raise PermissionError(13, "Permission denied")

    with pytest.raises(UserError, match=r"Permission denied\); do you have permission to read it\?"):
        Closed([tmp_path / "pack" / "a.tsv"]).read(7)


def test_a_person_who_stops_the_program_stops_it(tmp_path):
    WRITERS["caffe_tsv"](tmp_path / "pack")

    class Stopped(CaffeTsv):
        def _read(self, image_id):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(Stopped(sorted((tmp_path / "pack").glob("*.tsv"))), tmp_path / "r.h5")


def test_a_full_disk_is_not_the_fault_of_an_image(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    pack = WRITERS["xmodaler_npz"](tmp_path / "pack")
    monkeypatch.setattr(RegionWriter, "_put", full)
    with pytest.raises(OSError, match="No space left"):
        convert(pack, tmp_path / "r.h5")


def without(arrays, key):
    return {name: value for name, value in arrays.items() if name != key}


# What the one image has: its arrays, changed. Widths, the class probabilities and their presence.
ODD = {
    "wider features": lambda a: {**a, "features": np.tile(a["features"], 2)},
    "wider probabilities": lambda a: {**a, "cls_prob": np.tile(a["cls_prob"] / 2, 2)},
    "no probabilities": lambda a: without(a, "cls_prob"),
    "no boxes": lambda a: without(a, "boxes"),
    "no features": lambda a: without(a, "features"),
    "no width": lambda a: without(a, "image_w"),
    "one box less": lambda a: {**a, "boxes": a["boxes"][1:]},
}


@pytest.mark.parametrize("image_id", SIZES)
@pytest.mark.parametrize("what", ODD)
def test_the_one_image_that_differs_is_named_also_when_it_is_the_first(tmp_path, image_id, what):
    WRITERS["xmodaler_npz"](tmp_path / "pack")
    path = tmp_path / "pack" / f"{image_id}.npz"
    with np.load(path) as old:
        arrays = dict(old)
    np.savez(path, **ODD[what](arrays))
    with pytest.raises(UserError, match=rf"(?s)^1 problem.*/{image_id}\.npz"):
        convert(XmodalerNpz(tmp_path / "pack"), tmp_path / "r.h5", skip_bad=False)
    report = convert(XmodalerNpz(tmp_path / "pack"), tmp_path / "r.h5", overwrite=True)
    store = RegionStore(tmp_path / "r.h5")
    assert store.ids.tolist() == [other for other in sorted(SIZES) if other != image_id]
    assert (store.feature_dim, store.num_classes) == (DIM, CLASSES)
    assert len(report.left_out) == 1 and f"{image_id}.npz" in report.left_out[0]


def test_probabilities_that_one_image_alone_has_are_named_too(tmp_path):
    WRITERS["xmodaler_npz"](tmp_path / "pack")
    for image_id in (7, 11):
        with np.load(tmp_path / "pack" / f"{image_id}.npz") as old:
            np.savez(tmp_path / "pack" / f"{image_id}.npz", **without(old, "cls_prob"))
    report = convert(XmodalerNpz(tmp_path / "pack"), tmp_path / "r.h5")
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == [7, 11]
    assert "3.npz: class_probs are given, unlike those of most images" in report.left_out[0]


def test_two_images_that_disagree_are_both_named_since_neither_may_decide(tmp_path):
    WRITERS["xmodaler_npz"](tmp_path / "pack")
    (tmp_path / "pack" / "11.npz").unlink()
    with np.load(tmp_path / "pack" / "3.npz") as old:
        np.savez(tmp_path / "pack" / "3.npz", **ODD["wider features"](dict(old)))
    with pytest.raises(UserError, match=r"Numbers in a feature: 12 in .*3\.npz; 6 in .*7\.npz"):
        convert(XmodalerNpz(tmp_path / "pack"), tmp_path / "r.h5")


def test_an_image_with_probabilities_of_its_own_does_not_mix_with_those_of_a_classifier(tmp_path):
    """The classifier has its background in no column, the pack's one image has it first: they are not the same c."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "c.npz", weight=rng.random((CLASSES, DIM)), bias=rng.random(CLASSES), background="none")
    WRITERS["xmodaler_npz"](tmp_path / "pack")
    for image_id in (7, 11):
        with np.load(tmp_path / "pack" / f"{image_id}.npz") as old:
            np.savez(tmp_path / "pack" / f"{image_id}.npz", **without(old, "cls_prob"))
    rules = Rules(classifier=Classifier(tmp_path / "c.npz"))
    report = convert(XmodalerNpz(tmp_path / "pack"), tmp_path / "r.h5", rules)
    assert RegionStore(tmp_path / "r.h5").attributes["background"] == "none"
    assert (
        len(report.left_out) == 1
        and "3.npz: the background of its class probabilities is 'first'" in report.left_out[0]
    )


def test_room_is_made_for_the_largest_image_though_another_cannot_be_counted(tmp_path):
    WRITERS["milvlg_npz"](tmp_path / "pack")
    (tmp_path / "pack" / "3.npz").write_bytes(b"")
    report = convert(
        type(WRITERS["milvlg_npz"](tmp_path / "other"))(tmp_path / "pack"), tmp_path / "r.h5", Rules(limit=None)
    )
    assert report.num_regions == 4 and RegionStore(tmp_path / "r.h5").ids.tolist() == [7, 11]


def test_a_compressed_tsv_that_is_cut_short_gives_the_lines_before(tmp_path):
    WRITERS["lxmert_tsv"](tmp_path / "pack")
    data = (tmp_path / "pack" / "a.tsv").read_bytes()
    noise = np.random.default_rng(0).bytes(30000)  # so that the cut is far behind the last good line
    packed = gzip.compress(data + noise.hex().encode() + b"\n")
    (tmp_path / "a.tsv.gz").write_bytes(packed[:-20000])
    report = convert(LxmertTsv([tmp_path / "a.tsv.gz"]), tmp_path / "r.h5")
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == list(SIZES)
    assert any("a.tsv.gz: it cannot be read beyond line 3 (EOFError" in problem for problem in report.left_out)


def test_a_part_that_cannot_be_read_leaves_the_other_parts(tmp_path):
    WRITERS["caffe_tsv"](tmp_path / "pack")
    (tmp_path / "pack" / "a.tsv").write_bytes(b"\x28\xb5\x2f\xfd....")
    report = convert(CaffeTsv(sorted((tmp_path / "pack").glob("*.tsv"))), tmp_path / "r.h5")
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == [11]
    assert "a.tsv: it is compressed with zstd" in report.left_out[0]


def test_rows_stand_in_the_order_of_the_data_set_whatever_that_of_the_pack(tmp_path):
    pack = WRITERS["caffe_tsv"](tmp_path / "pack")
    convert(pack, tmp_path / "r.h5", wanted=[11, 3, 7])
    store = RegionStore(tmp_path / "r.h5")
    assert store.ids.tolist() == [11, 3, 7]
    for image_id in SIZES:
        np.testing.assert_array_equal(store.read(image_id).features, content(image_id)["features"])


@pytest.mark.parametrize(("text", "message"), [
    ('{"7": [100, 80], "007": [1, 1]}', "image 7 is duplicated"), ('{"7": [100.7, 80]}', r"size \[100.7, 80\]"),
    ('{"7": [100, 80, 3]}', r"the size \[100, 80, 3\]"), ('{"7": ["100", "80"]}', "the size"), ("[1]", "found a list"),
    ('{"7": [true, 80]}', "the size"), ('{"7": [0, 80]}', "the size"), ('{"-7": [1, 1]}', "'-7' is not an integer"),
    ('{"1e9": [1, 1]}', "'1e9' is not an integer"),
])  # fmt: skip
def test_sizes_that_are_none_are_named(tmp_path, text, message):
    (tmp_path / "sizes.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_sizes(tmp_path / "sizes.json")


@pytest.mark.parametrize(("change", "message"), [
    ({"weight": np.ones((CLASSES, DIM), int)}, "weight is of type int64"),
    ({"bias": np.ones(CLASSES).astype(str)}, "bias is of type <U"),
    ({"weight": np.full((CLASSES, DIM), 0.3, np.float32).byteswap()}, "weight looks wrong: .*byte order"),
    ({"background": np.array("front")}, "background is 'front'"),
    ({"background": np.array(b"last")}, None), ({"weight": np.full((CLASSES, DIM), 0.3, ">f4")}, None),
])  # fmt: skip
def test_a_classifier_of_other_numbers_is_read_right_or_refused(tmp_path, change, message):
    weight = np.full((CLASSES, DIM), 0.3, np.float32)
    np.savez(tmp_path / "c.npz", **{"weight": weight, "bias": np.zeros(CLASSES, np.float32), **change})
    if message is None:
        np.testing.assert_allclose(Classifier(tmp_path / "c.npz")(np.ones((1, DIM))), 1 / CLASSES, rtol=1e-6)
    else:
        with pytest.raises(UserError, match=message):
            Classifier(tmp_path / "c.npz")


def test_a_check_of_a_region_file_names_the_images_without_regions_and_continues(tmp_path):
    convert(WRITERS["xmodaler_npz"](tmp_path / "pack"), tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5", "r+") as file:  # images 3, 7, 11
        file["num_boxes"][0] = 0
        file["class_probs"][1] *= -1
        file["boxes"][2] /= 1000
    store = RegionStore(tmp_path / "r.h5")
    problems = inspect_boxes(store, [3, 7, 11]).problems + inspect_numbers(store, [3, 7, 11], True).problems
    assert len(problems) == 3
    assert "1 images have no region" in problems[0] and "[3]" in problems[0]
    assert "fractions" in problems[1] and "[11]" in problems[1]
    assert "Image 7 in" in problems[2] and "before the softmax?" in problems[2]


@pytest.mark.parametrize(("name", "value", "message"), [
    ("image_ids", -7, r"image ids must be 0 or more; found \[-7\]"),
    ("image_size", 2**32 + 100, r"at most 1,000,000; wrong for image ids \[3\]"),
    ("image_size", int(np.int32(100).byteswap()), r"at most 1,000,000; wrong for image ids \[3\]"),
])  # fmt: skip
def test_a_region_file_of_another_program_is_not_reinterpreted(tmp_path, name, value, message):
    convert(WRITERS["xmodaler_npz"](tmp_path / "pack"), tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        values = file[name][...].astype(np.int64)
        values.reshape(-1)[0] = value
        del file[name]
        file[name] = values
    with pytest.raises(UserError, match=message):
        RegionStore(tmp_path / "r.h5")


def test_nothing_is_left_out_without_a_word(tmp_path):
    """Every file of a folder is an image of the result or is listed, unless its name has no "npz"."""
    WRITERS["xmodaler_npz"](tmp_path / "pack")
    for name in ("8.npz.gz", "img_1_2.npz", "07.npz", "notes.txt", ".hidden.npz"):
        (tmp_path / "pack" / name).write_bytes(b"x")
    report = convert(XmodalerNpz(tmp_path / "pack"), tmp_path / "r.h5")
    left_out = json.loads((tmp_path / "r.h5.left_out.json").read_text())
    assert report.images == 2 and left_out == report.left_out
    for name in ("8.npz.gz", "img_1_2.npz", "07.npz"):
        assert sum(f"/{name}" in problem for problem in left_out) >= 1, name


def test_an_empty_part_is_named(tmp_path):
    WRITERS["caffe_tsv"](tmp_path / "pack")
    (tmp_path / "pack" / "b.tsv").write_bytes(b"")
    report = convert(CaffeTsv(sorted((tmp_path / "pack").glob("*.tsv"))), tmp_path / "r.h5")
    assert (
        RegionStore(tmp_path / "r.h5").ids.tolist() == [7, 3] and "b.tsv: it contains no images" in report.left_out[0]
    )


def test_one_absurd_number_among_many_is_enough(tmp_path):
    pack = WRITERS["gic"](tmp_path / "pack")
    features = np.ones((4, 100_000), np.float32)
    for image_id in SIZES:
        features[3, 99_999] = 1e30 if image_id == 7 else 2
        np.savez(tmp_path / "pack" / "att" / f"{image_id}.npz", feat=features[: len(content(image_id)["boxes"])])
    report = convert(pack, tmp_path / "r.h5")
    assert len(report.left_out) == 1 and "7.npz" in report.left_out[0] and "one is 1e+30" in report.left_out[0]


def read_all(name, folder):
    if name == "regions":
        store = RegionStore(folder / "boxes.h5")
        return [store.read(image_id) for image_id in store.ids.tolist()]
    more = [folder / "dic.json"] if name == "gvd" else []
    pack = all_formats()[name](folder, folder / "boxes.h5", *more)
    return [pack.read(image_id) for image_id in pack.ids()]


@pytest.mark.parametrize("name", ["regions", "vlp", "gvd"])
def test_a_damaged_hdf5_file_is_named_whatever_hdf5_raises(tmp_path, name):
    """Each 64 bytes of the file's structure are overwritten in turn: what is left is read, or refused with its name."""
    pack = WRITERS["xmodaler_npz" if name == "regions" else name](tmp_path / "pack")
    path = tmp_path / "pack" / "boxes.h5"
    if name == "regions":
        convert(pack, path)
    data = path.read_bytes()
    refused = []
    for start in range(0, min(len(data), 4096), 64):
        path.write_bytes(data[:start] + b"\xa6" * 64 + data[start + 64 :])
        try:
            read_all(name, tmp_path / "pack")
        except UserError as error:
            refused.append(str(error))
    assert refused and all("boxes.h5" in message for message in refused)


def test_half_precision_is_told_from_single_by_all_numbers_not_by_the_first_ones():
    halves = np.full(2 * 600, 1.5, "<f2")  # 600 words that read as ordinary float32 numbers, too
    row = {"features": base64.b64encode(halves.tobytes())}
    with pytest.raises(PackError, match="like float16"):
        decode(row, "features", "a.tsv, line 1", 1, None)
    halves[2 * 550] = 8192  # the lower half of word 550: no feature, but any bits may end a float32 number
    row = {"features": base64.b64encode(halves.tobytes())}
    assert decode(row, "features", "a.tsv, line 1", 1, None).shape == (1, 600)


def test_a_line_that_is_too_long_is_named_and_the_lines_after_it_are_read(tmp_path, monkeypatch):
    lines = [caffe_line(image_id).encode() for image_id in SIZES]
    monkeypatch.setattr(tsv, "MAX_LINE", 1000)
    assert max(map(len, lines)) < 1000
    path = tmp_path / "a.tsv"
    path.write_bytes(lines[0] + b"\n" + b"x" * 2500 + b"\n" + lines[1] + b"\n" + lines[2] + b"\n" + b"y" * 1000)
    report = convert(CaffeTsv([path]), tmp_path / "r.h5")
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == list(SIZES)
    assert [problem.split(": ")[0] for problem in report.left_out] == [f"{path}, line 2", f"{path}, line 5"]
    assert all("longer than 1,000 bytes" in problem for problem in report.left_out)


def test_carriage_returns_as_line_ends_of_a_tsv_are_told(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\r".join(caffe_line(image_id).encode() for image_id in SIZES) + b"\r")
    assert "16 columns, expected 6" in CaffeTsv([path]).problems[0]
    assert "end the lines with line feeds" in CaffeTsv([path]).problems[0]
