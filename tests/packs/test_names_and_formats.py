"""Packs under the names that they really have, and packs given as another format than they are."""

import gzip
import shutil
import sys

import numpy as np
import pytest

from packs.pack_writers import CLASSES, SIZES, WRITERS, content
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs import formats
from xmodaler_ssattn.packs.convert import convert_regions
from xmodaler_ssattn.packs.formats.milvlg_npz import MilvlgNpz
from xmodaler_ssattn.packs.select import Rules
from xmodaler_ssattn.packs.sniff import formats_of
from xmodaler_ssattn.packs.store import RegionStore


def rename_all(folder, pattern, suffix=".npz"):
    for path in list(folder.rglob(f"*{suffix}")):
        stem = path.name.removesuffix(suffix)
        cls = "_cls_prob" if stem.endswith("_cls_prob") else ""
        new = folder / (pattern.format(int(stem.removesuffix(cls))) + cls + suffix)
        new.parent.mkdir(exist_ok=True)
        path.rename(new)


@pytest.mark.parametrize("pattern", ["{}", "{}.jpg", "COCO_val2014_{:012}", "COCO_val2014_{:012}.jpg", "{:012}",
                                     "val2014/COCO_val2014_{:012}.jpg", "val/{}"])  # fmt: skip
@pytest.mark.parametrize("name", ["milvlg_npz", "xmodaler_npz", "vlp"])
def test_files_are_found_under_their_real_names(tmp_path, name, pattern):
    pack = WRITERS[name](tmp_path / "pack")
    rename_all(tmp_path / "pack", pattern, ".npy" if name == "vlp" else ".npz")
    more = (tmp_path / "pack" / "boxes.h5",) if name == "vlp" else ()
    report = convert_regions(type(pack)(tmp_path / "pack", *more), tmp_path / "r.h5", Rules(), sizes=SIZES)
    store = RegionStore(tmp_path / "r.h5")
    assert report.left_out == [] and sorted(store.ids.tolist()) == sorted(SIZES)
    assert store.num_classes == (None if name == "milvlg_npz" else CLASSES)
    for image_id in SIZES:
        np.testing.assert_array_equal(store.read(image_id).features, content(image_id)["features"])


def test_class_probabilities_beside_the_features_of_a_milvlg_pack_are_used(tmp_path):
    WRITERS["milvlg_npz"](tmp_path / "pack")
    for image_id in SIZES:
        path = tmp_path / "pack" / f"{image_id}.npz"
        with np.load(path, allow_pickle=True) as old:
            np.savez(path, **{**old, "cls_prob": content(image_id)["probs"]})
    report = convert_regions(MilvlgNpz(tmp_path / "pack"), tmp_path / "r.h5", Rules(limit=2))
    store = RegionStore(tmp_path / "r.h5")
    assert report.num_classes == CLASSES and store.attributes["background"] == "first"
    for image_id in SIZES:  # they say which regions are kept, too: the two best, in the pack's order
        best = sorted(np.argsort(-content(image_id)["scores"])[:2])
        np.testing.assert_array_equal(store.read(image_id).class_probs, content(image_id)["probs"][best])


def test_probabilities_without_their_background_are_refused_until_that_is_said(tmp_path):
    """As detectron2 gives them: the background, the last column, is cut off, and the rows sum to less than 1."""
    WRITERS["milvlg_npz"](tmp_path / "pack")
    for image_id in SIZES:
        path = tmp_path / "pack" / f"{image_id}.npz"
        with np.load(path, allow_pickle=True) as old:
            np.savez(path, **{**old, "cls_prob": content(image_id)["probs"][:, 1:]})
    with pytest.raises(UserError, match=r"(?s)7\.npz: class probabilities .* --background none"):
        convert_regions(MilvlgNpz(tmp_path / "pack"), tmp_path / "r.h5", Rules())
    convert_regions(MilvlgNpz(tmp_path / "pack"), tmp_path / "r2.h5", Rules(background="none"))
    np.testing.assert_array_equal(RegionStore(tmp_path / "r2.h5").read(7).class_probs, content(7)["probs"][:, 1:])


# --- another format than given ------------------------------------------------------------------------------
INPUTS = {
    "caffe-tsv": ("caffe_tsv", "a.tsv"), "lxmert-tsv": ("lxmert_tsv", "a.tsv"), "xmodaler-npz": ("xmodaler_npz", ""),
    "milvlg-npz": ("milvlg_npz", ""), "gvd": ("gvd", ""), "vlp": ("vlp", ""), "gic": ("gic", "att"),
    "regions": ("regions", "r.h5"), "vlp parts": ("vlp_parts", "vg"),
}  # fmt: skip


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """format -> input of a pack of it."""
    folder = tmp_path_factory.mktemp("packs")
    for writer in WRITERS.values():
        writer(folder / writer.__name__)
    (folder / "regions").mkdir()
    convert_regions(WRITERS["xmodaler_npz"](folder / "source"), folder / "regions" / "r.h5", Rules())
    return {name: folder / where / file for name, (where, file) in INPUTS.items()}


