"""``xmodaler caption`` as a person runs it: sample scenes, with a small captioner that talks nonsense readily."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.toy_networks import conditioned_random_network, from_network_state, tiny
from xmodaler_ssattn.cli import captioning
from xmodaler_ssattn.cli.captioning import caption_regions, check_fit, find_vocabulary, load_captioner
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.evaluation.results import read_results
from xmodaler_ssattn.host import build_model
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter
from xmodaler_ssattn.report import single_file

CONFIG = str(Path(__file__).parents[1] / "configs" / "sample" / "ss_attn.yaml")
OPTIONS = {
    "DATALOADER.SAMPLE_SCENES": 40, "DATALOADER.TRAIN_BATCH_SIZE": 8, "MODEL.VISUAL_EMBED.IN_DIM": 32,
    "MODEL.DECODER_DIM": 16, "SOLVER.EPOCH": 1, "SOLVER.EVAL_PERIOD": 1,
    "INFERENCE.METRICS": "['F1']", "INFERENCE.FINAL_METRICS": "[]",
}  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A folder as `xmodaler demo` leaves it: data/ and a trained run, ss_attn/."""
    folder = tmp_path_factory.mktemp("demo")
    options = {**OPTIONS, "OUTPUT_DIR": folder / "ss_attn"}
    words = [str(word) for pair in options.items() for word in pair]
    assert main(["train", "--config-file", CONFIG, "--data", str(folder / "data"), *words]) == 0
    # Four steps of training teach it to be silent. Large weights make it sure of one word after another.
    checkpoint = torch.load(folder / "ss_attn" / "model_final.pth", weights_only=True)
    generator = torch.Generator().manual_seed(0)
    logits = checkpoint["model"]["predictor.logits.weight"]
    logits.copy_(200 * torch.randn(logits.shape, generator=generator))
    torch.save({"model": checkpoint["model"]}, folder / "ss_attn" / "model_final.pth")
    return folder


@pytest.fixture(scope="module")
def evaluated(demo) -> dict:
    """image id -> the caption that `xmodaler eval` gives it."""
    run = demo / "ss_attn"
    assert main(["eval", "--weights", str(run / "model_final.pth"), "--config-file", str(run / "config.yaml")]) == 0
    results = read_results(run / "results" / "test_eval.json")
    return {image.image_id: image.caption for image in results.images}


def caption(demo, *words) -> int:
    return main(["caption", "--weights", str(demo / "ss_attn"), *map(str, words)])


def pictures(demo, count=2) -> list[Path]:
    return sorted((demo / "data" / "Images").iterdir())[-count:]


# --- from a region file -----------------------------------------------------------------------------------
def test_captions_from_the_region_file_are_those_of_the_evaluation(demo, evaluated, tmp_path, capsys):
    ids = list(evaluated)
    assert caption(demo, "--regions", demo / "data" / "regions.h5", "--ids", *ids, "--json", tmp_path / "c.json") == 0
    out = capsys.readouterr().out
    stored = {image.image_id: image.caption for image in read_results(tmp_path / "c.json").images}
    assert list(stored) == ids
    for image_id, expected in evaluated.items():
        assert str(stored[image_id]) == str(expected)
        assert [word.region for word in stored[image_id].words] == [word.region for word in expected.words]
        assert f"image {image_id}\n  {expected}\n" in out


def test_object_words_are_printed_with_their_boxes(demo, evaluated, capsys):
    image_id = next(iter(evaluated))
    assert caption(demo, "--regions", demo / "data" / "regions.h5", "--ids", image_id) == 0
    lines = re.findall(r"^    (\w+) +(-?\d+) +(-?\d+) +(-?\d+) +(-?\d+)   (\d\.\d\d)$", capsys.readouterr().out, re.M)
    kinds = json.loads((demo / "data" / "sample.json").read_text())["classes"]
    plurals = {"men": "man", "women": "woman", "buses": "bus"}
    objects = [w for w in evaluated[image_id].words if plurals.get(w.text, w.text.rstrip("s")) in (*kinds, "bu")]
    assert objects and [word.text for word in objects] == [line[0] for line in lines]
    for word, line in zip(objects, lines):
        assert [int(side) for side in line[1:5]] == [round(side) for side in word.box_px]


