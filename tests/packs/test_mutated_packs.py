"""Packs in which one thing is not what the format says: read right, or refused with a reason, never reinterpreted.

``TABLE`` shows the whole kind at one glance. A mutation changes image 7 of three, or every image; the outcome is RIGHT
(all three images with exactly their numbers) or the pattern of the refusal. With ``--skip-bad`` a refusal of image 7
keeps the other two, with exactly their numbers, and a refusal of all writes nothing.
"""

# ruff: noqa: E501 (one case, one line)

import base64
import bz2
import gzip
import lzma
import re
import zipfile

import h5py
import numpy as np
import pytest

from packs.pack_writers import HAVE_PROBS, SIZES, WRITERS, content
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.convert import convert_regions
from xmodaler_ssattn.packs.formats.caffe_tsv import CaffeTsv
from xmodaler_ssattn.packs.formats.gic import GroundedImageCaptioning
from xmodaler_ssattn.packs.formats.gvd import GroundedVideoDescription
from xmodaler_ssattn.packs.formats.lxmert_tsv import LxmertTsv
from xmodaler_ssattn.packs.formats.milvlg_npz import MilvlgNpz
from xmodaler_ssattn.packs.formats.regions import RegionPack
from xmodaler_ssattn.packs.formats.vlp import VisionLanguagePretraining
from xmodaler_ssattn.packs.formats.xmodaler_npz import XmodalerNpz
from xmodaler_ssattn.packs.select import Rules
from xmodaler_ssattn.packs.store import RegionStore

RIGHT = object()
BAD = 7  # the first image of every pack but gvd's, where it is the second


# --- how a pack of each format is opened again after a change --------------------------------------------
def reopen(name, folder):
    if name in ("caffe_tsv", "lxmert_tsv"):
        reader = CaffeTsv if name == "caffe_tsv" else LxmertTsv
        return reader(sorted(path for path in folder.iterdir() if ".tsv" in path.name))
    return {
        "xmodaler_npz": lambda: XmodalerNpz(folder),
        "milvlg_npz": lambda: MilvlgNpz(folder),
        "gvd": lambda: GroundedVideoDescription(folder, folder / "boxes.h5", folder / "dic.json"),
        "vlp": lambda: VisionLanguagePretraining(folder, folder / "boxes.h5"),
        "vlp_parts": lambda: VisionLanguagePretraining(folder / "vg", folder / "vg"),
        "gic": lambda: GroundedImageCaptioning(folder / "att", folder / "box"),
        "regions": lambda: RegionPack(folder / "r.h5"),
    }[name]()


def write(name, folder):
    if name == "regions":
        convert_regions(WRITERS["xmodaler_npz"](folder), folder / "r.h5", Rules())
    else:
        WRITERS[name](folder)


# --- changes of a column, an array, a file ------------------------------------------------------------------
CAFFE = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
LXMERT = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)


def column(key, change, *, every=False, dtype="<f4"):
    """Change a column of a tsv: ``change`` takes and gives its text, or the array in it and gives bytes or an array."""

    def apply(name, folder):
        at = (CAFFE if name == "caffe_tsv" else LXMERT).index(key)
        for path in folder.glob("*.tsv"):
            lines = path.read_text().split("\n")
            for number, line in enumerate(lines):
                values = line.split("\t")
                if len(values) > 1 and (every or values[0] == str(BAD)):
                    if key in ("boxes", "features") or key.endswith(("_conf", "objects_id", "attrs_id")):
                        array = np.frombuffer(base64.b64decode(values[at]), dtype)
                        made = change(array)
                        values[at] = made if isinstance(made, str) else base64.b64encode(made.tobytes()).decode()
                    else:
                        values[at] = change(values[at])
                    lines[number] = "\t".join(values)
            path.write_text("\n".join(lines))

    return apply


def every_column(change):
    """Change the text of every value of a tsv."""

    def apply(name, folder):
        for path in folder.glob("*.tsv"):
            lines = path.read_text().split("\n")
            path.write_text("\n".join("\t".join(map(change, line.split("\t"))) if line else "" for line in lines))

    return apply


def whole_line(change):
    """Change image 7's line of a tsv."""

    def apply(name, folder):
        path = folder / "a.tsv"
        lines = path.read_text().split("\n")
        path.write_text("\n".join(change(line) if line.startswith(f"{BAD}\t") else line for line in lines))

    return apply