@pytest.mark.parametrize("real", INPUTS)
def test_a_wrong_format_is_told_which_one_it_looks_like(packs, tmp_path, capsys, real):
    path, boxes = packs[real], packs["vlp"] / "boxes.h5"
    real = real.removesuffix(" parts")
    assert real in formats_of(path)
    for given in {name for name in INPUTS if " " not in name} - formats_of(path):
        more = ["--boxes", boxes] if given in ("vlp", "gvd", "gic") else []
        more += ["--dictionary", boxes] if given == "gvd" else []
        command = ["prepare", "regions", "--format", given, "--input", path, *more, "--out", tmp_path / "r.h5"]
        assert main([str(word) for word in command]) == 2
        error = capsys.readouterr().err
        assert f"looks like {real}" in error or f"or {real}, not like {given}" in error or f"{real} or" in error, error
        assert f"not like {given}: give that --format" in error


def test_the_reader_itself_says_it_too(packs, tmp_path):
    pack = MilvlgNpz(packs["xmodaler-npz"])
    with pytest.raises(UserError, match=r"(?s)looks like xmodaler-npz, not like milvlg-npz.*the keys x, bbox"):
        convert_regions(pack, tmp_path / "r.h5", Rules())


def test_a_damaged_first_file_does_not_hide_the_format_and_an_unknown_one_is_none(packs, tmp_path):
    folder = shutil.copytree(packs["milvlg-npz"], tmp_path / "npz")
    (folder / "1.npz").write_bytes(b"PK\3\4 no zip")
    assert formats_of(folder) == {"milvlg-npz"}
    (tmp_path / "a.tsv").write_bytes(b"7\t100\n" + packs["lxmert-tsv"].read_bytes())
    assert formats_of(tmp_path / "a.tsv") == {"lxmert-tsv"}
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(packs["caffe-tsv"].read_bytes()))
    assert formats_of(tmp_path / "a.tsv.gz") == {"caffe-tsv"}
    (tmp_path / "b.tsv").write_text("no table")
    assert formats_of(tmp_path / "b.tsv") == formats_of(tmp_path / "none") == set()


# --- a format is one file -----------------------------------------------------------------------------------
ACME = '''"""The packs of Acme."""
from pathlib import Path

import numpy as np

from xmodaler_ssattn.packs.pack import Pack, PackedImage


class AcmeText(Pack):
    """One number per image and region; sizes in a file of their own."""

    name = "acme-text"
    summary = "the packs of Acme"
    usage = "--input FILE --frames FILE"
    options = {"frames": "width and height of each image"}

    def __init__(self, path, frames):
        super().__init__(path)
        self._rows = [line.split() for line in Path(path).read_bytes().splitlines()]
        self._sizes = [tuple(map(int, line.split())) for line in Path(frames).read_bytes().splitlines()]

    @classmethod
    def fits(cls, glimpse):
        return glimpse.kind == "row" and any(name.startswith("acme") for name in glimpse.names)

    def ids(self):
        return list(range(len(self._rows)))

    def place(self, image_id):
        return f"{self.inputs[0]}, line {image_id + 1}"

    def _read(self, image_id):
        features = np.array(self._rows[image_id][1:], dtype=np.float32)[:, None]
        boxes = np.tile([0, 0, 9, 9], (len(features), 1))
        return PackedImage(image_id, *self._sizes[image_id], boxes, features, None, None, self.place(image_id))
'''


@pytest.fixture
def acme(tmp_path, monkeypatch):
    """A further folder of formats with one file, and a pack of this format."""
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats" / "acme_text.py").write_text(ACME)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "formats")])
    (tmp_path / "a.txt").write_text("acme 1 2\nacme 3\n")
    (tmp_path / "frames.txt").write_text("20 10\n30 10\n")
    yield tmp_path
    sys.modules.pop("xmodaler_ssattn.packs.formats.acme_text")


def test_one_new_file_is_a_new_format_with_its_options_and_help(acme, capsys):
    pack = ["--input", str(acme / "a.txt"), "--out", str(acme / "r.h5")]
    command = ["prepare", "regions", "--format", "acme-text", *pack]
    assert main(command) == 2 and "--format acme-text also needs --frames" in capsys.readouterr().err
    assert main([*command, "--frames", str(acme / "frames.txt")]) == 0
    store = RegionStore(acme / "r.h5")
    assert store.attributes["source"] == "acme-text" and store.image_size(1) == (30, 10)
    assert store.read(0).features.tolist() == [[1], [2]]
    capsys.readouterr()
    for name, more in (("caffe-tsv", []), ("gic", ["--boxes", "x"])):
        assert main(["prepare", "regions", "--format", name, *pack, *more]) == 2
        assert f"looks like acme-text, not like {name}: give that --format" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["prepare", "regions", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "acme-text --input FILE --frames FILE the packs of Acme" in out
    assert "--frames PATH for acme-text: width and height of each image" in out
