"""The whole simulated data set, small: files, the way through prepare, check and train, reuse, bad input."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from simulated.made_up_captions import CLASSES, invented_captions, lemma, write_captions
from worlds.tools import contents, load_tool
from xmodaler_ssattn.boxes import spatial_vectors
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.data.annotations import read_annotations
from xmodaler_ssattn.data.entities import read_objects, read_sentences
from xmodaler_ssattn.data.splits import read_splits
from xmodaler_ssattn.data.vocabulary import read_vocabulary
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.worlds.simulated import CaptionsAssumptions, CaptionsSource, Settings, dataset, simulate

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "flickr30k_entities" / "ss_attn.yaml")
SMALL = Settings(seed=3, counts=(24, 4, 4), feature_dim=16, num_classes=20, shuffled=True)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return write_captions(tmp_path_factory.mktemp("said") / "captions.json.gz", invented_captions(40, 6, 6))


def source(captions, assumptions=None):
    return CaptionsSource(captions, CLASSES, lemma, assumptions or CaptionsAssumptions())


@pytest.fixture(scope="module")
def made(captions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "data"
    manifest, new = simulate(source(captions), folder, SMALL)
    assert new
    return folder, manifest


@pytest.fixture(scope="module")
def tool():
    return load_tool("simulate_regions")


def again(captions, folder, assumptions=None, **changes):
    settings = dataclasses.replace(SMALL, **changes)
    return simulate(source(captions, assumptions), folder, settings)


def numbers(folder, image_id):
    regions = RegionStore(folder / "regions.h5").read(image_id)
    return regions.boxes_px.tobytes() + regions.features.tobytes() + regions.class_probs.tobytes()


# --- what is there --------------------------------------------------------------------------------------
def test_the_official_layout_holds_the_captions_word_for_word(made, captions):
    folder, _ = made
    splits = read_splits(folder / "split_ids_flickr30k_entities.json")
    said = invented_captions(40, 6, 6)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [24, 4, 4]
    for split, ids in splits.items():
        for image_id in ids:
            assert said[str(image_id)]["split"] == split
            read = read_sentences(folder / "Sentences" / f"{image_id}.txt")
            assert [caption["raw"].replace(" .", ".") for caption in read.values()] == said[str(image_id)]["captions"]
            assert not read_objects(folder / "Annotations" / f"{image_id}.xml").problems


def test_markup_and_boxes_survive_the_projects_own_preparation(made):
    folder, _ = made
    annotations = read_annotations(folder / "train.json", "train")
    assert annotations.header["source"] == "simulated" and not annotations.header["gvd_identical"]
    words = boxes = 0
    for image in annotations.images:
        objects = read_objects(folder / "Annotations" / f"{image['image_id']}.xml")
        chains = set()
        for caption in image["captions"]:
            for phrase in caption["phrases"]:
                words += 1
                chains.add(phrase["chain"])
                # every phrase has the class of its last word, and the box of its chain
                assert phrase["head"] == phrase["end"] - 1
                assert phrase["class"] == lemma(caption["tokens"][phrase["head"]]) and phrase["class"] in CLASSES
                assert phrase["boxes"] == objects.boxes_px.get(phrase["chain"], [])
                boxes += bool(phrase["boxes"])
        # what nobody mentions has neither box nor scene there
        assert chains == set(objects.boxes_px) | objects.without_box
    assert boxes > 200 and boxes > 0.8 * words


def test_a_region_reaches_the_annotated_boxes(made):
    _, manifest = made
    assert 0.9 < manifest["reach"] <= 1


def test_the_manifest_says_everything(made, captions):
    folder, manifest = made
    assert json.loads((folder / "simulated.json").read_text()) == manifest
    assert manifest["seed"] == 3 and manifest["num_classes"] == 20 and manifest["feature_dim"] == 16
    assert manifest["vocabulary_size"] == read_vocabulary(folder / "vocabulary.txt").model_size
    assert manifest["assumptions"]["size_gain"] == 2.0 and len(manifest["captions_sha256"]) == 64
    assert "neither boxes nor features come from pictures" in manifest["source"]
    assert sorted(path.name for path in folder.iterdir()) == manifest["files"]


def test_the_region_file_is_as_the_store_demands(made):
    folder, _ = made
    store = RegionStore(folder / "regions.h5")
    assert (len(store), store.num_regions, store.feature_dim, store.num_classes) == (32, 36, 16, 20)
    for image_id in store.ids.tolist():
        regions = store.read(image_id)
        np.testing.assert_allclose(regions.class_probs.sum(axis=1), 1, atol=5e-3)  # half precision
        assert (np.diff(regions.class_probs[:, 1:].max(axis=1)) <= 0).all()


def test_in_the_shuffled_file_every_image_has_another_ones_regions_of_its_split(made):
    folder, _ = made
    own, other = RegionStore(folder / "regions.h5"), RegionStore(folder / "regions_shuffled.h5")
    splits = read_splits(folder / "split_ids_flickr30k_entities.json")
    for ids in splits.values():
        features = {image_id: own.read(image_id).features.tobytes() for image_id in ids}
        givers = []
        for image_id in ids:
            came = other.read(image_id)
            [giver] = [name for name, value in features.items() if value == came.features.tobytes()]
            assert giver != image_id and (came.width, came.height) == own.image_size(image_id)
            source = own.read(giver)
            np.testing.assert_allclose(
                spatial_vectors(came.boxes_px, came.width, came.height),
                spatial_vectors(source.boxes_px, source.width, source.height),
                atol=1e-5,
            )
            np.testing.assert_array_equal(came.class_probs, source.class_probs)
            givers.append(giver)
        assert sorted(givers) == sorted(ids)


# --- check and train take it ----------------------------------------------------------------------------
def options(folder, manifest, out, **more):
    values = {
        "MODEL.VOCAB_SIZE": manifest["vocabulary_size"],
        "MODEL.SS_ATTENTION.NUM_CLASSES": manifest["num_classes"],
        "MODEL.VISUAL_EMBED.IN_DIM": manifest["feature_dim"],
        "MODEL.DECODER_DIM": 16,
        "MODEL.ENCODER_DIM": 16,
        "MODEL.TOKEN_EMBED.DIM": 16,
        "MODEL.VISUAL_EMBED.OUT_DIM": 16,
        "MODEL.UPDOWN.ATT_EMBED_SIZE": 16,
        "OUTPUT_DIR": out,
        "INFERENCE.METRICS": "['CIDEr','F1']",
        "INFERENCE.FINAL_METRICS": "[]",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.EPOCH": 1,
        **more,
    }
    words = [word for pair in values.items() for word in pair]
    return [str(word) for word in ("--config-file", CONFIG, "--data", folder, "--device", "cpu", *words)]


def test_check_accepts_it(made, tmp_path, capsys):
    folder, manifest = made
    assert main(["check", *options(folder, manifest, tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "train: 24 usable images" in printed and "The run has everything that it needs." in printed


def test_training_starts_on_it_and_scores_grounding(made, tmp_path):
    folder, manifest = made
    assert main(["train", *options(folder, manifest, tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("test/F1_all" in line for line in lines)


# --- the same again, and otherwise ----------------------------------------------------------------------
def test_a_finished_folder_is_left_as_it_is(made, captions):
    folder, manifest = made
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    found, new = again(captions, folder)
    assert not new and found == manifest
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_number_of_workers_changes_nothing(made, captions, tmp_path):
    simulate(source(captions), tmp_path / "two", SMALL, workers=2)
    assert contents(tmp_path / "two") == contents(made[0])


def test_an_images_data_do_not_depend_on_how_many_others_are_taken(made, captions, tmp_path):
    folder, _ = made
    again(captions, tmp_path / "few", counts=(5, 2, 2), shuffled=False)
    few, many = (read_splits(path / "split_ids_flickr30k_entities.json") for path in (tmp_path / "few", folder))
    for split in few:
        assert set(few[split]) < set(many[split])
        for image_id in few[split]:
            assert numbers(tmp_path / "few", image_id) == numbers(folder, image_id)
            for name in (f"Sentences/{image_id}.txt", f"Annotations/{image_id}.xml"):
                assert (tmp_path / "few" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"seed": 4}, r"settings.seed was 3, now 4"),
        ({"feature_dim": 8}, "settings.feature_dim was 16, now 8"),
        ({"counts": (20, 4, 4)}, r"settings.counts was \[24, 4, 4\], now \[20, 4, 4\]"),
        ({"assumptions": CaptionsAssumptions(jitter=0.2)}, "assumptions.jitter was 0.09, now 0.2"),
    ],
)
def test_a_folder_made_otherwise_is_refused_and_kept(made, captions, changes, reason):
    folder, _ = made
    with pytest.raises(UserError, match=reason):
        again(captions, folder, **changes)
    assert (folder / "regions.h5").is_file()


def test_other_captions_and_missing_files_are_noticed(made, captions, tmp_path):
    folder = tmp_path / "data"
    again(captions, folder, counts=(2, 2, 2))
    other = write_captions(tmp_path / "other.json.gz", {**invented_captions(40, 6, 6), **invented_captions(1, 0, 0, 5)})
    with pytest.raises(UserError, match="captions_sha256 was"):
        again(other, folder, counts=(2, 2, 2))
    (folder / "vocabulary.txt").unlink()
    with pytest.raises(UserError, match="vocabulary.txt is missing"):
        again(captions, folder, counts=(2, 2, 2))


def test_an_empty_folder_is_used_and_a_full_one_is_not(captions, tmp_path):
    (tmp_path / "empty").mkdir()
    assert again(captions, tmp_path / "empty", counts=(2, 2, 2))[1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match=r"does not contain simulated.json"):
        again(captions, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_nothing_half_made_stays_behind(captions, tmp_path, monkeypatch):
    def broken(folder, *_):
        assert (folder / "regions.h5").is_file()  # the last step: everything else exists
        raise RuntimeError("stop here")

    monkeypatch.setattr(dataset, "write_shuffled", broken)
    with pytest.raises(RuntimeError, match="stop here"):
        again(captions, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_cannot_be_are_refused_before_anything_is_made(captions, tmp_path):
    with pytest.raises(UserError) as caught:
        again(captions, tmp_path / "data", num_classes=15, feature_dim=0)
    assert "num_classes must be at least 16, got 15: the background and 15 named classes" in str(caught.value)
    assert "feature_dim must be at least 1" in str(caught.value)
    with pytest.raises(UserError, match=r"at least two; there are \[2, 1, 2\]"):
        again(captions, tmp_path / "data", counts=(2, 1, 2))
    assert list(tmp_path.iterdir()) == []


# --- the command ----------------------------------------------------------------------------------------
def command(tool, captions, out, *flags):
    classes = captions.parent / "classes.txt"
    classes.write_text("\n".join(CLASSES))
    words = ["--captions", captions, "--classes", classes, "--out", out, "--feature-dim", 8, "--num-classes", 20]
    return tool.main([str(word) for word in (*words, "--seed", 3, *flags)])


def test_the_command_makes_the_data_set_and_says_how_to_train(tool, captions, tmp_path, capsys):
    flags = ("--images", "4", "--val-images", "2", "--test-images", "2", "--jitter", "0.05", "--regions", "12")
    assert command(tool, captions, tmp_path / "data", *flags) == 0
    manifest = json.loads((tmp_path / "data" / "simulated.json").read_text())
    printed = capsys.readouterr().out
    assert f"MODEL.VOCAB_SIZE {manifest['vocabulary_size']} MODEL.SS_ATTENTION.NUM_CLASSES 20" in printed
    assert "simulated" in printed and manifest["assumptions"]["jitter"] == 0.05 and manifest["num_regions"] == 12
    assert command(tool, captions, tmp_path / "data", *flags) == 0
    assert "It exists already" in capsys.readouterr().out


def test_the_command_says_what_is_wrong_and_ends_with_2(tool, captions, tmp_path, capsys):
    assert command(tool, captions.parent / "none.json", tmp_path / "data") == 2
    assert "none.json does not exist" in capsys.readouterr().err
    assert command(tool, captions, tmp_path / "data", "--images", "400") == 2
    assert "400 images of the split train are wanted, it has 40" in capsys.readouterr().err
    assert command(tool, captions, tmp_path / "data", "--val-images", "4") == 2
    assert "need --images" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert command(tool, captions, tmp_path / "file" / "data") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert command(tool, captions, tmp_path / "data", "--missed", "2") == 2
    assert "missed must be between 0 and 1" in capsys.readouterr().err


def another_value(field):
    """One that the assumption may have, other than its default."""
    if "choices" in field.metadata:
        return field.metadata["choices"][-1]
    low, high = field.metadata["low"], field.metadata["high"]
    tries = (type(field.default)(value) for value in (field.default / 2, field.default * 1.5, low + 0.01))
    return next(value for value in tries if low <= value <= high and value != field.default)


def test_every_assumption_is_an_option(tool):
    for option, world in tool.WORLDS.items():
        args = [option, "x", "--out", "o"]
        assert tool.assumptions_of(tool.build_parser().parse_args(args), option) == world()
        for field in dataclasses.fields(world):
            value = another_value(field)
            words = [*args, f"--{field.name.replace('_', '-')}", str(value)]
            found = tool.assumptions_of(tool.build_parser().parse_args(words), option)
            assert found == world(**{field.name: value}) != world(), field.name


def test_assumptions_of_the_other_world_and_unclear_worlds_are_refused(tool, captions, tmp_path, capsys):
    assert command(tool, captions, tmp_path / "data", "--distractors", "rim", "--jitter", "0.1") == 2
    assert "--distractors cannot be used with --captions" in capsys.readouterr().err
    assert command(tool, captions, tmp_path / "data", "--annotations", str(tmp_path)) == 2
    assert "Give either --annotations DIR" in capsys.readouterr().err
    assert tool.main(["--annotations", "a", "--classes", "c", "--out", str(tmp_path / "data")]) == 2
    assert "--classes cannot be used with --annotations" in capsys.readouterr().err


def test_real_captions_become_a_data_set(tool, shared_data, tmp_path, capsys):
    path = shared_data / "flickr30k" / "captions.json.gz"
    if not path.is_file():
        pytest.skip(f"no real captions at {path}")
    # A part of the file in the same form: reading what all 29,000 training images say takes ten seconds and more.
    with gzip.open(path, "rt", encoding="utf-8") as file:
        whole = json.load(file)
    part = {key: whole[key] for key in list(whole)[::40]}
    out = tmp_path / "data"
    words = ["--captions", write_captions(tmp_path / "part.json.gz", part), "--out", out, "--feature-dim", 32]
    words += ["--images", 60, "--val-images", 10, "--test-images", 10]
    assert tool.main([str(word) for word in words]) == 0
    manifest = json.loads((out / "simulated.json").read_text())
    assert manifest["num_classes"] == 1601 and manifest["reach"] > 0.93
    counts = manifest["counts"]["train"]
    # five captions an image with two to three object words each, most of which have a box
    assert counts["captions"] == 300 and counts["phrases"] > 600
    assert counts["grounded_words"] > 0.8 * counts["phrases"]