def test_object_words_are_those_of_the_scores(demo, evaluated, tmp_path):
    assert caption(demo, "--regions", demo / "data" / "regions.h5", "--json", tmp_path / "c.json") == 0
    shown, scored = read_results(tmp_path / "c.json"), read_results(demo / "ss_attn" / "results" / "test_eval.json")
    said = {word.text for image in shown.images for word in image.caption.words}
    both = said & {word.text for image in scored.images for word in image.caption.words}
    assert {word: shown.object_words.get(word) for word in both} == {w: scored.object_words.get(w) for w in both}
    # Words of the scenes that name one of the 480 classes, but none of the kinds that are drawn, and a verb.
    vocabulary = str(demo / "data" / "vocabulary.txt")
    words = {"cars", "men", "grass", "sky", "street", "shirt", "parked"} | said
    found = ObjectWords.of_model(vocabulary).among(words)
    kinds = json.loads((demo / "data" / "sample.json").read_text())["classes"]
    assert found["cars"] == "car" and found["men"] == "man" and set(found.values()) <= set(kinds)


def test_ids_that_are_not_in_the_file_are_refused_before_anything_is_said(demo, evaluated, capsys):
    ids = [next(iter(evaluated)), 7]
    assert caption(demo, "--regions", demo / "data" / "regions.h5", "--ids", *ids) == 2
    captured = capsys.readouterr()
    assert "Image 7 is not in the region file" in captured.err and "image" not in captured.out


def test_without_ids_the_whole_file_is_captioned(demo, tmp_path, capsys):
    store = RegionStore(demo / "data" / "regions.h5")
    few = store.ids.tolist()[:11]  # more than are captioned at once
    with RegionWriter(tmp_path / "r.h5", few, 36, 32, 16, source="test") as writer:
        for image_id in few:
            r = store.read(image_id)
            writer.write(image_id, r.width, r.height, r.boxes_px, r.features, r.class_probs)
    assert caption(demo, "--regions", tmp_path / "r.h5") == 0
    assert re.findall(r"^image (\d+)$", capsys.readouterr().out, re.M) == [str(image_id) for image_id in few]


# --- from pictures ----------------------------------------------------------------------------------------
def test_sample_scenes_work_out_of_the_box(demo, tmp_path, capsys):
    photos = pictures(demo)
    assert caption(demo, *photos, "--json", tmp_path / "c.json") == 0
    out = capsys.readouterr().out
    assert "region maker" in out and "sha256" in out
    results = read_results(tmp_path / "c.json")
    assert [image.image_id for image in results.images] == [1, 2]
    assert results.header["pictures"] == {"1": str(photos[0]), "2": str(photos[1])}
    for image, photo in zip(results.images, photos):
        with Image.open(photo) as picture:
            assert image.caption.image_size == picture.size
        assert f"{photo}\n  {image.caption}\n" in out


def test_a_photograph_goes_through_a_bottom_up_network(demo, tmp_path, capsys):
    network = conditioned_random_network(tiny())
    torch.save({"model": from_network_state(network.state_dict(), network.spec)}, tmp_path / "detector.pth")
    run = tmp_path / "run"
    run.mkdir()
    sizes = ["MODEL.VISUAL_EMBED.IN_DIM", network.spec.feature_dim, "MODEL.SS_ATTENTION.NUM_CLASSES", 13]
    cfg = load_config(str(demo / "ss_attn" / "config.yaml"), list(map(str, sizes)))
    (run / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, run / "model_final.pth")
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120)).save(tmp_path / "photo.jpg")
    words = ["caption", str(tmp_path / "photo.jpg"), "--weights", str(run), "--json", str(tmp_path / "c.json")]
    vocabulary = ["--vocabulary", str(demo / "data" / "vocabulary.txt"), "--device", "cpu"]
    assert main([*words, *vocabulary, "--detector", str(tmp_path / "detector.pth")]) == 0
    (image,) = read_results(tmp_path / "c.json").images
    assert image.caption.image_size == (160, 120) and len(image.caption.boxes_px) == 36
    # The demo's captioner was trained on other regions.
    assert caption(demo, tmp_path / "photo.jpg", "--detector", tmp_path / "detector.pth") == 2
    error = capsys.readouterr().err
    assert f"{network.spec.feature_dim} numbers, the captioner was trained on 32" in error
    assert re.search(r"13 class probabilities .* trained on 16", error)


