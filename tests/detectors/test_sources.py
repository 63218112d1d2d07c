"""Pictures in archives and tables give the same region file as the same pictures in a folder."""

import contextlib
import io
import json
import stat
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from detectors.fake_detector import FakeDetector
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.cli.pictures import folder_of_pictures
from xmodaler_ssattn.detectors import sources
from xmodaler_ssattn.detectors.extract import extract_regions
from xmodaler_ssattn.detectors.folder import FolderPictures, ids_from_file, ids_from_names, take_shard
from xmodaler_ssattn.detectors.join import join_regions
from xmodaler_ssattn.detectors.sources import Chosen, is_collection, open_source
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.worlds.drawn import draw_dataset

# Not in the order of the numbers, as in the copies of Flickr30k: 1000 comes before 20.
NAMES = ("1000.jpg", "20.jpg", "3.jpg", "4.jpg")
KINDS = ("zip", "tar", "tar.gz", "parquet", "shards", "binary")


def jpeg(width: int, colour=(10, 100, 200)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, 30), colour).save(buffer, "JPEG")
    return buffer.getvalue()


PICTURES = {name: jpeg(20 + 2 * number) for number, name in enumerate(NAMES)}


def pack(folder, kind, pictures=PICTURES, **more):
    """Write pictures into an archive or a table of this kind; returns its path."""
    path = folder / f"pictures.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in pictures.items():
                archive.writestr(f"flickr30k/{name}", data)
    elif kind.startswith("tar"):
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as archive:
            for name, data in pictures.items():
                info = tarfile.TarInfo(f"flickr30k/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    elif kind == "shards":
        path.mkdir()
        items = list(pictures.items())
        write_table(path / "train-0.parquet", dict(items[:2]))
        write_table(path / "train-1.parquet", dict(items[2:]))
    else:
        write_table(path, pictures, plain=kind == "binary", **more)
    return path


def write_table(path, pictures, *, plain=False, name_column="filename", repeated=1):
    """The columns of the Hugging Face copies: image, img_id, filename; two rows in a row group."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [(name, data) for name, data in pictures.items() for _ in range(repeated)]
    struct = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    images = [data if plain else {"bytes": data, "path": None} for _, data in rows]
    columns = {
        "image": arrow.array(images, arrow.binary() if plain else struct),
        "img_id": [str(number) for number in range(len(rows))],
        name_column: [name for name, _ in rows],
    }
    parquet.write_table(arrow.table(columns), path, row_group_size=2)


def regions_of(source, out, detector=None, ids=None, **options):
    names = ids_from_names(source.names)
    chosen = {image_id: names[image_id] for image_id in ids or names}
    return extract_regions(detector or FakeDetector(), Chosen(source, chosen), out, num_regions=2, **options)


@pytest.fixture
def expected(tmp_path):
    """The bytes of the region file of a folder with the pictures."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in PICTURES.items():
        (folder / name).write_bytes(data)
    regions_of(open_source(folder), tmp_path / "folder.h5")
    return (tmp_path / "folder.h5").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_file_of_the_folder(tmp_path, expected, kind):
    source = open_source(pack(tmp_path, kind))
    assert list(ids_from_names(source.names)) == [3, 4, 20, 1000]
    regions_of(source, tmp_path / "r.h5", batch=3)
    assert (tmp_path / "r.h5").read_bytes() == expected


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "shards"])
def test_runs_are_resumed_and_shards_joined(tmp_path, expected, kind):
    source = open_source(pack(tmp_path, kind))
    with pytest.raises(KeyboardInterrupt):
        regions_of(source, tmp_path / "r.h5", FakeDetector(stop_after=2))
    detector = FakeDetector()
    assert regions_of(source, tmp_path / "r.h5", detector).resumed == 2 and sum(detector.calls) == 2
    assert (tmp_path / "r.h5").read_bytes() == expected
    assert regions_of(source, tmp_path / "r.h5").resumed == 4  # a finished file is kept
    for part in (1, 2):
        ids = take_shard([3, 4, 20, 1000], f"{part}/2")
        regions_of(source, tmp_path / f"{part}.h5", ids=ids)
    join_regions([tmp_path / "1.h5", tmp_path / "2.h5"], tmp_path / "joined.h5")
    assert (tmp_path / "joined.h5").read_bytes() == expected


