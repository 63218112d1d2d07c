"""``xmodaler extract`` as a person runs it, with the sample scenes' region maker and with a small random network."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.toy_networks import conditioned_random_network, from_network_state, tiny
from xmodaler_ssattn.cli.detectors import SampleDetector, parse_min_max
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.detectors.detected import Detector
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import sha256_of
from xmodaler_ssattn.packs.region_classes import names_in
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter
from xmodaler_ssattn.worlds.drawn import draw_dataset
from xmodaler_ssattn.worlds.drawn.region_maker import CLASS_NAMES


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    draw_dataset(folder, num_images=12, feature_dim=32, workers=1)
    return folder


@pytest.fixture(scope="module")
def detector_weights(tmp_path_factory) -> Path:
    """A weights file in the form of MILVLG's, of a network of a few thousand numbers."""
    network = conditioned_random_network(tiny())
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"model": from_network_state(network.state_dict(), network.spec)}, path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six pictures as cameras and programs write them: rotated, grey, palette, alpha, CMYK, 16 bits."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(3)
    pixels = np.clip(rng.normal(0, 40, (60, 80, 3)).cumsum(0).cumsum(1) / 12 + 128, 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "IMG_1.jpg", exif=exif)  # 80 x 60 as stored, 60 x 80 upright
    picture.convert("L").save(folder / "IMG_2.png")
    picture.quantize(32).save(folder / "IMG_3.gif")
    picture.convert("RGBA").save(folder / "IMG_4.webp")
    picture.convert("CMYK").save(folder / "IMG_5.jpg")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(folder / "IMG_6.tiff")
    return folder


def extract(images, weights, out, *more) -> int:
    return main(["extract", "--images", str(images), "--weights", str(weights), "--out", str(out), *map(str, more)])


def test_sample_scenes_need_nothing_but_their_region_maker(scenes, tmp_path, capsys):
    maker = scenes / "region_maker.npz"
    assert extract(scenes / "Images", maker, tmp_path / "r.h5") == 0
    out = capsys.readouterr().out
    assert "12 pictures" in out and sha256_of(maker) in out and "Written to" in out
    store = RegionStore(tmp_path / "r.h5")
    assert store.ids.tolist() == RegionStore(scenes / "regions.h5").ids.tolist()
    assert (store.num_regions, store.feature_dim, store.num_classes) == (36, 32, 16)
    assert store.attributes["weights_sha256"] == sha256_of(maker)
    assert names_in(store.attributes) == list(CLASS_NAMES)  # which GVD's regions and the rule of classes need
    assert main(["check", "--regions", str(tmp_path / "r.h5"), "--all"]) == 0
    assert "The file can be used." in capsys.readouterr().out


def test_a_single_region_file_is_checked(scenes, tmp_path, capsys):
    with RegionWriter(tmp_path / "r.h5", [1, 2], 2, 3, None, source="test") as writer:
        for image_id in (1, 2):
            boxes = np.array([[0, 0, 9, 9], [5, 5, 30 * image_id, 20]])
            writer.write(image_id, 40, 30, boxes, np.ones((2, 3), dtype=np.float32))
    assert main(["check", "--regions", str(tmp_path / "r.h5")]) == 2
    out = capsys.readouterr().out
    assert "3 numbers, no class probabilities" in out and "leaves the picture by more than a pixel" in out
    assert "First ones: [2]" in out and "The file can be used" not in out
    assert main(["check", "--regions", str(tmp_path / "r.h5"), "--data", "x"]) == 2
    assert "it does not use --data" in capsys.readouterr().err
    assert main(["check"]) == 2
    assert "give --config-file FILE, or --regions FILE" in capsys.readouterr().err


def test_the_region_maker_is_a_detector(scenes):
    detector = SampleDetector(scenes / "region_maker.npz")
    assert isinstance(detector, Detector)
    picture = Image.open(next((scenes / "Images").iterdir())).convert("RGB")
    found = detector.detect(np.asarray(picture)[:, :, ::-1])
    expected = detector._maker(picture)
    np.testing.assert_array_equal(found.features, expected.features)
    assert (np.diff(found.confidence) <= 0).all()