def test_a_picture_without_its_neighbours_has_the_same_caption(demo, tmp_path):
    one, two = pictures(demo)
    assert caption(demo, one, two, "--json", tmp_path / "both.json") == 0
    assert caption(demo, two, "--json", tmp_path / "one.json") == 0
    both, alone = (read_results(tmp_path / name).images[-1].caption for name in ("both.json", "one.json"))
    assert str(both) == str(alone) and [w.box_px for w in both.words] == [w.box_px for w in alone.words]


def test_bad_pictures_are_listed_and_the_others_are_captioned(demo, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    good = pictures(demo, 1)[0]
    assert caption(demo, tmp_path / "text.jpg", good, tmp_path / "dot.png", tmp_path / "none.jpg") == 3
    out = capsys.readouterr().out
    assert f"{good}\n  " in out and "3 of 4 pictures failed" in out
    for name, reason in (("text.jpg", "not a picture"), ("dot.png", "1 x 1"), ("none.jpg", "does not exist")):
        assert re.search(rf"{name}: .*{reason}", out)


def test_only_bad_pictures_write_no_page(demo, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no picture")
    assert caption(demo, tmp_path / "text.jpg", "--report", tmp_path / "page.html") == 3
    assert not (tmp_path / "page.html").exists() and "1 of 1 pictures failed" in capsys.readouterr().out


# --- the page ---------------------------------------------------------------------------------------------
def test_the_page_is_one_file_with_everything_inside(demo, tmp_path, capsys):
    photos = pictures(demo)
    assert caption(demo, *photos, "--report", tmp_path / "page.html") == 0
    assert f"Open {tmp_path / 'page.html'}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r'<script src|<link rel="stylesheet"|src="pictures', text)
    assert text.count("data:image/jpeg;base64,") == len(photos)
    assert text.index("ssattn.part(0, ") < text.index("ssattn.index({")
    assert "--annotations" not in text  # photographs have none, and need none


def test_pictures_in_the_page_are_upright_and_not_larger_than_needed(demo, tmp_path, monkeypatch):
    sizes = []
    as_jpeg = single_file._as_jpeg
    monkeypatch.setattr(single_file, "_as_jpeg", lambda picture: sizes.append(picture.size) or as_jpeg(picture))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(pictures(demo, 1)[0]) as picture:
        stored, (width, height) = picture.convert("RGB"), picture.size
    stored.save(tmp_path / "turned.jpg", exif=exif)
    assert caption(demo, tmp_path / "turned.jpg", "--report", tmp_path / "page.html") == 0
    assert sizes == [(height, width)]
    assert Image.open(io.BytesIO(as_jpeg(Image.new("RGB", (5000, 500))))).size == (1200, 120)


def test_the_page_of_a_region_file_shows_the_pictures_that_are_given(demo, evaluated, tmp_path):
    regions = ("--regions", demo / "data" / "regions.h5", "--ids", *evaluated)
    assert caption(demo, *regions, "--images", demo / "data" / "Images", "--report", tmp_path / "a.html") == 0
    assert (tmp_path / "a.html").read_text().count("data:image/jpeg") == len(evaluated)
    assert caption(demo, *regions, "--report", tmp_path / "b.html") == 0
    assert "data:image/jpeg" not in (tmp_path / "b.html").read_text()


def test_text_that_would_end_a_script_cannot(tmp_path):
    script = tmp_path / "data" / "index.js"
    script.parent.mkdir()
    script.write_text('ssattn.index({"title":"</script><b>"});')
    assert "</script><b>" not in single_file._inline(script, tmp_path)[: -len("</script>")]


def test_a_page_of_another_name_is_refused(demo, tmp_path, capsys):
    assert caption(demo, pictures(demo)[0], "--report", tmp_path / "page") == 2
    assert "a name that ends in .html" in capsys.readouterr().err


# --- what does not fit ------------------------------------------------------------------------------------
def write_store(path, dim=32, classes=16):
    rng = np.random.default_rng(0)
    with RegionWriter(path, [5], 2, dim, classes, source="test") as writer:
        probs = None if classes is None else np.full((2, classes), 1 / classes, dtype=np.float32)
        writer.write(5, 40, 30, np.array([[0, 0, 9, 9], [5, 5, 30, 20]]), rng.random((2, dim), dtype=np.float32), probs)
    return path


@pytest.mark.parametrize(
    "dim, classes, message",
    [
        (64, 16, "the features have 64 numbers, the captioner was trained on 32"),
        (32, 1601, r"1601 class probabilities \(background included\), the captioner was trained on 16"),
        (32, None, "the captioner reads 16 class probabilities per region, and there are none"),
    ],
)
def test_regions_that_the_captioner_was_not_trained_on_are_refused(demo, tmp_path, capsys, dim, classes, message):
    assert caption(demo, "--regions", write_store(tmp_path / "r.h5", dim, classes)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and str(tmp_path / "r.h5") in error


def test_both_mismatches_are_said_at_once(demo):
    captioner = load_captioner(demo / "ss_attn")
    with pytest.raises(UserError, match=r"(?s)2 problems.*64 numbers.*17 class probabilities"):
        check_fit(captioner, 64, 17, "x.pth")
    check_fit(captioner, 32, 16, "x.pth")
    # A captioner that reads no class probabilities needs none.
    check_fit(captioner._replace(inputs=captioner.inputs._replace(num_classes=None)), 32, None, "x.pth")


def test_a_detector_of_another_world_is_refused(demo, tmp_path, capsys):
    other = demo / "data" / "region_maker.npz"
    arrays = dict(np.load(other))
    arrays["projection"] = arrays["projection"][:, :24]
    np.savez(tmp_path / "other.npz", **arrays)
    assert caption(demo, pictures(demo)[0], "--detector", tmp_path / "other.npz") == 2
    assert "the features have 24 numbers, the captioner was trained on 32" in capsys.readouterr().err


def test_more_regions_than_the_captioner_reads_are_cut(demo):
    captioner = load_captioner(demo / "ss_attn")
    regions = RegionStore(demo / "data" / "regions.h5")
    image = regions.read(int(regions.ids[0]))
    (few,) = caption_regions(captioner._replace(inputs=captioner.inputs._replace(max_regions=4)), [image])
    assert len(few.boxes_px) == 4 and max(word.region for word in few.words) < 4


def test_features_that_are_not_finite_are_refused(demo):
    captioner = load_captioner(demo / "ss_attn")
    regions = RegionStore(demo / "data" / "regions.h5").read(int(RegionStore(demo / "data" / "regions.h5").ids[0]))
    regions.features[0, 0] = np.nan
    with pytest.raises(UserError, match="features of region"):
        caption_regions(captioner, [regions])


# --- the captioner's files --------------------------------------------------------------------------------
def test_a_run_that_was_moved_still_finds_its_vocabulary(demo, tmp_path, capsys):
    moved = tmp_path / "elsewhere"
    (moved / "data").mkdir(parents=True)
    shutil.copytree(demo / "ss_attn", moved / "ss_attn")
    for name in ("vocabulary.txt", "region_maker.npz"):
        shutil.copy(demo / "data" / name, moved / "data")
    captioner = load_captioner(moved / "ss_attn" / "model_final.pth")
    assert captioner.cfg.INFERENCE.VOCAB == str(moved / "data" / "vocabulary.txt")
    assert caption(moved, pictures(demo)[0]) == 0
    assert str(moved / "data" / "region_maker.npz") in capsys.readouterr().out


def test_where_a_vocabulary_is_looked_for(tmp_path, monkeypatch):
    run, data = tmp_path / "a" / "run", tmp_path / "a" / "data"
    run.mkdir(parents=True)
    data.mkdir()
    with pytest.raises(UserError, match=r"in any of these places: .*data/vocabulary\.txt, .*run/vocabulary\.txt"):
        find_vocabulary("data/vocabulary.txt", "run", run)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocabulary.txt").touch()
    monkeypatch.chdir(tmp_path)  # where a relative path leads to another run's words
    assert find_vocabulary("data/vocabulary.txt", "run", run) == Path("data/vocabulary.txt")
    (run / "vocabulary.txt").touch()
    assert find_vocabulary("data/vocabulary.txt", "run", run) == run / "vocabulary.txt"
    (data / "vocabulary.txt").touch()
    assert find_vocabulary("data/vocabulary.txt", "run", run) == data / "vocabulary.txt"


def test_the_best_checkpoint_of_a_run_is_taken(tmp_path):
    (tmp_path / "model_final.pth").touch()
    assert captioning.find_checkpoint(tmp_path).name == "model_final.pth"
    (tmp_path / "model_best.pth").touch()
    assert captioning.find_checkpoint(tmp_path).name == "model_best.pth"
    with pytest.raises(UserError, match=r"contains none of model_best\.pth, model_final\.pth"):
        captioning.find_checkpoint(tmp_path / "..")


def test_a_checkpoint_without_its_config_or_words_says_what_to_give(demo, tmp_path, capsys):
    shutil.copy(demo / "ss_attn" / "model_final.pth", tmp_path)
    photo = str(pictures(demo)[0])
    alone = ["caption", photo, "--weights", str(tmp_path / "model_final.pth")]
    assert main(alone) == 2
    assert "There is no" in (error := capsys.readouterr().err) and "--config-file" in error
    config = ["--config-file", str(demo / "ss_attn" / "config.yaml")]
    assert main([*alone, *config, "--detector", str(demo / "data" / "region_maker.npz")]) == 0
    (tmp_path / "words.txt").write_text("a\nman\n")
    assert main([*alone, *config, "--vocabulary", str(tmp_path / "words.txt")]) == 2
    assert "words.txt has 2 words" in capsys.readouterr().err
    assert main([*alone, *config, "--vocabulary", str(shutil.copy(demo / "data" / "vocabulary.txt", tmp_path))]) == 2
    assert "--detector: give the weights of the detector" in capsys.readouterr().err


def test_weights_of_another_model_are_refused(demo, tmp_path, capsys):
    shutil.copy(demo / "ss_attn" / "config.yaml", tmp_path)
    torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "w.pth")
    photo = str(pictures(demo)[0])
    assert main(["caption", photo, "--weights", str(tmp_path / "w.pth")]) == 2
    assert "w.pth does not fit this config's model" in capsys.readouterr().err
    (tmp_path / "w.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")  # a pickle that would run a program
    assert main(["caption", photo, "--weights", str(tmp_path / "w.pth")]) == 2
    assert "w.pth is refused: it asks for os.system" in capsys.readouterr().err
    assert main(["caption", photo, "--weights", str(tmp_path / "none.pth")]) == 2
    assert "none.pth does not exist" in capsys.readouterr().err


def test_config_options_can_be_given(demo, evaluated, tmp_path, capsys):
    image_id = next(iter(evaluated))
    words = ("--regions", demo / "data" / "regions.h5", "--ids", image_id)
    assert caption(demo, *words, "--opts", "DECODE_STRATEGY.BEAM_SIZE", 1) == 0
    assert str(evaluated[image_id].greedy) in capsys.readouterr().out
    assert caption(demo, *words, "--opts", "DECODE_STRATEGY.BEAM") == 2
    assert "KEY VALUE pairs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give picture files, or --regions FILE"),
        (["a.jpg", "--regions", "r.h5"], "--regions replaces photos and --detector"),
        (["./a.jpg", "--json", "a.jpg"], "--json: a.jpg is one of the pictures and would be overwritten"),
        (["a.jpg", "--ids", "3"], "--ids need --regions FILE"),
        (["--regions", "none.h5"], "The region file none.h5 does not exist"),
    ],
)
def test_mistakes_in_the_command_are_explained(demo, capsys, words, message):
    if "--ids" in words:
        words = ["--ids", "3", "--", "a.jpg"]
    assert caption(demo, *words) == 2
    assert message in capsys.readouterr().err


