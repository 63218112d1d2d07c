"""A whole data set around real boxes, small: files, the same again, bad input; and a part of the real files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.test_real_entities import ARCHIVE, SPLIT_IDS, prepare, unpack
from simulated.made_up_annotations import CLASSES, children, hatted, small_folder, write_annotations
from worlds.tools import TOOLS, contents, load_tool
from xmodaler_ssattn.boxes import iou
from xmodaler_ssattn.data.annotations import read_annotations
from xmodaler_ssattn.data.splits import read_splits
from xmodaler_ssattn.data.vocabulary import read_vocabulary
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.floors import RULES
from xmodaler_ssattn.evaluation.lemmas import noun_lemma
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.reproduce.floors import read_floors
from xmodaler_ssattn.worlds.pixels import BOTTOM_UP
from xmodaler_ssattn.worlds.simulated import AnnotationsAssumptions, AnnotationsSource, Settings, simulate

EVERY = 120
SMALL = Settings(seed=3, counts=(6, 2, 2), feature_dim=16, num_classes=20, shuffled=True)


def make(folder, out, settings=SMALL, assumptions=None, splits=None):
    source = AnnotationsSource(folder, noun_lemma, assumptions or AnnotationsAssumptions(), splits)
    return simulate(source, out, settings)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("annotated") / "prepared")


@pytest.fixture(scope="module")
def made(annotations, tmp_path_factory):
    out = tmp_path_factory.mktemp("real_world") / "data"
    manifest, new = make(annotations, out)
    assert new
    return out, manifest


def test_the_chosen_annotations_are_word_for_word_those_given(made, annotations):
    folder, manifest = made
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        given = {image["image_id"]: image for image in read_annotations(annotations / f"{split}.json", split).images}
        chosen = read_annotations(folder / f"{split}.json", split)
        assert chosen.header == read_annotations(annotations / f"{split}.json", split).header
        assert len(chosen.images) == count and all(image == given[image["image_id"]] for image in chosen.images)
        references = json.loads((folder / f"captions_{split}.json").read_text())
        assert len(references["annotations"]) == 5 * count
    assert len(json.loads((folder / "grounding_test.json").read_text())["annotations"]) == 2
    # of test's ten captions eight say "a" or "two": "a" is counted at least four times, "frisbee" at most so often
    words = read_vocabulary(folder / "vocabulary.txt")
    assert "a" in words and manifest["vocabulary_size"] == words.model_size


def test_the_manifest_counts_what_is_there(made):
    folder, manifest = made
    assert json.loads((folder / "simulated.json").read_text()) == manifest
    images = [
        image for split in ("train", "val", "test") for image in read_annotations(folder / f"{split}.json").images
    ]
    boxes = {
        image["image_id"]: {tuple(box) for c in image["captions"] for p in c["phrases"] for box in p["boxes"]}
        for image in images
    }
    world = manifest["world"]
    assert world["objects"] == sum(map(len, boxes.values()))
    without = sorted(image_id for image_id, found in boxes.items() if not found)
    assert without and world["images_without_box"] == {"count": len(without), "first": without}
    assert world["images_with_more_boxes_than_regions"] == {"count": 0, "first": []}
    # reached: what the region file itself says, in the plain way
    store = RegionStore(folder / "regions.h5")
    reached = [
        (iou(np.array(sorted(found)), store.read(image_id).boxes_px).max(axis=1) > 0.5)
        for image_id, found in boxes.items()
        if found
    ]
    assert manifest["reach"] == round(float(np.concatenate(reached).mean()), 4)
    assert manifest["reasons"].keys() == manifest["assumptions"].keys()
    assert manifest["pixels"]["bottom_up"] == BOTTOM_UP and manifest["pixels"]["simulated"]["regions"] == 10 * 36
    assert sorted(path.name for path in folder.iterdir()) == manifest["files"]


def test_the_manifest_names_the_columns_of_c_so_that_floors_can_be_computed(made):
    folder, manifest = made
    assert manifest["classes"] == list(CLASSES) == json.loads((folder / "simulated.json").read_text())["classes"]
    floors = read_floors(folder, "test")
    assert set(floors["rules"]) == set(RULES)  # with those of the detector, which need the names of the columns


def test_an_image_with_more_boxes_than_regions_is_counted(annotations, tmp_path):
    settings = Settings(seed=3, counts=(2, 2, 2), num_regions=3, feature_dim=4, num_classes=20)
    manifest, _ = make(annotations, tmp_path / "few", settings)
    # children: four boxes; hatted: three
    assert {30, 41} <= set(manifest["world"]["images_with_more_boxes_than_regions"]["first"])
    assert not {31, 40} & set(manifest["world"]["images_with_more_boxes_than_regions"]["first"])


def run(hash_seed, *words):
    """The tool in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, TOOLS / "simulate_regions.py", *words]
    subprocess.run([str(word) for word in command], env=environment, check=True, capture_output=True)


