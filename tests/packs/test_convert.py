"""Every feature pack becomes the same region file; what is wrong in a pack is named."""

import base64
import json
import multiprocessing
import os
import signal
import time
import zipfile

import h5py
import numpy as np
import pytest

from packs import pack_writers
from packs.pack_writers import CLASSES, COUNTS, DIM, HAVE_PROBS, HAVE_SCORES, SIZES, WRITERS, caffe_line, content
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs import writer as region_writer
from xmodaler_ssattn.packs.classifier import Classifier
from xmodaler_ssattn.packs.convert import convert_regions, read_sizes
from xmodaler_ssattn.packs.formats.caffe_tsv import CaffeTsv
from xmodaler_ssattn.packs.formats.regions import RegionPack
from xmodaler_ssattn.packs.formats.xmodaler_npz import XmodalerNpz, export_npz
from xmodaler_ssattn.packs.select import Rules
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.packs.writer import RegionWriter


def convert(pack, out, rules=None, **options):
    return convert_regions(pack, out, rules or Rules(), **{"sizes": SIZES, **options})


def classifier_file(path, background=None):
    rng = np.random.default_rng(5)
    extra = {} if background is None else {"background": background}
    np.savez(path, weight=rng.standard_normal((CLASSES, DIM)).astype(np.float32), bias=rng.random(CLASSES), **extra)
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_content(tmp_path, name):
    report = convert(WRITERS[name](tmp_path / "pack"), tmp_path / "r.h5")
    store = RegionStore(tmp_path / "r.h5")
    assert report.images == 3 and report.left_out == [] and report.cut_images == 0
    assert sorted(store.ids.tolist()) == [3, 7, 11]
    assert store.num_regions == 36 and store.feature_dim == DIM
    assert store.num_classes == (CLASSES if name in HAVE_PROBS else None)
    for image_id, size in SIZES.items():
        expected, regions = content(image_id), store.read(image_id)
        assert (regions.width, regions.height) == size
        np.testing.assert_array_equal(regions.boxes_px, expected["boxes"])
        np.testing.assert_array_equal(regions.features, expected["features"])
        if name in HAVE_PROBS:
            np.testing.assert_array_equal(regions.class_probs, expected["probs"])


@pytest.mark.parametrize("name", sorted(HAVE_SCORES))
def test_more_regions_than_wanted_are_cut_by_score_and_that_is_recorded(tmp_path, name):
    report = convert(WRITERS[name](tmp_path / "pack"), tmp_path / "r.h5", Rules(limit=2))
    assert report.cut_images == 2  # images 7 and 11 have four regions, image 3 has two
    store = RegionStore(tmp_path / "r.h5")
    for image_id in SIZES:
        # the slow version: the two best, in the source's order
        ranked = sorted(range(COUNTS[image_id]), key=lambda i: -content(image_id)["scores"][i])[:2]
        np.testing.assert_array_equal(store.read(image_id).features, content(image_id)["features"][sorted(ranked)])
    assert store.attributes["order"] == "as in the source" and "best class probability" in store.attributes["cut_by"]
    with h5py.File(tmp_path / "r.h5") as file:
        assert dict(zip(file["image_ids"][...].tolist(), file["source_boxes"][...].tolist())) == COUNTS


def test_sorted_regions_stand_in_descending_order_and_the_file_says_so(tmp_path):
    convert(WRITERS["lxmert_tsv"](tmp_path / "tsv"), tmp_path / "l.h5", Rules(limit=3, sort=True))
    assert RegionStore(tmp_path / "l.h5").attributes["order"] == "descending detector confidence"
    convert(WRITERS["vlp"](tmp_path / "pack"), tmp_path / "r.h5", Rules(limit=3, sort=True))
    store = RegionStore(tmp_path / "r.h5")
    assert store.attributes["order"] == "descending max class probability"
    for image_id in SIZES:
        best = store.read(image_id).class_probs[:, 1:].max(1)
        assert (np.diff(best) <= 0).all()


def test_regions_of_low_score_go_but_never_the_last_one(tmp_path):
    threshold = float(np.sort(content(7)["scores"])[1])  # two of image 7's four are above
    convert(WRITERS["gvd"](tmp_path / "pack"), tmp_path / "r.h5", Rules(min_score=threshold))
    assert RegionStore(tmp_path / "r.h5").num_boxes(7) == 2
    convert(WRITERS["gvd"](tmp_path / "pack2"), tmp_path / "r2.h5", Rules(min_score=0.999))
    assert [RegionStore(tmp_path / "r2.h5").num_boxes(image_id) for image_id in SIZES] == [1, 1, 1]


