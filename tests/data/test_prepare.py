"""From the official folders, or GVD's file, to the annotation folder."""

import json
import os
import re

import numpy as np
import pytest

from data.entities_generator import phrase, real_captions, shared_data, write_entities
from xmodaler_ssattn.boxes import union_box
from xmodaler_ssattn.classes import class_of_phrase, read_classes
from xmodaler_ssattn.data.annotations import read_annotations
from xmodaler_ssattn.data.prepare import prepare_annotations
from xmodaler_ssattn.data.splits import overlap_warnings, read_splits, read_unrelated
from xmodaler_ssattn.data.vocabulary import read_vocabulary
from xmodaler_ssattn.errors import UserError

SENTENCES = [
    "[/EN#1/people Two men] watch [/EN#2/animals a dog] .",
    "[/EN#1/people Men] and [/EN#2/animals a dog] .",
    "A dog with [/EN#3/scene the park bench] .",
    "[/EN#0/notvisual They] watch [/EN#2/other it] .",
    "[/EN#1/people The guys] watch .",
]
XML = """<annotation><size><width>100</width><height>80</height></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>11</xmax><ymax>21</ymax></bndbox></object>
<object><name>1</name><bndbox><xmin>31</xmin><ymin>1</ymin><xmax>41</xmax><ymax>41</ymax></bndbox></object>
<object><name>2</name><bndbox><xmin>51</xmin><ymin>51</ymin><xmax>61</xmax><ymax>61</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>
</annotation>
"""
CLASSES = ["man", "dog", "bench"]
SPLITS = {"train": [11], "val": [12], "test": [13]}


def lemma(word):
    return {"men": "man", "dogs": "dog", "guys": "guy"}.get(word, word)


@pytest.fixture
def official(tmp_path):
    """Four images in the official layout; 14 is in no split."""
    for name in ("Sentences", "Annotations"):
        (tmp_path / "entities" / name).mkdir(parents=True)
    for image_id in (11, 12, 13, 14):
        (tmp_path / "entities" / "Sentences" / f"{image_id}.txt").write_text("\n".join(SENTENCES) + "\n")
        (tmp_path / "entities" / "Annotations" / f"{image_id}.xml").write_text(XML)
    return tmp_path / "entities"


def prepare(folder, out, splits=SPLITS, **options):
    options = {
        "lemma": lemma,
        "sentences_dir": folder / "Sentences",
        "annotations_dir": folder / "Annotations",
        "classes": CLASSES,
        **options,
    }
    return prepare_annotations(out, splits, **options)


def test_an_image_becomes_a_record_with_classes_heads_and_boxes(official, tmp_path):
    prepare(official, tmp_path / "out")
    annotations = read_annotations(tmp_path / "out" / "train.json", "train")
    assert annotations.header["gvd_identical"] is False and annotations.header["rule"].startswith("not GVD-identical")
    assert annotations.header["classes"] == CLASSES
    (image,) = annotations.images
    assert (image["image_id"], image["width"], image["height"], len(image["captions"])) == (11, 100, 80, 5)
    men, dog = image["captions"][0]["phrases"]
    # XML counts from 1: 1..11 -> 0..10
    assert men == phrase(0, 2, 1, "man", "1", (0, 0, 10, 20), (30, 0, 40, 40))
    assert dog == phrase(3, 5, 4, "dog", "2", (50, 50, 60, 60))
    they, it = image["captions"][3]["phrases"]
    assert they["chain"] is None and they["boxes"] == [] and it["class"] is None and it["boxes"] == [[50, 50, 60, 60]]
    assert image["captions"][2]["phrases"] == [phrase(3, 6, 5, "bench", "3")]