def test_workers_and_hash_seeds_change_no_byte(made, annotations, tmp_path):
    words = ["--annotations", annotations, "--images", 6, "--val-images", 2, "--test-images", 2, "--feature-dim", 16]
    words += ["--num-classes", 20, "--seed", 3, "--shuffled", "--workers", 2, "--out", tmp_path / "again"]
    run(17, *words)
    assert contents(tmp_path / "again") == contents(made[0])


def test_a_finished_folder_is_left_and_one_made_otherwise_refused(made, annotations):
    folder, manifest = made
    assert make(annotations, folder) == (manifest, False)
    with pytest.raises(UserError, match="assumptions.distractors was mentioned, now rim"):
        make(annotations, folder, assumptions=AnnotationsAssumptions(distractors="rim"))


def test_an_image_does_not_depend_on_how_many_others_are_taken(made, annotations, tmp_path):
    make(annotations, tmp_path / "few", Settings(seed=3, counts=(2, 1, 1), feature_dim=16, num_classes=20))
    few, many = (RegionStore(folder / "regions.h5") for folder in (tmp_path / "few", made[0]))
    for image_id in few.ids.tolist():
        assert few.read(image_id).features.tobytes() == many.read(image_id).features.tobytes()


def test_other_splits_wrong_files_and_simulated_boxes_are_refused(annotations, tmp_path):
    with pytest.raises(UserError, match="train.json, val.json, test.json missing"):
        make(tmp_path, tmp_path / "data")
    other = small_folder(tmp_path / "other")
    (other / "val.json").write_bytes((other / "test.json").read_bytes())
    with pytest.raises(UserError, match="its split is 'test', expected 'val'"):
        make(other, tmp_path / "data")
    (other / "val.json").write_text('{"schema": "xmodaler_ssattn/results", "version": 1, "split": "val", "images": []}')
    with pytest.raises(UserError, match="its schema is 'xmodaler_ssattn/results'"):
        make(other, tmp_path / "data")
    twice = small_folder(tmp_path / "twice", test=[hatted(10), children(41)])
    with pytest.raises(UserError, match="image 10 is in train and in test"):
        make(twice, tmp_path / "data")
    images = {split: [children(number)] for number, split in enumerate(("train", "val", "test"))}
    simulated = write_annotations(tmp_path / "simulated", images, source="simulated")
    with pytest.raises(UserError, match="The boxes in .*train.json are simulated"):
        make(simulated, tmp_path / "data")
    with pytest.raises(UserError, match=r"1 images are in another split of the annotations, e.g. \[40\]"):
        make(annotations, tmp_path / "data", splits={"train": [40], "val": [30], "test": [41]})
    assert not (tmp_path / "data").exists()


def test_published_references_and_lemmas_are_taken_as_they_are(tmp_path):
    folder = small_folder(tmp_path / "prepared")
    for split in ("train", "val", "test"):
        content = json.loads((folder / f"{split}.json").read_text())
        (folder / f"{split}.json").write_text(json.dumps({**content, "gvd_identical": True}))
    for split, ids in (("val", (30, 31)), ("test", (40, 41))):
        entries = [{"image_id": image_id, "captions": [], "published": image_id} for image_id in ids]
        (folder / f"grounding_{split}.json").write_text(json.dumps({"vocab": CLASSES, "annotations": entries}))
    (folder / "lemmas.json").write_text('{"dogs": "dog"}')
    make(folder, tmp_path / "data", Settings(counts=(2, 1, 2), feature_dim=4, num_classes=20))
    found = [json.loads((tmp_path / "data" / f"grounding_{split}.json").read_text()) for split in ("val", "test")]
    assert all(part["gvd_identical"] for part in found)
    assert [entry["published"] for entry in found[1]["annotations"]] == [40, 41] and len(found[0]["annotations"]) == 1
    assert json.loads((tmp_path / "data" / "lemmas.json").read_text()) == {"dogs": "dog"}