def test_without_scores_nothing_is_cut_unless_the_order_may_decide(tmp_path):
    pack = WRITERS["caffe_tsv"](tmp_path / "pack")
    with pytest.raises(UserError, match=r"4 regions must be cut to 3.*--classifier.*--max-regions 0.*--cut-by-order"):
        convert(pack, tmp_path / "r.h5", Rules(limit=3))
    convert(pack, tmp_path / "r.h5", Rules(limit=3, cut_by_order=True), overwrite=True)
    np.testing.assert_array_equal(RegionStore(tmp_path / "r.h5").read(7).features, content(7)["features"][:3])


def test_no_limit_keeps_all_and_makes_room_for_the_largest_image(tmp_path):
    report = convert(WRITERS["milvlg_npz"](tmp_path / "pack"), tmp_path / "r.h5", Rules(limit=None))
    assert report.num_regions == 4 and RegionStore(tmp_path / "r.h5").num_regions == 4


@pytest.mark.parametrize("background", ["first", "last"])
def test_class_probabilities_are_recomputed_by_the_detectors_classifier(tmp_path, background):
    path = classifier_file(tmp_path / "classifier.npz", background)
    convert(WRITERS["caffe_tsv"](tmp_path / "pack"), tmp_path / "r.h5", Rules(limit=3, classifier=Classifier(path)))
    store = RegionStore(tmp_path / "r.h5")
    assert store.num_classes == CLASSES and store.attributes["background"] == "first"
    with np.load(path) as arrays:
        for image_id in SIZES:
            features = content(image_id)["features"].astype(np.float64)
            scores = np.exp(features @ arrays["weight"].T.astype(np.float64) + arrays["bias"])
            probs = scores / scores.sum(1, keepdims=True)
            if background == "last":  # the last column is the background and moves to the front
                probs = probs[:, [CLASSES - 1, *range(CLASSES - 1)]]
            keep = np.sort(np.argsort(-probs[:, 1:].max(1))[:3])
            np.testing.assert_allclose(store.read(image_id).class_probs, probs[keep], atol=1e-6)


def test_the_packs_own_probabilities_win_over_the_classifier_and_are_rolled_when_asked(tmp_path):
    classifier = Classifier(classifier_file(tmp_path / "classifier.npz"))
    rules = Rules(classifier=classifier, background="last")
    convert(WRITERS["xmodaler_npz"](tmp_path / "pack"), tmp_path / "r.h5", rules)
    expected = content(7)["probs"]
    np.testing.assert_array_equal(
        RegionStore(tmp_path / "r.h5").read(7).class_probs, np.concatenate([expected[:, 4:], expected[:, :4]], 1)
    )


def test_probabilities_without_a_background_column_are_kept_as_they_are(tmp_path):
    convert(WRITERS["vlp"](tmp_path / "pack"), tmp_path / "r.h5", Rules(limit=1, background="none"))
    store = RegionStore(tmp_path / "r.h5")
    assert store.attributes["background"] == "none"
    best = content(7)["probs"].max(1).argmax()  # column 0 counts too
    np.testing.assert_array_equal(store.read(7).class_probs, content(7)["probs"][[best]])


def test_a_region_file_is_a_source_too_and_gets_its_probabilities_later(tmp_path):
    convert(WRITERS["caffe_tsv"](tmp_path / "pack"), tmp_path / "plain.h5")
    classifier = Classifier(classifier_file(tmp_path / "classifier.npz"))
    convert(RegionPack(tmp_path / "plain.h5"), tmp_path / "r.h5", Rules(classifier=classifier), probs_dtype="float16")
    store = RegionStore(tmp_path / "r.h5")
    np.testing.assert_array_equal(store.read(3).features, content(3)["features"])
    assert store.num_classes == CLASSES and store.attributes["classifier_sha256"] == classifier.sha256
    assert store.attributes["source"] == "caffe-tsv"  # where the features come from, not the last step


def test_npz_to_region_file_to_npz_gives_equal_arrays(tmp_path):
    convert(WRITERS["xmodaler_npz"](tmp_path / "pack"), tmp_path / "r.h5")
    assert export_npz(RegionStore(tmp_path / "r.h5"), tmp_path / "back") == 3
    for image_id in SIZES:
        name = f"{image_id}.npz"
        with np.load(tmp_path / "pack" / name) as old, np.load(tmp_path / "back" / name) as new:
            for key in ("image_w", "image_h", "num_boxes", "boxes", "features", "cls_prob"):
                np.testing.assert_array_equal(old[key], new[key])
                assert old[key].dtype == new[key].dtype, key
            assert int(new["image_id"]) == image_id