def test_all_files_of_the_folder_are_there_and_belong_together(official, tmp_path):
    report = prepare(official, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [
        "captions_test.json",
        "captions_train.json",
        "captions_val.json",
        "checksums.json",
        "grounding_test.json",
        "grounding_val.json",
        "test.json",
        "train.json",
        "val.json",
        "vocabulary.txt",
    ]
    coco = json.loads((tmp_path / "out" / "captions_val.json").read_text())
    assert coco["type"] == "captions" and coco["images"] == [{"id": 12}]
    assert coco["annotations"][0]["caption"] == "Two men watch a dog ."
    assert sorted(a["id"] for a in coco["annotations"]) == [0, 1, 2, 3, 4]
    grounding = json.loads((tmp_path / "out" / "grounding_val.json").read_text())
    assert grounding["vocab"] == CLASSES and grounding["gvd_identical"] is False
    (image,) = grounding["annotations"]
    assert image["captions"][0]["process_clss"] == ["man", "dog"] and image["captions"][0]["process_idx"] == [1, 4]
    assert image["captions"][0]["process_bnd_box"] == [[0, 0, 40, 40], [50, 50, 60, 60]]
    # five captions: man 2 times with boxes, dog 2 times; "the park bench" has no box, "it" and "guys" no class
    assert report.counts["val"] == {
        "images": 1,
        "captions": 5,
        "long_captions": 0,
        "phrases": 8,
        "grounded_words": 4,
        "boxes": 3,
    }


def test_words_are_counted_over_all_images_also_those_of_no_split(official, tmp_path):
    report = prepare(official, tmp_path / "out")
    # "two" occurs once per image: 4 times with the image that is in no split, so it is kept; 3 times without it
    assert report.rest_images == 1 and "two" in report.vocabulary
    assert read_vocabulary(tmp_path / "out" / "vocabulary.txt").words == report.vocabulary.words
    (official / "Sentences" / "14.txt").unlink()
    report = prepare(official, tmp_path / "out")
    assert "two" not in report.vocabulary and "watch" in report.vocabulary
    assert report.vocabulary.words[:3] == ["men", "watch", "a"] and report.vocabulary.words[-1] == "UNK"


def test_several_processes_give_the_same_files(official, tmp_path):
    prepare(official, tmp_path / "one", workers=1)
    prepare(official, tmp_path / "two", workers=2)
    for name in os.listdir(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def damage(official):
    """One bad thing in every image but 14; returns how each is described."""
    sentences, annotations = official / "Sentences", official / "Annotations"
    (sentences / "11.txt").write_text("\n".join(["[/EN#1/people Two men watch .", *SENTENCES[1:]]))
    (annotations / "12.xml").write_text(XML.replace("<xmax>61</xmax>", "<xmax>999</xmax>"))
    (sentences / "13.txt").write_text("\n".join([*SENTENCES[:4], "[/EN#77/people The guys] watch ."]))
    return (
        r"11\.txt, line 1: the bracket",
        r"12\.xml, line 4: the box of chain 2.*leaves the image of 100 x 80",
        r"13\.txt, line 5: chain 77 of the phrase 'the guys' is not in .*13\.xml",
    )


def test_all_bad_things_are_told_at_once_and_nothing_is_written(official, tmp_path):
    messages = damage(official)
    with pytest.raises(UserError, match="(?s)3 problem.*" + ".*".join(messages) + ".*--skip-bad"):
        prepare(official, tmp_path / "out")
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_skip_bad_continues_and_lists_what_it_left_out(official, tmp_path):
    damage(official)
    report = prepare(official, tmp_path / "out", splits={"train": [11, 14], "val": [12], "test": [13]}, skip_bad=True)
    left_out = json.loads((tmp_path / "out" / "left_out.json").read_text())
    assert [(entry["image_id"], entry["left_out"]) for entry in left_out] == [
        (11, "image"),
        (12, "box"),
        (13, "boxes of the phrase"),
    ]
    assert [image["image_id"] for image in read_annotations(tmp_path / "out" / "train.json").images] == [14]
    (image,) = read_annotations(tmp_path / "out" / "val.json").images
    assert image["captions"][0]["phrases"][1]["boxes"] == []  # the dog lost its only box
    assert len(report.left_out) == 3
    # a clean run takes the list away
    for image_id in (11, 12, 13):
        (official / "Sentences" / f"{image_id}.txt").write_text("\n".join(SENTENCES))
        (official / "Annotations" / f"{image_id}.xml").write_text(XML)
    prepare(official, tmp_path / "out")
    assert not (tmp_path / "out" / "left_out.json").exists()


def test_a_split_that_loses_every_image_is_refused(official, tmp_path):
    damage(official)
    with pytest.raises(UserError, match="No usable image is left in the split train"):
        prepare(official, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_missing_files_are_named(official, tmp_path):
    (official / "Sentences" / "11.txt").unlink()
    (official / "Annotations" / "12.xml").unlink()
    with pytest.raises(UserError, match=r"(?s)2 problem.*11\.txt does not exist.*12\.xml does not exist"):
        prepare(official, tmp_path / "out")


def test_files_that_many_images_lack_are_counted_in_one_sentence(official, tmp_path):
    splits = {"train": [11, 14, 15, 16, 17], "val": [12], "test": [13]}
    (official / "Annotations" / "12.xml").unlink()
    with pytest.raises(UserError) as caught:
        prepare(official, tmp_path / "out", splits)
    lines = str(caught.value).splitlines()
    # 15, 16 and 17 have neither file; 12 lacks one of the two
    assert lines[0].startswith("7 problem(s) in the annotations, nothing was written")
    assert re.match(
        r"  1\. 3 of 7 images have no Sentences file; is the folder complete\? The first: .*15\.txt", lines[1]
    )
    assert re.match(r"  2\. 4 of 7 images have no Annotations file; is the folder complete\? ", lines[2])
    assert len(lines) == 4  # and what to do
    report = prepare(official, tmp_path / "out", {**splits, "val": [14], "train": [11, 15, 16, 17]}, skip_bad=True)
    assert report.planned == 6 and len(json.loads((tmp_path / "out" / "left_out.json").read_text())) == 6


def test_ids_with_leading_zeros_are_the_same_images(official, tmp_path):
    prepare(official, tmp_path / "plain")
    for name in ("Sentences/11.txt", "Annotations/11.xml", "Sentences/14.txt"):
        (official / name).rename(official / name.replace("/1", "/0001"))
    (tmp_path / "ids.json").write_text(json.dumps({"train": ["0011"], "val": ["12"], "test": [13]}))
    report = prepare(official, tmp_path / "zeros", read_splits(tmp_path / "ids.json"))
    assert report.rest_images == 1
    for name in os.listdir(tmp_path / "plain"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "zeros" / name).read_bytes(), name
    (official / "Sentences" / "11.txt").write_text("other")
    with pytest.raises(UserError, match=r"0011\.txt and .*11\.txt are all named by image 11; keep the right one"):
        prepare(official, tmp_path / "zeros")
    (tmp_path / "ids.json").write_text(json.dumps({"train": ["0011", "11"], "val": ["-12", 13.0, True], "test": []}))
    with pytest.raises(UserError, match="(?s)4 problems.*image 11 is in train and in train.*'-12'.*13.0.*True"):
        read_splits(tmp_path / "ids.json")


def test_unrelated_captions_that_are_not_there_are_named(official, tmp_path):
    unrelated = {11: {4}, 12: {5, 0}, 14: {7}, 99: {0}}  # positions from 0; 14 is in no split
    with pytest.raises(UserError, match="3 problem") as caught:
        prepare(official, tmp_path / "out", unrelated=unrelated)
    for sentence in (
        "sentence 6 of image 12, which has 5",
        "sentence 8 of image 14, which has 5",
        "names image 99, which",
    ):
        assert sentence in str(caught.value)
    report = prepare(official, tmp_path / "out", unrelated=unrelated, skip_bad=True)
    assert report.unrelated == 1 and report.counts["val"]["captions"] == 5
    assert {problem.left_out for problem in report.left_out} == {"nothing"}


def test_require_official_refuses_the_fallback_rule(official, tmp_path):
    with pytest.raises(UserError, match="(?s)flickr30k_cleaned_class.json.*not GVD-identical.*dic_flickr30k.json"):
        prepare(official, tmp_path / "out", require_official=True)


def test_unrelated_captions_leave_the_training_split_alone(official, tmp_path):
    (tmp_path / "UNRELATED_CAPTIONS").write_text("# format: <imageID> <sentence number>\n11 5\n12 1\n11 2")
    unrelated = read_unrelated(tmp_path / "UNRELATED_CAPTIONS")
    assert unrelated == {11: {4, 1}, 12: {0}}
    report = prepare(official, tmp_path / "out", unrelated=unrelated)
    (image,) = read_annotations(tmp_path / "out" / "train.json").images
    assert [caption["raw"] for caption in image["captions"]] == [
        "Two men watch a dog .",
        "A dog with the park bench .",
        "They watch it .",
    ]
    assert report.unrelated == 2 and report.counts["val"]["captions"] == 5
    (tmp_path / "UNRELATED_CAPTIONS").write_text("11 five\n")
    with pytest.raises(UserError, match="line 1: expected 'image-id sentence-number', found '11 five'"):
        read_unrelated(tmp_path / "UNRELATED_CAPTIONS")


def gvd_files(tmp_path, **change):
    caption = {
        "tokens": ["Two", "men", "", "watch", "a", "dog", ""],
        "process_idx": [1, 5],
        "process_clss": ["man", "dog"],
        "process_bnd_box": [[0, 0, 40, 40], [50, 50, 60, 60]],
        **change,
    }
    images = [
        {"image_id": image_id, "image_size": [100, 80], "captions": [caption] * 5} for image_id in (11, 12, 13, 14)
    ]
    cleaned = tmp_path / "flickr30k_cleaned_class.json"
    cleaned.write_text(json.dumps({"vocab": CLASSES, "annotations": images}))
    words = ["two", "men", "watch", "a", "dog", "UNK"]
    dictionary = tmp_path / "dic_flickr30k.json"
    dictionary.write_text(
        json.dumps(
            {
                "ix_to_word": {str(i): word for i, word in enumerate(words, 1)},
                "wtod": {"dog": 0, "man": 1, "bench": 2},
                "wtol": {"men": "man"},
            }
        )
    )
    return {"official": cleaned, "dictionary": dictionary}


def test_gvds_own_files_are_taken_as_they_are(official, tmp_path):
    report = prepare(official, tmp_path / "out", require_official=True, **gvd_files(tmp_path))
    annotations = read_annotations(tmp_path / "out" / "train.json")
    assert annotations.header["gvd_identical"] is True and report.gvd_identical
    assert annotations.header["classes"] == ["dog", "man", "bench"]  # the dictionary's order decides collisions
    caption = annotations.images[0]["captions"][0]
    # the empty token at position 2 is dropped, so "dog" moves from 5 to 4
    assert caption["tokens"] == ["two", "men", "watch", "a", "dog"] and caption["raw"] == "Two men watch a dog"
    assert caption["phrases"][1] == phrase(4, 5, 4, "dog", None, (50, 50, 60, 60))
    assert report.vocabulary.words == ["two", "men", "watch", "a", "dog", "UNK"]
    assert json.loads((tmp_path / "out" / "lemmas.json").read_text()) == {"men": "man"}
    grounding = json.loads((tmp_path / "out" / "grounding_test.json").read_text())
    assert grounding["annotations"][0]["captions"][0]["tokens"][2] == ""  # the reference stays as published


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process_idx": [1, 2]}, "process_idx 2 is not the position of a word"),
        ({"process_clss": ["man", "cat"]}, "the class 'cat' is not in 'vocab'"),
        ({"process_clss": ["man"]}, "have 2, 1 and 2 entries"),
        ({"process_bnd_box": [[0, 0, 40, 40], [9, 0, 8, 1]]}, "is not x1 <= x2"),
        ({"process_bnd_box": [[0, 0, 40, 40], ["1", "2", "3", "4"]]}, r"process_bnd_box\[1\]\[0\] must be a number"),
        ({"process_idx": [True, 5]}, r"process_idx\[0\] must be a whole number, found True"),
        ({"tokens": "two men watch"}, "tokens must be a list, found 'two men watch'"),
    ],
)
def test_contradictions_in_gvds_file_are_named(official, tmp_path, change, message):
    with pytest.raises(UserError, match=rf"flickr30k_cleaned_class\.json, image 11: .*{message}"):
        prepare(official, tmp_path / "out", **gvd_files(tmp_path, **change))


@pytest.mark.parametrize("size", ["12", ["12", "34"], [1.5, 40], [True, 40], [2**63, 40], [500], 500])
def test_a_size_in_gvds_file_that_is_not_two_whole_numbers_is_refused(official, tmp_path, size):
    files = gvd_files(tmp_path)
    content = json.loads(files["official"].read_text())
    content["annotations"][0]["image_size"] = size
    files["official"].write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"flickr30k_cleaned_class\.json, image 11: .*image_size"):
        prepare(official, tmp_path / "out", **files)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("official", "vocab", ["man", 7, ["dog"]], r"(?s)vocab\[1\] is 7, .*vocab\[2\] is \['dog'\], expected a name"),
        ("official", "vocab", ["man", "dog", "man"], r"the class 'man' is duplicated: vocab\[0\] and vocab\[2\]"),
        ("dictionary", "wtol", {"men": None}, "wtol must give a word for each word, but 'men' has None"),
        ("dictionary", "images", None, "images must be a list, found None"),
        ("dictionary", "images", [7], r"images\[0\] must be an object, found 7"),
        ("dictionary", "wtol", {"men": "\ud800"}, r"not valid JSON: \\ud800 is half of a character"),
    ],
)
def test_names_and_lemmas_of_gvds_files_are_texts(official, tmp_path, name, key, value, message):
    files = gvd_files(tmp_path)
    files[name].write_text(json.dumps({**json.loads(files[name].read_text()), key: value}))
    with pytest.raises(UserError, match=message):
        prepare(official, tmp_path / "out", **files)
    assert not (tmp_path / "out" / "train.json").exists()