def test_a_captioner_that_is_not_there_is_what_the_message_names(capsys):
    assert main(["caption", "photo.jpg", "--weights", "nowhere/model_final.pth"]) == 2
    assert "--weights: nowhere/model_final.pth does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("option, name", [("--report", "page.html"), ("--json", "results.json")])
def test_an_output_that_is_a_folder_is_refused_before_anything_is_captioned(tmp_path, capsys, option, name):
    (tmp_path / name).mkdir()
    assert main(["caption", "photo.jpg", "--weights", "unread", option, str(tmp_path / name)]) == 2
    assert f"{option}: {tmp_path / name} is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("key, value", [
    ("DECODE_STRATEGY.BEAM_SIZE", "0"), ("DECODE_STRATEGY.BEAM_SIZE", "93"), ("MODEL.MAX_SEQ_LEN", "0"),
])  # fmt: skip
def test_lengths_that_no_search_can_work_with_are_refused_by_their_keys(key, value):
    """The sample's vocabulary has 92 words, so a beam of 93 finds no 93 first words."""
    with pytest.raises(UserError, match=rf"{key}: expected 1 .*got {value}\."):
        load_config(CONFIG, [key, value], device="cpu")


def test_a_photograph_is_captioned_with_a_warning_by_a_captioner_of_drawn_scenes(demo, tmp_path, capsys):
    scene = pictures(demo, 1)[0]
    assert caption(demo, scene) == 0
    assert "not a drawn scene" not in capsys.readouterr().err
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((640, 480)).save(tmp_path / "photo.jpg")
    assert caption(demo, scene, tmp_path / "photo.jpg") == 0
    captured = capsys.readouterr()
    assert f"warning: {tmp_path / 'photo.jpg'}: this is not a drawn scene" in captured.err
    assert captured.err.count("not a drawn scene") == 1 and "photo.jpg\n" in captured.out
    from_pictures = ["--weights", str(demo / "data" / "region_maker.npz"), "--out", str(tmp_path / "r.h5")]
    (tmp_path / "1").mkdir()
    (tmp_path / "photo.jpg").rename(tmp_path / "1" / "7.jpg")
    assert main(["extract", "--images", str(tmp_path / "1"), *from_pictures]) == 0
    assert "1 pictures are not drawn scenes" in capsys.readouterr().err


def test_regions_that_are_not_of_drawn_scenes_are_warned_of_too(demo, tmp_path, capsys):
    store = RegionStore(demo / "data" / "regions.h5")
    r = store.read(store.ids.tolist()[0])
    with RegionWriter(tmp_path / "r.h5", [r.image_id], 36, 32, 16, source="photographs") as writer:
        writer.write(r.image_id, r.width, r.height, r.boxes_px, r.features, r.class_probs)
    assert caption(demo, "--regions", tmp_path / "r.h5") == 0
    assert "the regions are not from drawn scenes" in capsys.readouterr().err
    assert caption(demo, "--regions", demo / "data" / "regions.h5", "--ids", r.image_id) == 0
    assert "drawn scenes" not in capsys.readouterr().err