def test_only_images_of_the_data_set_are_taken_and_missing_ones_are_listed(tmp_path):
    pack = WRITERS["xmodaler_npz"](tmp_path / "pack")
    report = convert(pack, tmp_path / "r.h5", wanted=[11, 7])
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == [11, 7] and report.unused == 1
    with pytest.raises(UserError, match="(?s)2 problem.*image 50 of the data set is not in the pack.*image 60"):
        convert(pack, tmp_path / "r2.h5", wanted=[60, 7, 50])
    report = convert(pack, tmp_path / "r2.h5", wanted=[60, 7, 50], skip_bad=True)
    assert report.images == 1 and len(report.left_out) == 2
    assert json.loads((tmp_path / "r2.h5.left_out.json").read_text()) == report.left_out
    with pytest.raises(UserError, match="none of the 1 images of the data set"):
        convert(pack, tmp_path / "r3.h5", wanted=[60])


def test_sizes_come_from_the_annotations_where_the_pack_has_none_and_must_agree_where_it_has(tmp_path):
    with pytest.raises(UserError, match="have the size of image .*; give --annotations or --image-sizes"):
        convert(WRITERS["gic"](tmp_path / "gic"), tmp_path / "r.h5", sizes={})
    with pytest.raises(UserError, match=r"pack says 90 x 120, the annotations 120 x 90 \(width and height swapped\?\)"):
        convert(WRITERS["xmodaler_npz"](tmp_path / "npz"), tmp_path / "r.h5", sizes={3: (120, 90)})
    (tmp_path / "sizes.json").write_text('{"7": [100, 80]}')
    assert read_sizes(tmp_path / "sizes.json") == {7: (100, 80)}
    (tmp_path / "sizes.json").write_text('{"7": 100}')
    with pytest.raises(UserError, match='expected {"image id": \\[width, height\\]'):
        read_sizes(tmp_path / "sizes.json")


def damaged_tsv(tmp_path, lines):
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    return CaffeTsv([tmp_path / "a.tsv"])


def shortened(line):
    """A line whose features lost four base64 characters (three bytes)."""
    return line[:-4]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda line: line[:60], r"a\.tsv, line 2: 5 columns, expected 6 .*is the line cut short\?"),
        (shortened, r"a\.tsv, line 2 \(image 7\): features has \d+ bytes, expected a multiple of 16 bytes for 4 boxes"),
        (lambda line: line[:-3], r"line 2 \(image 7\): features is not base64 text"),
        (lambda line: line.replace("\t4\t", "\t3\t"), r"boxes has 64 bytes, expected 48 bytes for 3 boxes"),
        (lambda line: line.replace("\t4\t", "\tx\t"), "num_boxes is b'x', expected a whole number"),
        (lambda line: line.replace("7\t", "seven\t", 1), "line 2: the image id b'seven' is not an integer"),
        (lambda line: caffe_line(3), r"line 2: image 3 is duplicated: .*a\.tsv, line 1"),
        (lambda line: line.replace("\t100\t", "\t10\t"), r"leaves the image of 10 x 80"),
    ],
)
def test_a_damaged_tsv_line_is_named_and_skip_bad_continues(tmp_path, damage, message):
    lines = [caffe_line(3), damage(caffe_line(7)), caffe_line(11)]
    with pytest.raises(UserError, match=message):
        convert(damaged_tsv(tmp_path, lines), tmp_path / "r.h5", sizes={})
    assert not (tmp_path / "r.h5").exists()
    report = convert(damaged_tsv(tmp_path, lines), tmp_path / "r.h5", sizes={}, skip_bad=True)
    assert report.resumed == 2 and RegionStore(tmp_path / "r.h5").ids.tolist() == [3, 11]
    assert len(json.loads((tmp_path / "r.h5.left_out.json").read_text())) == 1