def file(change):
    """Change every tsv file: ``change`` takes path and bytes."""

    def apply(name, folder):
        for path in list(folder.glob("*.tsv")):
            change(path, path.read_bytes())

    return apply


def packed(opener, suffix):
    def change(path, data):
        with opener(path.with_name(path.name + suffix), "wb") as out:
            out.write(data)
        path.unlink()

    return file(change)


def zipped(path, data):
    with zipfile.ZipFile(path.with_suffix(".tsv.zip"), "w") as out:
        out.writestr(path.name, data)
        out.writestr(f"__MACOSX/._{path.name}", b"\0\1")
    path.unlink()


def reordered(path, data):
    """A header line, and the columns in another order."""
    lines = [line.split(b"\t") for line in data.replace(b"\r", b"").split(b"\n") if line]
    names = [name.encode() for name in (CAFFE if len(lines[0]) == 6 else LXMERT)]
    path.write_bytes(b"\n".join(b"\t".join(values[::-1]) for values in [names, *lines]))


def array(key, change, *, every=False):
    """Change an array of an npz or npy: ``change`` takes it and gives the new one, or None to remove it."""

    def apply(name, folder):
        for image_id in SIZES if every else (BAD,):
            if name == "gic":
                path = folder / ("att" if key == "feat" else "box") / f"{image_id}.{'npz' if key == 'feat' else 'npy'}"
            elif name in ("gvd", "vlp"):
                path = folder / (f"{image_id}_cls_prob.npy" if key == "cls_prob" else f"{image_id}.npy")
            else:
                path = folder / f"{image_id}.npz"
            if path.suffix == ".npy":
                made = change(np.load(path))
                path.unlink()
                if made is not None:
                    np.save(path, made, allow_pickle=True)
                continue
            with np.load(path, allow_pickle=True) as old:
                arrays = dict(old)
            arrays[key] = change(arrays.get(key))
            np.savez(path, **{name: value for name, value in arrays.items() if value is not None})

    return apply


def dataset(path, key, change):
    """Change a data set of an HDF5 file; ``change`` takes and gives the whole array."""

    def apply(name, folder):
        with h5py.File(folder / path, "r+") as h5:
            made = change(h5[key][...])
            del h5[key]
            if made is not None:
                h5[key] = made

    return apply


def renamed(new, suffix=".npz"):
    """Give image 7's file another name."""

    def apply(name, folder):
        folder = folder / "att" if name == "gic" else folder
        (folder / new).parent.mkdir(exist_ok=True)
        (folder / f"{BAD}{suffix}").rename(folder / new)

    return apply


def overwritten(change, suffix=".npz"):
    """Change the bytes of image 7's file."""

    def apply(name, folder):
        path = (folder / "att" if name == "gic" else folder) / f"{BAD}{suffix}"
        path.write_bytes(change(path.read_bytes()))

    return apply


def swap(a):
    return a.byteswap()


def bytes_text(value):
    return f"b'{value}'"


def cast(dtype):
    return lambda a: a.astype(dtype)


def scaled(factor):
    return lambda a: a * np.float32(factor)


def nan_at_2(a):
    a = np.array(a)
    a.reshape(-1)[2] = np.nan
    return a


def xywh(boxes):
    shape = boxes.shape
    boxes = np.array(boxes).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes.reshape(shape)


def wider(a):
    return np.concatenate([a, a], axis=1)


def in_row_1(change):
    """Of image 7 in a region file, whose rows are in ascending order of the ids."""

    def apply(a):
        a[1] = change(a[1])
        return a

    return apply