def test_an_image_that_is_duplicated_in_gvds_file_is_named(official, tmp_path):
    files = gvd_files(tmp_path)
    content = json.loads(files["official"].read_text())
    content["annotations"] += [content["annotations"][1], {"image_id": 7.5}]
    files["official"].write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"(?s)image 12 is duplicated in annotations\[4\].*annotations\[5\] has no integer"
    ):
        prepare(official, tmp_path / "out", **files)


def test_the_class_of_a_phrase_is_its_last_class_word():
    tokens = ["men", "and", "the", "dog", "bench", "there"]
    assert class_of_phrase(tokens, 0, 6, set(CLASSES), lemma) == ("bench", 4)
    assert class_of_phrase(tokens, 0, 4, set(CLASSES), lemma) == ("dog", 3)
    assert class_of_phrase(tokens, 0, 1, set(CLASSES), lemma) == ("man", 0)
    assert class_of_phrase(tokens, 1, 3, set(CLASSES), lemma) == (None, None)
    assert union_box([[5, 6, 7, 8], [1, 7, 6, 9]]) == [1, 6, 7, 9]


def test_the_shipped_classes_are_the_480_in_the_order_of_the_source():
    names = read_classes()
    # positions that the grounding metric's collisions depend on
    assert len(names) == 480 and names[0] == "railing"
    assert [names.index(name) for name in ("paper", "papers", "outfits", "outfit")] == [75, 386, 364, 437]