def rewrite(tmp_path, image_id=7, **change):
    """The X-modaler pack with one image's arrays changed (None removes a key)."""
    pack_writers.xmodaler_npz(tmp_path / "pack")
    path = tmp_path / "pack" / f"{image_id}.npz"
    with np.load(path) as old:
        arrays = {**old, **change}
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})
    return XmodalerNpz(tmp_path / "pack")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": None, "image_w": None}, r"7\.npz: the keys image_w, boxes are missing; it has cls_prob, features"),
        ({"features": np.array([{"a": 1}] * 4, dtype=object)}, r"7\.npz, key 'features': it needs pickle"),
        ({"image_h": np.array([1, 2])}, "key 'image_h': expected one whole number"),
        ({"num_boxes": np.array([5])}, "num_boxes is 5, but features has 4 rows"),
        ({"boxes": np.zeros((3, 4))}, r"boxes of shape \(3, 4\) for 4 features"),
        ({"cls_prob": np.zeros((3, 5))}, r"class probabilities of shape \(3, 5\), expected \(4, C\)"),
        ({"cls_prob": np.full((4, 7), 0.1)}, r"class_probs has shape \(4, 7\), expected \(4, 5\)"),
        ({"features": np.full((4, DIM), np.nan, np.float32)}, r"features\[0, 0\] is nan"),
        ({"boxes": np.tile([9, 0, 8, 5], (4, 1))}, "has x2 < x1"),
        ({"boxes": np.tile([0, 0, 0.5, 0.5], (4, 1))}, "these are fractions, expected pixels"),
        ({"features": np.zeros((20 << 20,), np.int8)}, r"features of shape|num_boxes is 4"),
        (
            {"features": np.zeros((80 << 20,), np.int8)},
            r"7\.npz: the keys .* unpack to 8\d,\d{3},\d{3} bytes, more than",
        ),
    ],
)
def test_a_bad_npz_is_named_with_its_key_and_skip_bad_continues(tmp_path, change, message):
    pack = rewrite(tmp_path, **change)
    with pytest.raises(UserError, match=message):
        convert(pack, tmp_path / "r.h5")
    report = convert(pack, tmp_path / "r.h5", skip_bad=True)
    assert report.images == 2 and len(report.left_out) == 1