@pytest.mark.parametrize("kind", ["zip", "tar", "binary"])
def test_damaged_pictures_are_listed_with_their_place(tmp_path, kind):
    source = open_source(pack(tmp_path, kind, {**PICTURES, "20.jpg": b"no picture", "4.jpg": b""}))
    failed = sorted(regions_of(source, tmp_path / "r.h5").failed)
    assert len(failed) == 2 and all("pictures" in one for one in failed)
    assert "20.jpg" in failed[0] and "not a picture of a known format" in failed[0]
    assert "4.jpg" in failed[1] and ("is empty" in failed[1] or "no bytes" in failed[1])


def test_a_zip_with_an_entry_without_a_name_is_damaged(tmp_path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"x")  # Python's reader looks at the name's last letter
    with pytest.raises(UserError, match=r"pictures\.zip"):
        list(open_source(tmp_path / "pictures.zip").names)


def test_a_picture_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    """Its size is in the headers of an archive and in a table's offsets, so no memory is reserved for it."""
    parquet = pytest.importorskip("xmodaler_ssattn.detectors.parquet")
    for module in (sources, parquet):
        monkeypatch.setattr(module, "MAX_PICTURE_BYTES", max(map(len, PICTURES.values())))
    large = {**PICTURES, "4.jpg": PICTURES["4.jpg"] + bytes(2000)}
    for kind in KINDS:
        report = regions_of(open_source(pack(tmp_path, kind, large)), tmp_path / f"{kind}.h5")
        assert len(report.failed) == 1 and "4.jpg" in report.failed[0] and "allowed" in report.failed[0], kind


def test_a_tar_header_cannot_claim_any_memory(tmp_path):
    """A long name is stored as an entry of its own, whose size is a number in a header: here 8 GB."""
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("1.jpg")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30 - 1
    path.write_bytes(info.tobuf() + bytes(2048))
    with pytest.raises(UserError, match="damaged or incomplete.*claims"):
        open_source(path)