def test_split_ids_come_from_json_or_from_lists(tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps({"train": ["1", 2], "val": ["3"], "test": []}))
    assert read_splits(tmp_path / "ids.json") == {"train": [1, 2], "val": [3], "test": []}
    for split, ids in (("train", "1\n2\n"), ("val", "3\n"), ("test", "4\n")):
        (tmp_path / f"{split}.txt").write_text(ids)
    assert read_splits(tmp_path) == {"train": [1, 2], "val": [3], "test": [4]}
    (tmp_path / "val.txt").write_text("3\nx7\n2\n")
    with pytest.raises(UserError, match="(?s)2 problems.*'x7' is not an integer.*image 2 is in train and in val"):
        read_splits(tmp_path)
    (tmp_path / "val.txt").unlink()
    with pytest.raises(UserError, match=r"val\.txt does not exist"):
        read_splits(tmp_path)


def test_only_overlaps_that_matter_are_warned_about():
    ours = {"train": [1, 2, 3], "val": [4], "test": [5, 6]}
    assert overlap_warnings(ours, ours, "X") == []
    (warning,) = overlap_warnings(ours, {"train": [4, 5, 2], "val": [], "test": []}, "X")[:1]
    assert warning.startswith("1 images of this test split are in the train split of X")
    assert len(overlap_warnings(ours, {"train": [], "val": [5], "test": [6]}, "X")) == 0


@pytest.mark.skipif(
    not (shared_data() / "flickr30k" / "captions.json.gz").is_file(),
    reason=f"no real captions in {shared_data()}; set SSATTN_TEST_DATA",
)
def test_real_captions_go_through_the_official_layout(tmp_path):
    captions = dict(list(real_captions().items())[::200])
    splits = write_entities(tmp_path / "entities", captions, set(read_classes()))
    splits = {split: ids for split, ids in splits.items() if ids}
    report = prepare(tmp_path / "entities", tmp_path / "out", splits, classes=None, lemma=lambda word: word.rstrip("s"))
    assert report.total("images") == len(captions) and report.total("captions") == 5 * len(captions)
    annotations = read_annotations(tmp_path / "out" / "train.json")
    phrases = [p for image in annotations.images for caption in image["captions"] for p in caption["phrases"]]
    assert len(phrases) > 1000 and np.mean([phrase["class"] is not None for phrase in phrases]) > 0.9
