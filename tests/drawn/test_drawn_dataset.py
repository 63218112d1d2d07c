"""The whole data set of drawn scenes, small: files, contents, reuse."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worlds.tools import contents
from xmodaler_ssattn.data.annotations import read_annotations
from xmodaler_ssattn.data.entities import read_objects, read_sentences
from xmodaler_ssattn.data.splits import read_splits
from xmodaler_ssattn.data.vocabulary import read_vocabulary
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.store import RegionStore
from xmodaler_ssattn.worlds.drawn import CLASS_NAMES, SceneRegionMaker, draw_dataset, drawn_dataset, singular
from xmodaler_ssattn.worlds.drawn.scenes import make_scene

SMALL = {"num_images": 24, "seed": 4, "feature_dim": 32, "workers": 1}


@dataclass
class Drawn:
    folder: Path
    manifest: dict
    new: bool


def draw(folder, **arguments):
    return Drawn(folder, *draw_dataset(folder, **arguments))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn") / "sample", **SMALL)


def test_the_official_layout_is_there_and_readable(scenes):
    splits = read_splits(scenes.folder / "split_ids_flickr30k_entities.json")
    assert [len(splits[name]) for name in ("train", "val", "test")] == [20, 2, 2]
    for image_id in (*splits["train"], *splits["val"], *splits["test"]):
        captions = read_sentences(scenes.folder / "Sentences" / f"{image_id}.txt")
        objects = read_objects(scenes.folder / "Annotations" / f"{image_id}.xml")
        with Image.open(scenes.folder / "Images" / f"{image_id}.jpg") as picture:
            assert picture.size == (objects.width, objects.height)
        assert len(captions) == 5 and not objects.problems


def test_prepared_annotations_know_class_and_boxes_of_every_object_word(scenes):
    annotations = read_annotations(scenes.folder / "train.json", "train")
    assert annotations.header["classes"] == list(CLASS_NAMES)
    grounded = 0
    for image in annotations.images:
        for caption in image["captions"]:
            for phrase in caption["phrases"]:
                if phrase["boxes"]:
                    assert phrase["class"] == singular(caption["tokens"][phrase["head"]])
                    grounded += 1
    assert grounded > 100
    assert read_vocabulary(scenes.folder / "vocabulary.txt").model_size == scenes.manifest["vocabulary_size"]
    reference = json.loads((scenes.folder / "grounding_test.json").read_text())
    assert len(reference["annotations"]) == 2


def test_the_region_store_holds_every_image_with_the_regions_of_its_pixels(scenes):
    store = RegionStore(scenes.folder / "regions.h5")
    assert (len(store), store.num_regions, store.feature_dim, store.num_classes) == (24, 36, 32, 16)
    maker = SceneRegionMaker.load(scenes.folder / "region_maker.npz")
    for image_id in store.ids[[0, 23]].tolist():
        regions = store.read(image_id)
        np.testing.assert_allclose(regions.class_probs.sum(axis=1), 1.0, atol=1e-4)
        best = regions.class_probs[:, 1:].max(axis=1)
        assert (np.diff(best) <= 0).all()
        # The file was made from the pixels of the JPEG: the maker finds the same in it.
        with Image.open(scenes.folder / "Images" / f"{image_id}.jpg") as picture:
            again = maker(picture, image_id, regions.boxes_px)
        np.testing.assert_array_equal(again.boxes_px, regions.boxes_px)
        np.testing.assert_allclose(again.class_probs, regions.class_probs, atol=1e-5)
        np.testing.assert_allclose(again.features, regions.features, atol=2e-3, rtol=2e-3)  # stored as float16


def test_the_manifest_says_what_the_configs_need(scenes):
    assert scenes.new and scenes.manifest["num_classes"] == 16
    assert scenes.manifest["reach"] > 0.95 and 0 < scenes.manifest["top1"] < 1
    assert scenes.manifest["parameters"]["splits"] == [20, 2, 2]


def test_the_result_depends_on_the_seed_and_not_on_the_number_of_workers(scenes, tmp_path):
    two = draw(tmp_path / "two", **{**SMALL, "workers": 2})
    first, second = contents(scenes.folder), contents(two.folder)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name] and not name.endswith(".npz")] == []
    other = draw(tmp_path / "other", **{**SMALL, "seed": 5})
    image_id = make_scene(5, 0).image_id
    assert contents(other.folder)[f"Sentences/{image_id}.txt"] != first[f"Sentences/{image_id}.txt"]


def test_a_finished_folder_is_used_again(scenes):
    before = {path: path.stat().st_mtime_ns for path in scenes.folder.iterdir()}
    again = draw(scenes.folder, **SMALL)
    assert not again.new and again.manifest == dict(scenes.manifest)
    assert before == {path: path.stat().st_mtime_ns for path in scenes.folder.iterdir()}


@pytest.mark.parametrize("damage", ["vocabulary.txt", "Images/100001.jpg", "manifest", "parameters"])
def test_an_incomplete_or_different_folder_is_drawn_again(damage, tmp_path, caplog):
    tiny = {"num_images": 3, "feature_dim": 4, "workers": 1}
    folder = tmp_path / "sample"
    whole = contents(draw(folder, **tiny).folder)
    if damage == "manifest":
        manifest = json.loads((folder / "sample.json").read_text())
        (folder / "sample.json").write_text(json.dumps({**manifest, "program": "older"}))
        reason = "another version"
    elif damage == "parameters":
        tiny["feature_dim"] = 8
        reason = "feature_dim was 4, now 8"
    else:
        os.remove(folder / damage)
        reason = "vocabulary.txt is missing" if damage == "vocabulary.txt" else "Images holds 2 files"
    again = draw(folder, **tiny)
    assert again.new and reason in caplog.text
    assert contents(folder).keys() == whole.keys()
    if damage != "parameters":
        assert contents(folder)["regions.h5"] == whole["regions.h5"]


def test_files_that_the_program_did_not_draw_are_never_removed(tmp_path):
    tiny = {"num_images": 3, "feature_dim": 4, "workers": 1}
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="has no sample.json"):
        draw(folder, **tiny)
    drawn = draw(tmp_path / "sample", **tiny).folder
    (drawn / "notes.txt").write_text("keep")
    assert not draw(drawn, **tiny).new  # complete: used as it is
    with pytest.raises(UserError, match="notes.txt"):
        draw(drawn, **{**tiny, "feature_dim": 8})
    assert (folder / "mine.txt").read_text() == (drawn / "notes.txt").read_text() == "keep"
    with pytest.raises(UserError, match="is a file"):
        draw(folder / "mine.txt", **tiny)


def test_nothing_half_drawn_stays_behind(tmp_path, monkeypatch):
    def broken(path, *_):
        assert (path.parent / "vocabulary.txt").is_file()
        raise RuntimeError("stop here")

    monkeypatch.setattr(drawn_dataset, "_write_regions", broken)
    with pytest.raises(RuntimeError, match="stop here"):
        draw(tmp_path / "sample", num_images=3, feature_dim=4, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_a_picture_for_each_split(tmp_path):
    with pytest.raises(UserError, match="expected 3 pictures or more.*; got 2"):
        draw(tmp_path / "sample", num_images=2)


def test_every_kind_has_its_plural():
    assert singular("men") == "man" and singular("buses") == "bus" and singular("trees") == "tree"
    assert singular("park") == "park"