def test_links_and_encrypted_entries_are_refused_by_name(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(PICTURES["3.jpg"])
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as archive:
        for number, kind in ((1, tarfile.SYMTYPE), (2, tarfile.LNKTYPE), (3, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
        info = tarfile.TarInfo("../../4.jpg")  # only a text: nothing is written
        info.size = len(PICTURES["4.jpg"])
        archive.addfile(info, io.BytesIO(PICTURES["4.jpg"]))
    report = regions_of(open_source(tar), tmp_path / "tar.h5")
    assert report.images == 1 and len(report.failed) == 3
    assert all("links are not followed" in one for one in report.failed)

    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("1.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(secret))
        archive.writestr("2.jpg", PICTURES["3.jpg"])
        archive.writestr("3.jpg", PICTURES["4.jpg"])
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # mark 2.jpg as encrypted in both its headers
        at = data.index(b"2.jpg", 0 if signature == b"PK\x03\x04" else data.index(b"PK\x01\x02"))
        data[data.rindex(signature, 0, at) + flags] |= 1
    path.write_bytes(data)
    failed = sorted(regions_of(open_source(path), tmp_path / "zip.h5").failed)
    assert len(failed) == 2 and "links are not followed" in failed[0] and "encrypted" in failed[1]


def test_duplicated_names_are_named(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("1.jpg", "2.jpg", "1.jpg"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match=r"1 duplicated names(.|\n)*1\.jpg"):
        open_source(tmp_path / "a.tar")
    twice = open_source(pack(tmp_path, "zip", {"a/1.jpg": b"x", "b/1.jpg": b"y"}))
    with pytest.raises(UserError, match="a/1.jpg and flickr30k/b/1.jpg have the same number, 1"):
        ids_from_names(twice.names)


def test_a_table_with_a_row_per_caption_gives_each_picture_once(tmp_path, expected):
    source = open_source(pack(tmp_path, "parquet", repeated=5))
    assert source.note == "ids from the column filename; ignored: 16 rows that repeat the name of an earlier row"
    regions_of(source, tmp_path / "r.h5")
    assert (tmp_path / "r.h5").read_bytes() == expected


def test_the_column_of_the_ids_can_be_chosen(tmp_path):
    path = pack(tmp_path, "parquet", name_column="picture")
    with pytest.raises(UserError, match=r"--id-column NAME takes another.*img_id \(string\)(.|\n)*image.path is None"):
        open_source(path)  # image.path is empty in tables that were made from pictures in memory
    assert list(ids_from_names(open_source(path, id_column="picture").names)) == [3, 4, 20, 1000]
    assert list(ids_from_names(open_source(path, id_column="img_id").names)) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="no column 'pictur'; did you mean picture"):
        open_source(path, id_column="pictur")


def test_other_content_of_archives_is_ignored(tmp_path):
    pictures = {**PICTURES, "__MACOSX/x/._3.jpg": b"", ".3.jpg": b"", "results.csv": b"1,2"}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)
    source = open_source(tmp_path / "a.zip")
    assert source.names == tuple(sorted(NAMES)) and source.note == "ignored: 3 other entries"


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "parquet"])
def test_files_that_are_cut_short_or_changed_give_one_error(tmp_path, kind):
    path = pack(tmp_path, kind)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (100, len(data) // 2, len(data) - 10):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match="pictures"):
            dict(Chosen(source := open_source(path), ids_from_names(source.names)).read([3]))
            raise UserError("pictures: this part was not needed")  # the last block of a tar is padding
    for _ in range(15):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            changed[at] = rng.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(UserError):
            regions_of(open_source(path), tmp_path / "changed.h5", overwrite=True)


def test_what_is_no_source_is_explained(tmp_path):
    (tmp_path / "1.jpg").write_bytes(PICTURES["3.jpg"])
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(UserError, match="is one picture; give its folder"):
        open_source(tmp_path / "1.jpg")
    with pytest.raises(UserError, match="not a folder, a zip or tar archive"):
        open_source(tmp_path / "a.txt")
    with pytest.raises(UserError, match="does not exist"):
        open_source(tmp_path / "none")
    with pytest.raises(UserError, match="--id-column: .* is not a parquet file"):
        open_source(tmp_path, id_column="x")
    with pytest.raises(UserError, match="contains no pictures"):
        open_source(pack(tmp_path, "zip", {"a.txt": b""}))
    assert isinstance(open_source(tmp_path), FolderPictures)
    assert [is_collection(tmp_path / name) for name in ("", "1.jpg", "a.TAR.gz", "b.parquet")] == [
        True,
        False,
        True,
        True,
    ]


def test_a_missing_library_gives_the_command(tmp_path, monkeypatch):
    path = pack(tmp_path, "parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow, which is not installed: `pip install pyarrow`.*extra parquet"):
        open_source(path)


def test_the_command_reads_them_and_lists_failures(tmp_path, capsys):
    draw_dataset(tmp_path / "data", num_images=3, feature_dim=16, workers=1)
    scenes = {path.name: path.read_bytes() for path in sorted((tmp_path / "data" / "Images").iterdir())}
    options = ["--weights", str(tmp_path / "data" / "region_maker.npz"), "--out"]
    for kind in ("zip", "parquet"):
        path = pack(tmp_path, kind, {**scenes, "bad_7.jpg": b"x"})
        assert main(["extract", "--images", str(path), *options, str(tmp_path / f"{kind}.h5")]) == 3
        said = capsys.readouterr().out
        assert f"4 pictures in {path}" in said and "1 of 4 pictures failed" in said and "bad_7.jpg" in said
        assert ("ids from the column filename" in said) == (kind == "parquet")
    assert (tmp_path / "zip.h5").read_bytes() == (tmp_path / "parquet.h5").read_bytes()


@pytest.mark.parametrize("kind", ["zip", "shards"])
def test_the_page_gets_the_pictures_of_an_archive(tmp_path, kind):
    with folder_of_pictures(pack(tmp_path, kind), [3, 20, 5]) as folder:
        assert sorted(path.name for path in folder.iterdir()) == ["20.jpg", "3.jpg"]
        assert (folder / "3.jpg").read_bytes() == PICTURES["3.jpg"]
        assert folder.name == f"pictures.{kind}"
    assert not folder.exists()
    with folder_of_pictures(tmp_path / "anything", [3]) as folder:
        assert folder == tmp_path / "anything"


def test_id_lists_number_the_names_in_sorted_order(tmp_path):
    source = open_source(pack(tmp_path, "tar"))
    ids = ids_from_file(source.names, tmp_path / "ids.json")
    assert ids == {number: f"flickr30k/{name}" for number, name in enumerate(sorted(NAMES), 1)}
    assert json.loads((tmp_path / "ids.json").read_text()) == {name: number for number, name in ids.items()}