def first_half(data):
    return data[: len(data) // 2]


# fmt: off
TSV = {
    # numbers of another type or byte order
    "features as float64 in one image": (column("features", cast("<f8")), r"features (does not hold float32|has shape \(4, 12\), expected \(4, 6\))"),
    "features as float64 in all": (column("features", cast("<f8"), every=True), "features does not hold float32"),
    "round features as float64 in all": (column("features", lambda a: (1 + np.arange(a.size) % 7).astype("<f8"), every=True), "every other one is 0, so they look like float64"),
    "features as float16 in one image": (column("features", cast("<f2")), r"features (does not hold float32|has shape \(4, 3\), expected \(4, 6\))"),
    "features as float16 in all": (column("features", cast("<f2"), every=True), r"does not hold float32 .*float16"),
    "features as int32": (column("features", lambda a: (100 * a).astype("<i4"), every=True), "does not hold float32"),
    "features rounded to int32": (column("features", cast("<i4"), every=True), "all features are 0"),
    "features as int64": (column("features", lambda a: (100 * a).astype("<i8"), every=True), "does not hold float32"),
    "features as uint8": (column("features", lambda a: (255 * a).astype("u1"), every=True), "does not hold float32|multiple of 16 bytes"),
    "features in big-endian order": (column("features", swap, every=True), "does not hold float32 numbers in little-endian order"),
    "round features in big-endian order": (column("features", lambda a: np.ones_like(a).byteswap(), every=True), "does not hold float32 numbers in little-endian order"),
    "boxes as float64": (column("boxes", cast("<f8")), "boxes has 128 bytes, expected 64 bytes for 4 boxes of float32"),
    "boxes as float16": (column("boxes", cast("<f2")), "boxes has 32 bytes, expected 64"),
    "boxes as int32": (column("boxes", cast("<i4")), "boxes does not hold float32"),
    "boxes in big-endian order": (column("boxes", swap), "boxes does not hold float32"),
    # text
    "every value as b'...'": (every_column(bytes_text), RIGHT),
    'every value as b"..."': (every_column(lambda value: f'b"{value}"'), RIGHT),
    "features as b'' without content": (column("features", lambda a: "b''"), "features (is not base64|has 0 bytes)"),
    "features in hexadecimal": (column("features", lambda a: a.tobytes().hex()), "features has 72 bytes|does not hold float32"),
    "features as numbers in text": (column("features", lambda a: str(a.tolist())), "features is not base64"),
    # counts and widths
    "one number too few": (column("features", lambda a: a[:-1]), r"features has 92 bytes, expected a multiple of 16"),
    "another width": (column("features", lambda a: a[:-4]), r"features has shape \(4, 5\), expected \(4, 6\)"),
    "num_boxes with a fraction": (column("num_boxes", lambda v: "4.0"), "num_boxes is b'4.0', expected a whole number"),
    "num_boxes with an underscore": (column("num_boxes", lambda v: "0_4"), "num_boxes is b'0_4', expected a whole number"),
    "num_boxes negative": (column("num_boxes", lambda v: "-4"), "num_boxes is b'-4', expected a whole number"),
    "num_boxes absurd": (column("num_boxes", lambda v: "9" * 17), r"boxes has 64 bytes, expected \d+ bytes"),
    "num_boxes of thousands of digits": (column("num_boxes", lambda v: "9" * 5000), "num_boxes is b'999"),
    "one column more": (whole_line(lambda line: line + "\tmore"), r"line 1: (7|11) columns, expected"),
    "one column less": (whole_line(lambda line: line.rpartition("\t")[0]), r"line 1: (5|9) columns, expected"),
    "cut in the middle": (whole_line(lambda line: line[:-7]), r"line 1 \(image 7\): features is not base64"),
    # boxes
    "boxes in fractions": (column("boxes", lambda a: a / 128), "these are fractions"),
    "boxes as x, y, width, height": (column("boxes", xywh), "x2 < x1 or y2 < y1; is it x, y, width, height"),
    "boxes of another scale": (column("boxes", scaled(10)), "leaves the image of 100 x 80"),
    # not finite
    "a feature is NaN": (column("features", nan_at_2), r"features\[0, 2\] is nan: not a finite number"),
    "a box is NaN": (column("boxes", nan_at_2), r"boxes\[0, 2\] is nan"),
    # files
    "gzip": (packed(gzip.open, ".gz"), RIGHT),
    "bzip2": (packed(bz2.open, ".bz2"), RIGHT),
    "xz": (packed(lzma.open, ".xz"), RIGHT),
    "zip": (file(zipped), RIGHT),
    "zstd": (file(lambda path, data: path.write_bytes(b"\x28\xb5\x2f\xfd" + data)), "compressed with zstd"),
    "a header line and another order": (file(reordered), RIGHT),
    "a byte order mark": (file(lambda path, data: path.write_bytes(b"\xef\xbb\xbf" + data.lstrip(b"\r\n"))), RIGHT),
    "Windows line ends": (file(lambda path, data: path.write_bytes(data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))), RIGHT),
    "UTF-16": (file(lambda path, data: path.write_bytes(data.decode().encode("utf-16"))), "is UTF-16 text"),
}
IDS = {  # of a line, or of a file; image 7 is refused by name or is still image 7
    "007": RIGHT, "COCO_val2014_000000000007": RIGHT, "COCO_val2014_000000000007.jpg": RIGHT,
    "-7": "does not end with a number", "1e9": "does not end with a number", "7.0": "does not end with a number",
    "img_12_7": "several numbers", "9223372036854775808": "is not an integer from 0", "seven": "does not end with",
    "７": "does not end with a number", "²": "does not end with a number", "True": "does not end with a number", "7 7": "does not end",
}
NUMBERS = {  # of an array that holds its own type; the key is that of the features
    "float64": (cast("<f8"), RIGHT),
    "big-endian": (cast(">f4"), RIGHT),
    "in Fortran's order": (np.asfortranarray, RIGHT),
    "big-endian bytes under a little-endian header": (swap, "features look wrong: .*byte order"),
    "integers": (lambda a: (100 * a).astype(np.int32), "features of type int32, expected floating-point numbers"),
    "bytes": (lambda a: (255 * a).astype(np.uint8), "features of type uint8"),
    "booleans": (lambda a: a > 0.5, "features of type bool"),
    "complex": (cast(np.complex64), "features of type complex64"),
    "text": (lambda a: a.astype(str), "features of type <U"),
    "pickled": (cast(object), "it needs pickle"),
    "wider": (wider, r"features has shape \(4, 12\), expected \(4, 6\)"),
    "a vector": (np.ravel, "shape|features has 24 rows"),
    "transposed": (lambda a: a.T, "shape|features has 6 rows"),
    "NaN": (nan_at_2, r"features\[0, 2\] is nan: not a finite number"),
    "no numbers": (lambda a: a[:, :0], r"features of shape \(4, 0\)"),
    "no regions": (lambda a: a[:0], r"shape|features has 0 rows"),
}
PROBS = {
    "percent": (scaled(100), "class probabilities of region 0 sum to 100.000, expected 1; are they in percent"),
    "logarithms": (np.log, "class probabilities of region 0 sum to -"),
    "before the softmax": (lambda p: np.log(p) + 5, "class probabilities of region 0 sum to .*before the softmax"),
    "without background": (lambda p: p[:, 1:], r"class_probs has shape \(4, 4\), expected \(4, 5\)"),
    "missing": (lambda p: None, "class_probs are missing, unlike those of most images"),
    "another type": (cast(np.float64), RIGHT),
    "integers": (cast(np.int64), "class probabilities of type int64"),
    "one region less": (lambda p: p[:-1], r"class probabilities of shape \(3, 5\), expected \(4, C\)"),
}
FILES = {  # of one image's npz
    "cut short": (first_half, "not an intact .npz file"),
    "empty": (lambda data: b"", "not an intact .npz file"),
    "another kind of file": (lambda data: b"\x89PNG\r\n\x1a\n" * 9, "not an intact .npz file"),
    "a bit flipped in the numbers": (lambda data: data[:200] + bytes([data[200] ^ 255]) + data[201:], "intact|CRC|not a numpy array|cannot be read"),
}
BOX_KEYS = {"xmodaler_npz": "boxes", "milvlg_npz": "bbox", "gic": "boxes"}
FEATURE_KEYS = {"xmodaler_npz": "features", "milvlg_npz": "x", "gic": "feat", "gvd": "features", "vlp": "features"}

