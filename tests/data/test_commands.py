"""The commands a person types: prepare annotations, prepare regions, prepare npz, check."""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.entities_generator import write_entities
from packs.pack_writers import WRITERS
from toys import toy_config
from xmodaler_ssattn.classes import read_classes
from xmodaler_ssattn.cli import check, prepare
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.data_files import DATASET
from xmodaler_ssattn.data import expected
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.packs.checks import Inspection
from xmodaler_ssattn.packs.store import RegionStore, RegionWriter

CONFIGS = Path(__file__).parents[2] / "configs" / "flickr30k_entities"
CAPTIONS = ["A man with a dog.", "Two men see a dog.", "The man is here.", "A dog!", "A man and a woman."]


def command(*words):
    """Run `xmodaler prepare`; each word may be several, separated by spaces."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    prepare.add_parser(subparsers)
    args = parser.parse_args(["prepare", *" ".join(map(str, words)).split()])
    return args.run(args)


@pytest.fixture
def entities(tmp_path):
    """Six images in the official layout and a split file; ids 1 to 6."""
    split = {1: "train", 2: "train", 3: "train", 4: "train", 5: "val", 6: "test"}
    captions = {str(image_id): {"split": name, "captions": CAPTIONS} for image_id, name in split.items()}
    of_splits = write_entities(tmp_path / "entities", captions, set(read_classes()))
    (tmp_path / "ids.json").write_text(json.dumps({name: list(map(str, ids)) for name, ids in of_splits.items()}))
    return tmp_path


def annotations(folder, *more):
    return command(f"annotations --entities {folder}/entities --split-ids {folder}/ids.json --out {folder}/data", *more)


def test_annotations_end_with_the_counts_found_beside_those_to_expect(entities, capsys):
    assert annotations(entities) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in ("train images 4 29,000", "val images 1 1,014", "captions 30 155,070"):
        assert line in lines
    assert "NOT GVD-identical" in out and "Set MODEL.VOCAB_SIZE" in out
    assert (entities / "data" / "vocabulary.txt").is_file()


def expect(monkeypatch, folder, **changes):
    """Make the six images the complete data set. Each has 7 phrases: man, dog / dog / man / dog / man, woman; and the
    12 words a man with dog two men see the is here and woman."""
    boxes = sum(path.read_text().count("<bndbox>") for path in (folder / "entities" / "Annotations").iterdir())
    counts = {"phrases": 42, "boxed_phrases": 42, "boxes": boxes, "unrelated": 1, "rest": 0, **changes}
    monkeypatch.setitem(expected.EXPECTED, "karpathy", {"train": 4, "val": 1, "test": 1})
    monkeypatch.setitem(expected.EXPECTED_COUNTS, "karpathy", counts)
    monkeypatch.setattr(expected, "EXPECTED_VOCABULARY", 13)
    return boxes


def test_counts_as_expected_are_one_line(entities, capsys, monkeypatch):
    # image 5 is in val, which keeps the captions; "A dog!" goes with its phrase
    (entities / "unrelated").write_text("1 4\n5 1\n")
    boxes = expect(monkeypatch, entities, phrases=41, boxed_phrases=41)
    annotations(entities, "--unrelated", entities / "unrelated")
    out = capsys.readouterr().out
    assert out.splitlines()[0] == (
        "All 9 counts are those of the complete data set in karpathy's splits: train images 4, val images 1, "
        f"test images 1, captions 29, phrases 41, phrases with a box 41, boxes {boxes}, vocabulary with UNK 13, "
        "images outside the splits 0."
    )
    assert "MODEL.VOCAB_SIZE 14 is that of configs/flickr30k_entities." in out
    assert "1 unrelated captions were left out" in out and "Likely reason" not in out


@pytest.mark.parametrize(
    ("changes", "rows", "reason"),
    [
        ({"phrases": 43}, {"phrases": (42, 43)}, "some files differ from version 1.0"),
        ({"rest": 3}, {"images outside the splits": (0, 3)}, None),
        ({"size": 5}, {"train images": (4, 5), "captions": (30, 35)}, "the split ids are not the complete lists"),
        ({"words": 14}, {"vocabulary with UNK": (13, 14)}, "the vocabulary counts the words of all images"),
    ],
)
def test_other_counts_are_named_with_both_numbers_and_the_likely_reason(
    entities, capsys, monkeypatch, changes, rows, reason
):
    size, words = changes.pop("size", 4), changes.pop("words", 13)
    expect(monkeypatch, entities, **changes)
    monkeypatch.setitem(expected.EXPECTED, "karpathy", {"train": size, "val": 1, "test": 1})
    monkeypatch.setattr(expected, "EXPECTED_VOCABULARY", words)
    annotations(entities)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"{len(rows)} of 9 counts are not those of the complete data set in karpathy's splits:"
    assert lines[2 : 2 + len(rows)] == [f"{name} {found} {wanted}" for name, (found, wanted) in rows.items()]
    reasons = [line for line in lines if line.startswith("Likely reason")]
    assert len(reasons) == (reason is not None) and (reason is None or reason in reasons[0])


def test_the_sizes_of_the_other_scheme_are_recognised(entities, capsys, monkeypatch):
    monkeypatch.setitem(expected.EXPECTED, "plummer", {"train": 4, "val": 1, "test": 1})
    annotations(entities)
    assert "Likely reason: these are the split sizes of plummer: add --split-scheme plummer." in capsys.readouterr().out


def test_what_was_skipped_is_said_in_groups(entities, capsys):
    for image_id in (2, 3, 4):
        (entities / "entities" / "Sentences" / f"{image_id}.txt").unlink()
    annotations(entities, "--skip-bad")
    out = capsys.readouterr().out
    assert "3 problems were skipped, all of them in" in out
    assert "3 of 6 images have no Sentences file; is the folder complete?" in out
    assert "Likely reason: images were left out, as listed below." in out


def test_every_config_of_the_data_set_has_the_size_of_the_expected_vocabulary():
    configs = [path for path in CONFIGS.glob("*.yaml") if not path.name.endswith(".plan.yaml")]
    sizes = {path.name: load_config(str(path), device="cpu").MODEL.VOCAB_SIZE for path in configs}
    assert len(sizes) > 8 and set(sizes.values()) == {expected.EXPECTED_VOCABULARY + 1}, sizes


def test_gvds_vocabulary_names_its_own_size(entities, capsys):
    dictionary = {"ix_to_word": {"1": "man", "2": "dog", "3": "UNK"}, "wtod": {"man": 0}, "wtol": {"men": "man"}}
    (entities / "dic.json").write_text(json.dumps(dictionary))
    annotations(entities, "--dictionary", entities / "dic.json")
    out = capsys.readouterr().out
    assert "Set MODEL.VOCAB_SIZE 4 (configs/flickr30k_entities has 8625)." in out and "vocabulary with UNK" not in out


def test_plummers_lists_are_found_beside_the_annotations_and_overlaps_are_warned_about(entities, caplog, capsys):
    for name, ids in (("train", "1\n2\n3\n5\n"), ("val", "4\n"), ("test", "6\n")):
        (entities / "entities" / f"{name}.txt").write_text(ids)
    command("annotations", "--entities", entities / "entities", "--split-scheme", "plummer", "--out", entities / "p")
    assert "29,783" in capsys.readouterr().out
    assert json.loads((entities / "p" / "captions_val.json").read_text())["images"] == [{"id": 4}]
    annotations(entities)
    assert "1 images of this train split are in the val split of" in caplog.text
    assert "1 images of this val split are in the train split of" in caplog.text


def test_class_names_that_no_word_can_have_are_warned_of(entities, caplog):
    (entities / "classes.txt").write_text("man\nHot Dog\ndog, dogs\nwoman\n")
    annotations(entities, "--classes", entities / "classes.txt")
    assert (
        "2 of 4 class names cannot match a word of a caption" in caplog.text
        and "'Hot Dog', 'dog, dogs'." in caplog.text
    )
    caplog.clear()
    annotations(entities)
    assert "class names" not in caplog.text


def test_a_folder_given_for_the_list_of_unrelated_captions_is_said_to_be_one(entities):
    with pytest.raises(UserError, match="The list of unrelated captions: .*entities is a folder, expected a file"):
        annotations(entities, "--unrelated", entities / "entities")


def test_what_is_missing_on_the_command_line_is_said(entities):
    with pytest.raises(UserError, match="Give --entities DIR"):
        command("annotations --split-ids ids.json --out x")
    with pytest.raises(UserError, match="Give --split-ids FILE"):
        command(f"annotations --entities {entities}/entities --out x")
    with pytest.raises(UserError, match="also needs --boxes and --dictionary"):
        command("regions --format gvd --input x --out y")
    with pytest.raises(UserError, match="takes one --input, got 2"):
        command("regions --format gic --input x y --out z")
    with pytest.raises(UserError, match="does not use --boxes"):
        command("regions --format xmodaler-npz --input x --boxes b --out z")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("caffe_tsv", "caffe-tsv --input {0}/a.tsv {0}/b.tsv"),
        ("lxmert_tsv", "lxmert-tsv --input {0}/a.tsv"),
        ("xmodaler_npz", "xmodaler-npz --input {0}"),
        ("milvlg_npz", "milvlg-npz --input {0}"),
        ("gvd", "gvd --input {0} --boxes {0}/boxes.h5 --dictionary {0}/dic.json"),
        ("vlp", "vlp --input {0} --boxes {0}/boxes.h5"),
        ("gic", "gic --input {0}/att --boxes {0}/box"),
    ],
)
def test_every_format_has_its_command(tmp_path, capsys, name, words):
    WRITERS[name](tmp_path / "pack")
    (tmp_path / "sizes.json").write_text('{"7": [100, 80], "3": [90, 120], "11": [64, 64]}')
    given = words.format(tmp_path / "pack")
    more = f"--image-sizes {tmp_path}/sizes.json --float16 --out {tmp_path}/r.h5"
    assert command(f"regions --format {given} {more}") == 0
    store = RegionStore(tmp_path / "r.h5")
    assert len(store) == 3 and store.attributes["source"] == words.split()[0]
    out = capsys.readouterr().out
    assert out.startswith("3 images with up to 36 regions of 6 numbers")
    assert ("without class probabilities" in out) == (store.num_classes is None)


def test_npz_files_are_written_from_the_region_file(tmp_path):
    WRITERS["xmodaler_npz"](tmp_path / "pack")
    command("regions", "--format", "xmodaler-npz", "--input", tmp_path / "pack", "--out", tmp_path / "r.h5")
    command("npz", "--regions", tmp_path / "r.h5", "--out", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["11.npz", "3.npz", "7.npz"]


def test_regions_of_the_data_set_alone_are_taken_and_those_that_the_pack_lacks_are_listed(entities):
    annotations(entities)
    packed = entities / "pack.h5"
    with RegionWriter(packed, range(2, 9), 3, 6, None, source="test") as writer:
        for image_id in range(2, 9):
            writer.write(image_id, 900, 900, np.tile([0, 0, 50, 60], (3, 1)), np.ones((3, 6)))
    folder = entities / "data"
    words = f"regions --format regions --input {packed} --annotations {folder} --out {folder}/regions.h5"
    # image 1 is missing; the sizes of the others contradict the annotations
    with pytest.raises(UserError, match="the pack says 900 x 900, the annotations"):
        command(words)
    with RegionWriter(packed, range(2, 9), 3, 6, None, source="test") as writer:
        sizes = {
            image["image_id"]: (image["width"], image["height"])
            for name in ("train", "val", "test")
            for image in json.loads((entities / "data" / f"{name}.json").read_text())["images"]
        }
        for image_id in range(2, 9):
            writer.write(image_id, *sizes.get(image_id, (90, 90)), np.tile([0, 0, 50, 60], (3, 1)), np.ones((3, 6)))
    with pytest.raises(UserError, match="1 problem.*\n.*image 1 of the data set is not in the pack"):
        command(words)
    assert command(words, "--skip-bad") == 0
    assert sorted(RegionStore(entities / "data" / "regions.h5").ids.tolist()) == [2, 3, 4, 5, 6]


# --- check -------------------------------------------------------------------------------------------
@pytest.fixture
def ready(entities):
    """Everything that a run of the toy config needs: annotations, regions, vocabulary, references."""
    annotations(entities)
    folder = entities / "data"
    rng = np.random.default_rng(0)
    with RegionWriter(folder / "regions.h5", range(1, 7), 5, 6, 4, source="test") as writer:
        for image_id in range(1, 7):
            corner = rng.random((5, 2)) * 100
            probs = rng.random((5, 4))
            writer.write(
                image_id,
                333,
                333,
                np.concatenate([corner, corner + 200], 1),
                rng.standard_normal((5, 6)),
                probs / probs.sum(1, keepdims=True),
            )
    return folder


def checked(folder, **overrides):
    words = len((folder / "vocabulary.txt").read_text().split())
    cfg = toy_config(
        folder.parent,
        **{
            "DATASETS.TRAIN": DATASET,
            "DATASETS.VAL": DATASET,
            "DATASETS.TEST": DATASET,
            "DATALOADER.ANNO_FOLDER": str(folder),
            "DATALOADER.REGIONS": str(folder / "regions.h5"),
            "INFERENCE.VOCAB": str(folder / "vocabulary.txt"),
            "MODEL.VOCAB_SIZE": words + 1,
            "INFERENCE.VAL_ANNFILE": str(folder / "captions_val.json"),
            "OUTPUT_DIR": str(folder.parent / "output"),
            "INFERENCE.TEST_ANNFILE": str(folder / "captions_test.json"),
            **overrides,
        },
    )
    report = Inspection()
    check.check_data(cfg, report)
    check.check_model_and_disk(cfg, report)
    return report


def test_a_complete_folder_passes_and_the_ceiling_of_the_grounding_is_told(ready):
    report = checked(ready)
    assert report.problems == [] and check.text(report).endswith("The run has everything that it needs.")
    assert any("train: 4 usable images" in fact for fact in report.facts)
    assert any("of the annotated boxes have a region with IoU > 0.5" in fact for fact in report.facts)
    assert any("checkpoints of" in fact for fact in report.facts)
    assert any("not GVD's file" in warning for warning in report.warnings)


def test_all_problems_stand_in_one_list_each_once(ready):
    with h5py.File(ready / "regions.h5", "r+") as file:
        file["features"][0, 0, 0] = np.nan
        file["boxes"][1, 0] = [0, 0, 900, 10]
        file["num_boxes"][4] = 0  # image 5 is the val split
    (ready / "captions_test.json").unlink()
    report = checked(ready, **{"MODEL.VOCAB_SIZE": 99, "MODEL.SS_ATTENTION.NUM_CLASSES": 1601})
    expected = (
        "MODEL.VOCAB_SIZE is 99",
        "NUM_CLASSES is 1601",
        "Image 1 in",
        "captions_test.json",
        "1 images have a box that leaves the picture",
        "1 image of the val split without a region",
    )
    for sentence in expected:
        assert sum(sentence in problem for problem in report.problems) == 1, (sentence, report.problems)
    assert check.text(report).splitlines()[-1] == f"{len(report.problems)} problems to fix before training."


def test_missing_files_are_problems_and_not_exceptions(ready):
    for name in ("regions.h5", "vocabulary.txt", "train.json", "captions_val.json", "grounding_val.json"):
        (ready / name).rename(ready / f"away_{name}")
    (ready / "vocabulary.txt").write_text("a\n")
    report = checked(ready)
    text = check.text(report)
    assert "regions.h5 does not exist" in text
    assert "last word must be UNK" in text
    assert "train.json does not exist" in text
    assert "captions_val.json does not exist" in text
    assert "grounding will not be scored on val" in text


def test_an_image_in_two_splits_is_a_problem(ready):
    content = json.loads((ready / "val.json").read_text())
    content["images"][0]["image_id"] = 1
    (ready / "val.json").write_text(json.dumps(content))
    report = checked(ready)
    assert "1 images are in both train and val: [1]" in report.problems
    assert any("INFERENCE.VAL_ANNFILE: 1 images of the split have no reference" in text for text in report.problems)


def test_files_that_have_changed_are_problems_and_stop_a_training(ready, monkeypatch):
    text = (ready / "train.json").read_text()
    (ready / "train.json").write_text(text.replace(" ", "  ", 1))  # reads as before
    assert [p for p in checked(ready).problems if "train.json has changed since it was written" in p]
    whole = (ready / "regions.h5").read_bytes()
    (ready / "regions.h5").write_bytes(whole[:-300] + bytes([whole[-300] ^ 1]) + whole[-299:])
    problems = checked(ready).problems
    assert len(problems) == 2 and "regions.h5: it has changed since it was written" in problems[1]
    (ready / "train.json").write_text(text)
    (ready / "regions.h5").write_bytes(whole)
    assert checked(ready).problems == []
    (ready / "checksums.json").write_text('{"../x": "0", "val.json": 3}')
    assert [text for text in checked(ready).problems if "is not the name of a file in this folder" in text]


def test_a_disk_too_small_for_the_checkpoints_is_a_problem(ready, monkeypatch):
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: argparse.Namespace(free=1000))
    assert any("set SOLVER.CHECKPOINT_PERIOD higher" in text for text in checked(ready).problems)


def test_no_box_at_all_leaves_the_grounding_loss_nothing_to_learn(ready):
    content = json.loads((ready / "train.json").read_text())
    for image in content["images"]:
        for caption in image["captions"]:
            caption["phrases"] = []
    (ready / "train.json").write_text(json.dumps(content))
    assert any("no ground-truth box" in text for text in checked(ready).problems)
    assert not any("ground-truth" in text for text in checked(ready, **{"LOSSES.NAMES": ["CrossEntropy"]}).problems)


def test_the_command_lists_all_that_a_shipped_config_misses_and_ends_with_code_2(tmp_path, monkeypatch, capsys):
    config = CONFIGS / "ss_attn.yaml"
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    check.add_parser(parser.add_subparsers())
    args = parser.parse_args(["check", "--config-file", str(config), "--data", "nowhere", "--device", "cpu"])
    assert args.run(args) == 2
    out = capsys.readouterr().out
    names = "train.json val.json test.json vocabulary.txt regions.h5 captions_val.json captions_test.json"
    for name in [*names.split(), "grounding_val.json"]:
        assert out.count(f"nowhere/{name}") == 1, name
    assert out.rstrip().endswith("7 problems to fix before training.")


@pytest.mark.parametrize("score", ["20", "1", "nan", "inf", "-0.2"])
def test_a_least_score_that_no_score_can_pass_or_miss_is_refused(tmp_path, score):
    with pytest.raises(UserError, match=f"--min-score must be from 0 to below 1, like the scores, got {score}"):
        command(f"regions --format lxmert-tsv --input a.tsv --out {tmp_path}/r.h5 --min-score={score}")