def test_a_header_that_promises_more_than_the_file_has_reserves_no_memory(tmp_path):
    pack_writers.xmodaler_npz(tmp_path / "pack")
    path = tmp_path / "pack" / "7.npz"
    header = b"\x93NUMPY\x01\x00v\x00" + repr({"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}).encode()
    with zipfile.ZipFile(path, "a") as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != "features.npy"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("features.npy", header.ljust(127) + b"\n")
    with pytest.raises(UserError, match=r"7\.npz, key 'features': the header says \(1099511627776,\)"):
        convert(XmodalerNpz(tmp_path / "pack"), tmp_path / "r.h5")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"7\.npz: not an intact \.npz file"):
        convert(XmodalerNpz(tmp_path / "pack"), tmp_path / "r2.h5")


def test_an_existing_file_is_not_replaced_unless_asked(tmp_path):
    pack = WRITERS["xmodaler_npz"](tmp_path / "pack")
    convert(pack, tmp_path / "r.h5")
    with pytest.raises(UserError, match="exists already; give another name, or --overwrite"):
        convert(pack, tmp_path / "r.h5")
    convert(pack, tmp_path / "r.h5", overwrite=True)


def test_a_broken_classifier_is_named(tmp_path):
    np.savez(tmp_path / "c.npz", weight=np.zeros((5, 6)), bias=np.zeros(4))
    with pytest.raises(UserError, match=r"weight has shape \(5, 6\) and bias \(4,\)"):
        Classifier(tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", weight=np.zeros((5, 7)), bias=np.zeros(5))
    with pytest.raises(UserError, match="features of 6 numbers, the classifier .* takes 7"):
        convert(
            WRITERS["caffe_tsv"](tmp_path / "pack"), tmp_path / "r.h5", Rules(classifier=Classifier(tmp_path / "c.npz"))
        )


def many_images(folder, count):
    """A tsv of ``count`` images; reading one takes a moment, so that a kill falls in between."""
    original = CaffeTsv.read

    class Slow(CaffeTsv):
        def read(self, image_id):
            time.sleep(0.002)
            return original(self, image_id)

    folder.mkdir(exist_ok=True)
    line = caffe_line(7)
    (folder / "a.tsv").write_text("".join(f"{image_id}{line[1:]}\n" for image_id in range(1, count + 1)))
    return Slow([folder / "a.tsv"])


def _convert_many(folder, out):
    convert(many_images(folder, 300), out, sizes={})


def _killed_in_write(pack, out, count: int) -> None:
    """Convert, and be killed when so many images were written by this process."""
    original, seen = RegionWriter.write, []

    def write(self, image_id, width, height, boxes_px, features, class_probs, **more):
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(image_id)
        return original(self, image_id, width, height, boxes_px, features, class_probs, **more)

    region_writer.ROWS_PER_SYNC = 5  # rows are vouched for five at a time
    RegionWriter.write = write
    _convert_many(pack, out)


def test_killed_at_any_moment_and_started_again_the_bytes_are_those_of_one_run(tmp_path):
    _convert_many(tmp_path / "pack", tmp_path / "whole.h5")
    context = multiprocessing.get_context("fork")
    kept = []
    for count in (0, 7, 120, 1):  # of 300 images; each run goes on where the one before was killed
        child = context.Process(target=_killed_in_write, args=(tmp_path / "pack", tmp_path / "killed.h5", count))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not (tmp_path / "killed.h5").exists()
        with h5py.File(tmp_path / "killed.h5.partial") as file:
            kept.append(int((file["num_boxes"][...] >= 0).sum()))
    assert kept == [0, 5, 125, 125]  # 7 written: 5 vouched for; 120 more: all; 1 more: not yet
    report = convert(many_images(tmp_path / "pack", 300), tmp_path / "killed.h5", sizes={})
    assert report.resumed == 125
    assert (tmp_path / "whole.h5").read_bytes() == (tmp_path / "killed.h5").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["killed.h5", "pack", "whole.h5"]


def test_an_unfinished_file_is_not_resumed_from_another_pack(tmp_path):
    damaged = [caffe_line(3), shortened(caffe_line(7)), caffe_line(11)]
    with pytest.raises(UserError, match="1 problem"):
        convert(damaged_tsv(tmp_path, damaged), tmp_path / "r.h5", sizes={})
    # the same images, the features of image 3 negated: another detector's
    features = base64.b64encode((-content(3)["features"]).tobytes()).decode()
    other = "\t".join([*caffe_line(3).split("\t")[:5], features])
    with pytest.raises(UserError, match=r"r\.h5\.partial was begun from another pack: image 3"):
        convert(damaged_tsv(tmp_path, [other, caffe_line(7), caffe_line(11)]), tmp_path / "r.h5", sizes={})
    assert not (tmp_path / "r.h5").exists()
    repaired = damaged_tsv(tmp_path, [caffe_line(3), caffe_line(7), caffe_line(11)])
    assert convert(repaired, tmp_path / "r.h5", sizes={}).resumed == 2


@pytest.mark.parametrize("change", ["background", "sizes", "probabilities"])
def test_an_unfinished_file_is_not_resumed_when_the_same_pack_would_be_read_otherwise(tmp_path, change):
    pack = WRITERS["vlp"](tmp_path / "pack")
    damaged = tmp_path / "pack" / "7.npy"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-4])
    with pytest.raises(UserError, match="1 problem"):
        convert(pack, tmp_path / "r.h5")
    damaged.write_bytes(good)
    rules, sizes, message = Rules(), SIZES, "begun from another pack: image 3 has other .* class probabilities"
    if change == "background":
        rules = Rules(background="last")
    elif change == "sizes":
        sizes, message = {**SIZES, 11: (70, 64)}, r"image 11 is \(64, 64\) there, \(70, 64\) now"
    else:
        np.save(tmp_path / "pack" / "3_cls_prob.npy", content(3)["probs"][:, ::-1])
    with pytest.raises(UserError, match=message):
        convert(pack, tmp_path / "r.h5", rules, sizes=sizes)
    (tmp_path / "r.h5.partial").unlink()
    assert convert(pack, tmp_path / "r.h5", rules, sizes=sizes).images == 3


@pytest.mark.filterwarnings("error")
def test_features_that_are_not_finite_are_named_with_their_file_and_pass_a_classifier_in_silence(tmp_path):
    pack = rewrite(tmp_path, features=np.full((4, DIM), np.nan, np.float32), cls_prob=None)
    rules = Rules(classifier=Classifier(classifier_file(tmp_path / "classifier.npz")))
    with pytest.raises(UserError, match=r"pack/7\.npz: features\[0, 0\] is nan: not a finite number"):
        convert(pack, tmp_path / "r.h5", rules, wanted=[7, 3])


def test_a_file_given_for_a_folder_or_the_reverse_is_said_to_be_one(tmp_path):
    (tmp_path / "a.tsv").write_text("x")
    with pytest.raises(UserError, match=r"a\.tsv is a file, this format has a folder"):
        XmodalerNpz(tmp_path / "a.tsv")
    with pytest.raises(UserError, match="these are folders"):
        CaffeTsv([tmp_path])


def test_a_pack_without_one_good_line_shows_its_lines(tmp_path):
    with pytest.raises(UserError, match=r"(?s)the pack has 0 images.*line 1: 1 columns, expected 6"):
        convert(damaged_tsv(tmp_path, ["no table"]), tmp_path / "r.h5")