TABLE = [
    *((name, what, *case) for name in ("caffe_tsv", "lxmert_tsv") for what, case in TSV.items()),
    *((name, f"the id {text}", column(key, lambda _, text=text: text), outcome)
      for name, key in (("caffe_tsv", "image_id"), ("lxmert_tsv", "img_id")) for text, outcome in IDS.items()),
    *((name, f"the file name {text}", renamed(f"{text}.npz"), outcome)
      for name in ("xmodaler_npz", "milvlg_npz", "gic") for text, outcome in IDS.items()),
    *((name, f"features: {what}", array(key, change), outcome)
      for name, key in FEATURE_KEYS.items() for what, (change, outcome) in NUMBERS.items()
      # milvlg's may be turned, gvd's and vlp's have rows to spare or are checked against the boxes
      if (name, what) != ("milvlg_npz", "transposed")),
    *((name, f"probabilities: {what}", array("cls_prob", change), outcome)
      for name in ("xmodaler_npz", "vlp") for what, (change, outcome) in PROBS.items()),
    *((name, what, overwritten(change), outcome)
      for name in ("xmodaler_npz", "milvlg_npz", "gic") for what, (change, outcome) in FILES.items()),
    *((name, f"boxes: {what}", array(key, change), outcome) for name, key in BOX_KEYS.items() for what, change, outcome in (
        ("float64", cast("<f8"), RIGHT), ("big-endian", cast(">f4"), RIGHT),
        ("fractions", lambda a: a / 128, "these are fractions"), ("widths", xywh, "is it x, y, width, height"),
        ("text", lambda a: a.astype(str), "boxes of type <U"), ("infinite", lambda a: a + np.inf, r"boxes\[0, 0\] is inf"),
        ("five columns", lambda a: np.c_[a, a[:, 0]], r"boxes of shape \(4, 5\)"), ("one less", lambda a: a[:-1], "shape"),
        ("missing", lambda a: None, "bbox are missing|boxes are missing|no ID.npy among the boxes"))),
    ("lxmert_tsv", "objects_id as int32", column("objects_id", cast("<i4"), dtype="<i8"), "objects_id has 16 bytes, expected 32 bytes for 4 boxes of int64"),
    ("lxmert_tsv", "objects_id in big-endian order", column("objects_id", lambda a: (a + 5).byteswap(), dtype="<i8"), "objects_id does not hold int64"),
    ("lxmert_tsv", "objects_id as float64", column("objects_id", lambda a: a + 5.0, dtype="<i8"), "objects_id does not hold int64"),
    ("lxmert_tsv", "objects_conf in percent", column("objects_conf", scaled(100)), "the score of region 0 is .*expected 0 to 1; is it in percent"),
    ("lxmert_tsv", "objects_conf before the softmax", column("objects_conf", np.log), "the score of region 0 is -.*before the softmax"),
    ("lxmert_tsv", "attrs_conf in percent", column("attrs_conf", scaled(100)), "attrs_conf of region 0 is .*percent"),
    ("lxmert_tsv", "attrs_conf as float64", column("attrs_conf", cast("<f8")), "attrs_conf has 32 bytes, expected 16"),
    ("lxmert_tsv", "objects_conf NaN", column("objects_conf", nan_at_2), r"scores\[2\] is nan"),
    ("xmodaler_npz", "another id inside", array("image_id", lambda _: np.array("11")), "it contains the image id 11, its name has 7"),
    ("xmodaler_npz", "the same id inside as text", array("image_id", lambda _: np.array("COCO_val2014_000000000007")), RIGHT),
    ("xmodaler_npz", "a fraction as id inside", array("image_id", lambda _: np.array([7.0])), "the image id .*7.0.* is not an integer"),
    ("xmodaler_npz", "two ids inside", array("image_id", lambda _: np.array([7, 7])), "does not end with a number"),
    ("xmodaler_npz", "a width of 2**32 + 100", array("image_w", lambda _: np.array([2**32 + 100])), "the annotations 100 x 80"),
    ("xmodaler_npz", "a width with a fraction", array("image_w", lambda _: np.array([99.5])), "expected one whole number, found .*99.5"),
    ("xmodaler_npz", "num_boxes of other boxes", array("num_boxes", lambda _: np.array([3])), "num_boxes is 3, but features has 4 rows"),
    ("milvlg_npz", "more rows than num_bbox", array("num_bbox", lambda _: np.array(3)), "num_bbox is 3, but x has shape .* with numbers after"),
    ("milvlg_npz", "a file ID.jpg.npz", renamed("7.jpg.npz"), RIGHT),
    ("milvlg_npz", "a file COCO_val2014_ID.jpg.npz in a folder", renamed("val/COCO_val2014_000000000007.jpg.npz"), RIGHT),
    ("milvlg_npz", "a compressed file", renamed("7.npz.gz"), "7.npz.gz: not read, .*unpack it"),
    ("milvlg_npz", "another id inside", array("image_id", lambda _: np.array("11.jpg")), "it contains the image id 11, its name has 7"),
    ("gvd", "scores in percent", dataset("boxes.h5", "dets_labels", lambda a: a * np.float32([1] * 5 + [100])), "the score of region 0 is .*percent"),
    ("gvd", "a frame index before the class", dataset("boxes.h5", "dets_labels", lambda a: np.insert(a, 4, 0.5, axis=2)), "column 4 holds 0.5, expected a class"),
    ("gvd", "big-endian boxes", dataset("boxes.h5", "dets_labels", cast(">f4")), RIGHT),
    ("gvd", "float64 boxes", dataset("boxes.h5", "dets_labels", cast("<f8")), RIGHT),
    ("gvd", "a count with a fraction", dataset("boxes.h5", "nms_num", lambda a: np.array([4, 0, 3.5, 2])), "expected one whole number, found .*3.5"),
    ("gvd", "a count of NaN", dataset("boxes.h5", "nms_num", lambda a: np.array([4, 0, np.nan, 2])), "expected one whole number, found .*nan"),
    ("gvd", "no features", lambda name, folder: (folder / "7.npy").unlink(), "image 7 has proposals, but there is no 7.npy"),
    ("vlp", "no boxes", dataset("boxes.h5", "7", lambda a: None), "image 7 has features, but no boxes"),
    ("vlp", "no features", lambda name, folder: (folder / "7.npy").unlink(), "image 7 has boxes, but no features"),
    ("vlp", "boxes without class", dataset("boxes.h5", "7", lambda a: np.delete(a, 4, 1)), r"boxes of shape \(4, 5\), expected \(n, 6\)"),
    ("vlp", "boxes as text", dataset("boxes.h5", "7", lambda a: a.astype("S9")), "boxes of type |S9"),
    ("vlp_parts", "a part without its end", lambda name, folder: (folder / "vg_feat007.h5").write_bytes((folder / "vg_feat007.h5").read_bytes()[:999]), "vg_feat007.h5: it is cut short|image 7 has boxes, but no features"),
    ("vlp_parts", "no class part", lambda name, folder: (folder / "vg_cls007.h5").unlink(), "class_probs are missing"),
    ("vlp_parts", "a part under another name", lambda name, folder: [(folder / f"vg_{kind}007.h5").rename(folder / f"vg_{kind}008.h5") for kind in ("feat", "cls")], "image 7 does not belong to this part, whose ids end in 008"),
    ("regions", "big-endian features", dataset("r.h5", "features", cast(">f4")), RIGHT),
    ("regions", "a feature is NaN", dataset("r.h5", "features", in_row_1(nan_at_2)), r"features\[0, 2\] is nan"),
    ("regions", "features in big-endian bytes", dataset("r.h5", "features", in_row_1(swap)), "features look wrong: .*byte order"),
    ("regions", "probabilities in percent", dataset("r.h5", "class_probs", in_row_1(scaled(100))), "sum to 100.000"),
    ("regions", "no region", dataset("r.h5", "num_boxes", in_row_1(lambda count: 0)), "Image 7 has no region"),
]
# fmt: on