def test_a_captions_data_set_in_the_folder_is_refused(annotations, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "simulated.json").write_text('{"schema": "xmodaler_ssattn/simulated", "captions_sha256": "a"}')
    with pytest.raises(UserError, match="other annotations_sha256|annotations_sha256 was None"):
        make(annotations, tmp_path / "data")


def test_classes_without_a_vector_and_boxes_outside_are_refused_together_with_their_images(tmp_path):
    strange, outside = children(50), children(51)
    strange["captions"][0]["phrases"][1]["class"] = "wolf"
    strange["captions"][1]["phrases"][2]["class"] = "wolf"
    outside["width"] = 150
    folder = small_folder(tmp_path / "prepared", val=[strange, outside])
    with pytest.raises(UserError) as caught:
        make(folder, tmp_path / "data")
    assert "image 50 has boxes of classes without a vector: wolf" in str(caught.value)
    assert "image 51 of 150 x 160 pixels does not contain its box [150, 100, 190, 140]" in str(caught.value)
    # nine classes and the background leave no class without a name
    with pytest.raises(UserError, match=r"image 10 has boxes of no class \(frisbee\), and no unnamed class is left"):
        make(small_folder(tmp_path / "good"), tmp_path / "data", Settings(counts=(2, 2, 2), num_classes=10))
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(not (ARCHIVE.is_file() and SPLIT_IDS.is_file()), reason="no real Flickr30k Entities")
def test_a_part_of_the_real_files_is_reached_and_looks_as_real_regions_do(tmp_path):
    splits = {split: ids[::EVERY] for split, ids in read_splits(SPLIT_IDS).items()}
    ids = {str(image_id) for part in splits.values() for image_id in part}
    entities = unpack(tmp_path / "entities", lambda name: Path(name).stem in ids)
    (tmp_path / "ids.json").write_text(json.dumps(splits))
    assert prepare(entities, tmp_path / "ids.json", tmp_path / "prepared") == 0
    run(0, "--annotations", tmp_path / "prepared", "--out", tmp_path / "data", "--feature-dim", 512)
    manifest = json.loads((tmp_path / "data" / "simulated.json").read_text())
    assert 0.85 < manifest["reach"] < 0.91
    reach = list(manifest["reach_by_area"].values())
    # of 5,000 images 71 % below 1 % of the picture and 97 % above 20 %; here some 300 and 550 boxes, many in few images
    assert reach == sorted(reach) and 0.5 < reach[0] < 0.82 and reach[-1] > 0.94
    real, ours = BOTTOM_UP, manifest["pixels"]["simulated"]
    for name in ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7"):
        assert ours["cosine_by_iou"][name] == pytest.approx(real["cosine_by_iou"][name], abs=0.06)
    for name, margin in (
        ("cosine_between_images", 0.03),
        ("rms", 0.1),
        ("norm_variation", 0.03),
        ("zeros", 0.03),
        ("zeros_deviation", 0.03),
        ("zeros_and_log_area", 0.1),
        ("norm_and_log_area", 0.1),
        ("confidence", 0.06),
    ):
        assert ours[name] == pytest.approx(real[name], abs=margin), name


def test_the_command_says_how_to_train(annotations, tmp_path, capsys):
    words = ["--annotations", annotations, "--out", tmp_path / "data", "--images", 2, "--feature-dim", 8]
    assert load_tool("simulate_regions").main([str(word) for word in (*words, "--num-classes", 20)]) == 0
    said = capsys.readouterr().out
    assert "Captions, phrases and boxes are real" in said and "MODEL.VISUAL_EMBED.IN_DIM 8" in said