def test_photographs_of_every_kind_with_a_network(photos, detector_weights, tmp_path, capsys):
    assert extract(photos, detector_weights, tmp_path / "r.h5", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert sha256_of(detector_weights) in out and "torch" in out
    store = RegionStore(tmp_path / "r.h5")
    assert store.ids.tolist() == [1, 2, 3, 4, 5, 6] and store.num_classes == 13
    assert store.image_size(1) == (60, 80)  # turned upright
    assert all(store.image_size(i) == (80, 60) for i in range(2, 7))
    assert main(["check", "--regions", str(tmp_path / "r.h5"), "--all"]) == 0


def test_more_regions_where_more_are_sure(photos, detector_weights, tmp_path):
    assert extract(photos, detector_weights, tmp_path / "r.h5", "--min-max-boxes", "2,5", "--device", "cpu") == 0
    store = RegionStore(tmp_path / "r.h5")
    assert store.num_regions == 5 and all(2 <= store.num_boxes(i) <= 5 for i in range(1, 7))
    assert store.attributes["min_max_boxes"] == "2,5"


class RunsCode:
    def __reduce__(self):
        return exec, ("raise AssertionError('the pickle was run')",)


def hostile(folder: Path) -> None:
    """Six files that are no good pictures, beside six that are."""
    (folder / "7.jpg").write_text("not a picture")
    whole = (folder / "IMG_1.jpg").read_bytes()
    (folder / "8.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1, 1)).save(folder / "9.png")
    Image.new("1", (20_000, 5_000)).save(folder / "10.png")
    (folder / "11.jpg").write_bytes(pickle.dumps(RunsCode()))
    (folder / "12.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    Image.new("RGB", (20_000, 40), "green").save(folder / "13.png")  # a panorama becomes 1000 x 2: too thin


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_pictures_are_listed_with_their_reasons_and_the_others_continue(photos, detector_weights, tmp_path, capsys):
    hostile(photos)
    assert extract(photos, detector_weights, tmp_path / "r.h5", "--device", "cpu") == 3
    out = capsys.readouterr().out
    listed = out[out.index("7 of 13 pictures failed:") :]
    for name, reason in (
        ("7.jpg", "not a picture"),
        ("8.jpg", "incomplete"),
        ("9.png", "1 x 1 pixels"),
        ("10.png", "100 million pixels"),
        ("11.jpg", "not a picture"),
        ("12.heic", "HEIC"),
        ("13.png", "20000 x 40"),
    ):
        assert re.search(rf"{name}: .*{reason}", listed), name
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == [1, 2, 3, 4, 5, 6]


def test_a_panorama_of_20_000_pixels_has_regions(detector_weights, tmp_path):
    folder = tmp_path / "wide"
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (8, 200, 3), dtype=np.uint8)).resize((20_000, 900))
    noise.save(folder / "1.jpg")
    assert extract(folder, detector_weights, tmp_path / "r.h5", "--device", "cpu") == 0
    assert RegionStore(tmp_path / "r.h5").image_size(1) == (20_000, 900)


def test_only_bad_pictures_are_an_error(tmp_path, scenes, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_text("nothing")
    assert extract(tmp_path / "in", scenes / "region_maker.npz", tmp_path / "r.h5") == 2
    assert "None of the 1 pictures could be used" in capsys.readouterr().err
    assert not (tmp_path / "r.h5").exists()


# --- weights that are none ------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".npz"])
def test_a_pickle_that_runs_code_is_not_run(photos, tmp_path, capsys, suffix):
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps({"model": RunsCode()}))
    assert extract(photos, path, tmp_path / "r.h5") == 2
    assert str(path) in capsys.readouterr().err and not (tmp_path / "r.h5").exists()


def test_weights_of_another_network_are_refused(photos, tmp_path, capsys):
    torch.save({"model": {"conv1.weight": torch.zeros(8, 3, 7, 7)}}, tmp_path / "resnet.pth")
    assert extract(photos, tmp_path / "resnet.pth", tmp_path / "r.h5") == 2
    assert "resnet.pth" in capsys.readouterr().err
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    assert extract(photos, tmp_path / "other.npz", tmp_path / "r.h5") == 2
    assert "other.npz: the keys mean, kind_weights" in capsys.readouterr().err
    assert extract(photos, tmp_path / "none.pth", tmp_path / "r.h5") == 2
    assert "none.pth does not exist" in capsys.readouterr().err


# --- ids, shards, going on -------------------------------------------------------------------------------
def test_names_without_numbers_need_an_id_list_which_is_written(scenes, tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    source = sorted((scenes / "Images").iterdir())
    for name, path in (("beach.jpg", source[0]), ("dog.jpg", source[1]), ("more/dog.jpg", source[2])):
        (folder / name).write_bytes(path.read_bytes())
    maker = scenes / "region_maker.npz"
    assert extract(folder, maker, tmp_path / "r.h5") == 2
    error = capsys.readouterr().err
    assert "beach.jpg does not end with a number" in error and "--ids FILE" in error
    assert extract(folder, maker, tmp_path / "r.h5", "--ids", tmp_path / "ids.json", "--recursive") == 0
    assert json.loads((tmp_path / "ids.json").read_text()) == {"beach.jpg": 1, "dog.jpg": 2, "more/dog.jpg": 3}
    assert RegionStore(tmp_path / "r.h5").ids.tolist() == [1, 2, 3]


def test_a_file_begun_with_an_id_list_takes_no_pictures_without_it(scenes, tmp_path, capsys):
    maker, images = scenes / "region_maker.npz", scenes / "Images"
    assert extract(images, maker, tmp_path / "r.h5", "--ids", tmp_path / "ids.json") == 0
    before = (tmp_path / "r.h5").read_bytes()
    assert extract(images, maker, tmp_path / "r.h5") == 2
    assert "image_ids: 'from a list' there, 'from the names' now" in capsys.readouterr().err
    assert (tmp_path / "r.h5").read_bytes() == before


def test_another_file_as_out_is_refused_before_the_detector_is_loaded(scenes, tmp_path, capsys):
    out = tmp_path / "photo.jpg"
    out.write_bytes(next((scenes / "Images").iterdir()).read_bytes())
    assert extract(scenes / "Images", tmp_path / "not_there.pth", out) == 2
    error = capsys.readouterr().err
    assert "photo.jpg" in error and "not_there.pth" not in error


def test_what_is_not_looked_at_is_said(scenes, tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    (folder / "notes.txt").touch()
    picture = next((scenes / "Images").iterdir())
    (folder / "1.jpg").write_bytes(picture.read_bytes())
    assert extract(folder, scenes / "region_maker.npz", tmp_path / "r.h5") == 0
    out = capsys.readouterr().out
    assert "ignored: 1 other files: notes.txt; 1 subfolders (see --recursive): more." in out


def test_shards_are_joined_to_the_file_of_one_run(scenes, tmp_path, capsys):
    maker, images = scenes / "region_maker.npz", scenes / "Images"
    assert extract(images, maker, tmp_path / "whole.h5") == 0
    parts = []
    for number in (1, 2, 3):
        parts.append(tmp_path / f"part{number}.h5")
        assert extract(images, maker, parts[-1], "--shard", f"{number}/3") == 0
    assert "Shard 3/3: 4 of them" in capsys.readouterr().out
    assert main(["extract", "--join", *map(str, parts), "--out", str(tmp_path / "joined.h5")]) == 0
    assert "12 images of 3 files" in capsys.readouterr().out
    assert (tmp_path / "joined.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    checked = ["extract", "--images", str(images), "--out", str(tmp_path / "checked.h5"), "--join"]
    assert main([*checked, *map(str, parts[:2])]) == 2  # the third machine has not finished
    assert "4 of 12 pictures are in none of the 2 files" in capsys.readouterr().err
    assert not (tmp_path / "checked.h5").exists()
    assert main([*checked, *map(str, parts)]) == 0


def test_the_same_command_again_continues(scenes, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    source = sorted((scenes / "Images").iterdir())
    for path in source[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / source[1].name).write_bytes(source[1].read_bytes()[:500])
    assert extract(folder, scenes / "region_maker.npz", tmp_path / "r.h5") == 3
    (folder / source[1].name).write_bytes(source[1].read_bytes())
    assert extract(folder, scenes / "region_maker.npz", tmp_path / "r.h5") == 0
    assert "2 of them are from an earlier run." in capsys.readouterr().out
    assert len(RegionStore(tmp_path / "r.h5")) == 3


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "extract: give --images and --weights"),
        (["--images", "x", "--weights", "w.pth"], "--images: x does not exist"),
        (["--join", "a.h5", "--shard", "1/2"], "--weights and --shard cannot be given with it"),
        (["--join", "a.h5"], "a.h5 does not exist"),
    ],
)
def test_mistakes_in_the_command_are_explained(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["extract", *words, "--out", "r.h5"]) == 2
    assert message in capsys.readouterr().err


def test_options_that_a_region_maker_has_no_use_for_are_refused(scenes, tmp_path, capsys):
    for option in (("--min-max-boxes", "10,100"), ("--backend", "torch")):
        assert extract(scenes / "Images", scenes / "region_maker.npz", tmp_path / "r.h5", *option) == 2
        assert "--backend and --min-max-boxes apply only to other detectors" in capsys.readouterr().err
    assert extract(scenes / "Images", scenes / "region_maker.npz", tmp_path / "r.h5", "--batch", "0") == 2
    assert "--batch: expected 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("device, message", [("tpu", "--device: expected cpu"), ("cuda:99", "PyTorch sees no CUDA")])
def test_a_device_that_is_not_there_is_refused(photos, detector_weights, tmp_path, capsys, device, message):
    if device != "tpu" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    assert extract(photos, detector_weights, tmp_path / "r.h5", "--device", device) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["36", "36,", "0,3", "5,4", "a,b", "1,2,3"])
def test_other_numbers_of_boxes_are_refused(text):
    with pytest.raises(UserError, match="--min-max-boxes: expected MIN,MAX"):
        parse_min_max(text)
    assert parse_min_max("10,100") == (10, 100)