@pytest.mark.parametrize(
    ("name", "what", "mutate", "outcome"), TABLE, ids=[f"{name}: {what}" for name, what, *_ in TABLE]
)
def test_what_is_not_as_the_format_says_is_right_or_refused_by_name(tmp_path, name, what, mutate, outcome):
    write(name, tmp_path / "pack")
    mutate(name, tmp_path / "pack")
    pack = reopen(name, tmp_path / "pack")
    try:
        report = convert_regions(pack, tmp_path / "r.h5", Rules(), sizes=SIZES, skip_bad=True)
    except UserError as error:  # no image was good
        assert outcome is not RIGHT and re.search(outcome, str(error)), error
        assert not (tmp_path / "r.h5").exists()
        return
    store = RegionStore(tmp_path / "r.h5")
    if outcome is RIGHT:
        assert sorted(store.ids.tolist()) == [3, 7, 11] and report.left_out == []
    else:
        assert sorted(store.ids.tolist()) == [3, 11]
        assert any(re.search(outcome, problem) for problem in report.left_out), report.left_out
        assert len(report.left_out) <= 2  # where two files belong to an image, each may be named
    for image_id in store.ids.tolist():
        regions, expected = store.read(image_id), content(image_id)
        assert (regions.width, regions.height) == SIZES[image_id]
        np.testing.assert_array_equal(regions.boxes_px, expected["boxes"])
        np.testing.assert_array_equal(regions.features, expected["features"])
        if name in HAVE_PROBS:
            np.testing.assert_array_equal(regions.class_probs, expected["probs"])
