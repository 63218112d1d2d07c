"""``xmodaler export``: each format is read back by the tool it is for, or by a reader with that tool's rules.

The results are those of ``made_up``: pictures of 400 x 300 with a dog at 50, 60, 150, 160 and a car at 220, 100, 340,
200; "a dog near a car" rests on both boxes with weight 0.5.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from report import made_up
from xmodaler_ssattn.caption import GroundedCaption, GroundedWord
from xmodaler_ssattn.cli.main import parse
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.results import ImageResult, Results, write_results
from xmodaler_ssattn.exports.export import no_boxes
from xmodaler_ssattn.exports.formats import all_formats
from xmodaler_ssattn.exports.grounded import object_words


def export(*words):
    args = parse(["export", *map(str, words)])
    return args.run(args)


def grounded(text, *, box=made_up.DOG, weight=0.5, size=(400, 300)):
    return GroundedCaption([GroundedWord(w, 0, box, weight) for w in text.split()], image_size=size)


def write(path, captions, object_words=made_up.OBJECT_WORDS, **header):
    images = tuple(ImageResult(image_id, caption) for image_id, caption in captions.items())
    write_results(path, Results(images, object_words, {"split": "test", **header}))
    return path


@pytest.fixture
def world(tmp_path):
    """Image 1 with a greedy caption of its own, image 2 with an empty caption, image 3 without object words."""
    captions = {
        1: made_up.caption(made_up.DOG_WRONG).with_companions(greedy=made_up.caption(made_up.RIGHT)),
        2: grounded("").with_companions(greedy=grounded("")),
        3: grounded("na\xefve \u72ac").with_companions(greedy=grounded("na\xefve \u72ac")),
    }
    for image_id in captions:
        made_up.draw_picture(tmp_path / "Images" / f"{image_id}.png")
    made_up.write_annotations(tmp_path / "annotations", [made_up.annotated(i) for i in captions])
    write(tmp_path / "results.json", captions)
    return tmp_path


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        yield


def test_help_names_every_format_with_a_sentence(capsys):
    with pytest.raises(SystemExit):
        parse(["export", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert set(all_formats()) == {"coco", "coco-boxes", "fiftyone", "gvd", "odvg"}
    for name, writer in all_formats().items():
        assert f"{name} {writer.summary}" in shown
        with pytest.raises(SystemExit):
            parse(["export", name, "--help"])
        assert " ".join(writer.description.split()) in " ".join(capsys.readouterr().out.split())


# --- COCO -----------------------------------------------------------------------------------------------------------


def test_pycocotools_loads_the_captions(world, capsys):
    references = [{"id": i, "image_id": i, "caption": "a dog"} for i in (1, 2, 3)]
    (world / "refs.json").write_text(json.dumps({"images": [{"id": i} for i in (1, 2, 3)], "annotations": references}))
    export("coco", world / "results.json", "--out", world / "coco.json")
    assert capsys.readouterr().err == f"3 captions written to {world / 'coco.json'}\n"
    with quiet():
        loaded = COCO(str(world / "refs.json")).loadRes(str(world / "coco.json"))
    found = {image: [caption["caption"] for caption in loaded.imgToAnns[image]] for image in (1, 2, 3)}
    assert found == {1: ["a dog near a car"], 2: [""], 3: ["na\xefve \u72ac"]}
    export("coco", world / "results.json")
    assert json.loads(capsys.readouterr().out) == json.loads((world / "coco.json").read_text(encoding="utf-8"))


def test_captions_without_boxes_are_enough_for_coco_and_missing_greedy_ones_are_listed(tmp_path, capsys):
    path = write(tmp_path / "r.json", {1: "a dog", 2: "a cat"})
    export("coco", path)
    assert json.loads(capsys.readouterr().out)[1] == {"image_id": 2, "caption": "a cat"}
    with pytest.raises(UserError, match=r"(?s)1\. image 1: it has no greedy caption.*2\. image 2"):
        export("coco", path, "--greedy")
    with pytest.raises(UserError, match="they contain no image"):
        export("coco", write(tmp_path / "none.json", {}))


def test_pycocotools_scores_the_boxes(world, capsys):
    """Greedy: dog and car are each on their box, so both AP are 1. Main: both words are on the car, so dog has AP 0."""
    for more, precision in (["--greedy"], [1.0, 1.0]), ([], [0.0, 1.0]):
        out = world / f"boxes{len(more)}"
        export("coco-boxes", world / "results.json", "--out", out, "--annotations", world / "annotations", *more)
        with quiet():
            truth = COCO(str(out / "dataset.json"))
            found = truth.loadRes(str(out / "detections.json"))
            score = COCOeval(truth, found, "bbox")
            score.params.imgIds = [1]  # the others have no caption that names anything
            score.evaluate()
            score.accumulate()
        assert [truth.cats[i]["name"] for i in score.params.catIds] == ["dog", "car"]  # the order of the annotations
        at_half = score.eval["precision"][0, :, :, 0, 2].mean(axis=0)  # IoU 0.5, all recalls, class, all sizes
        assert at_half.tolist() == pytest.approx(precision)
    detection = json.loads((world / "boxes1" / "detections.json").read_text())[0]
    # DOG is 50, 60, 150, 160 in xyxy
    assert detection == {"image_id": 1, "category_id": 1, "bbox": [50, 60, 100, 100], "score": 0.5, "word": "dog"}
    assert truth.imgs[1] == {"id": 1, "file_name": "1.jpg", "width": 400, "height": 300}
    with pytest.raises(UserError, match="boxes0 exists already"):
        export("coco-boxes", world / "results.json", "--out", world / "boxes0")


def test_without_annotations_the_categories_are_the_classes_of_the_results(world):
    export("coco-boxes", world / "results.json", "--out", world / "b", "--images", world / "Images")
    dataset = json.loads((world / "b" / "dataset.json").read_text())
    assert dataset["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}]
    assert dataset["annotations"] == [] and dataset["images"][0]["file_name"] == "1.png"


def test_results_that_name_no_object_are_refused(tmp_path):
    path = write(tmp_path / "r.json", {1: made_up.caption()}, object_words={})
    for form in ("coco-boxes", "odvg"):
        with pytest.raises(UserError, match=r"no caption names an object.*grounding_\{val,test\}\.json"):
            export(form, path, "--out", tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["r.json"]


def test_all_captions_without_boxes_are_listed(tmp_path):
    path = write(tmp_path / "r.json", {1: "a dog", 2: made_up.caption(), 3: "a car"})
    with pytest.raises(UserError, match=r"(?s)2 problems:\n  1\. image 1: its caption has no boxes.*image 3"):
        export("coco-boxes", path, "--out", tmp_path / "out")


# --- ODVG -----------------------------------------------------------------------------------------------------------


def read_odvg(path, pictures):
    """The rules of both readers: every key is there, the picture exists, regions exist, boxes are inside the picture
    and not degenerate, and the characters of ``tokens_positive`` are the phrase."""
    samples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        meta = json.loads(line)
        with Image.open(pictures / meta["filename"]) as picture:
            assert picture.size == (meta["width"], meta["height"])
        grounding = meta["grounding"]
        assert grounding["regions"]
        # MMDetection reads the caption in lower case and without surrounding spaces.
        text = grounding["caption"].lower().strip()
        for region in grounding["regions"]:
            x1, y1, x2, y2 = region["bbox"]
            assert 0 <= x1 < x2 <= meta["width"] and 0 <= y1 < y2 <= meta["height"] and min(x2 - x1, y2 - y1) >= 1
            ((start, end),) = region["tokens_positive"]
            assert text[start:end] == region["phrase"]
        samples.append(meta)
    return samples


def test_odvg_is_read_by_its_rules(world, capsys):
    export("odvg", world / "results.json", "--out", world / "o.jsonl", "--images", world / "Images", "--greedy")
    assert "2 boxes of 1 images written" in capsys.readouterr().err
    (sample,) = read_odvg(world / "o.jsonl", world / "Images")
    # "a dog near a car": dog is at 2 to 5, car at 13 to 16
    assert sample["grounding"] == {
        "caption": "a dog near a car",
        "regions": [
            {"bbox": [50, 60, 150, 160], "phrase": "dog", "tokens_positive": [[2, 5]]},
            {"bbox": [220, 100, 340, 200], "phrase": "car", "tokens_positive": [[13, 16]]},
        ],
    }


def test_odvg_keeps_repeated_words_apart_and_leaves_out_weak_ones(world):
    looks = ("na\xefve", made_up.DOG, 0.9), ("dog", made_up.DOG, 0.7), ("dog", made_up.CAR, 0.3)
    words = [GroundedWord(text, 0, box, weight) for text, box, weight in looks]
    path = write(world / "r.json", {1: GroundedCaption(words, image_size=(400, 300))})
    export("odvg", path, "--out", world / "o.jsonl", "--images", world / "Images")
    (sample,) = read_odvg(world / "o.jsonl", world / "Images")
    # "na\xefve dog dog"
    assert [r["tokens_positive"] for r in sample["grounding"]["regions"]] == [[[6, 9]], [[10, 13]]]
    export("odvg", path, "--out", world / "o.jsonl", "--images", world / "Images", "--min-weight", 0.7)
    assert len(read_odvg(world / "o.jsonl", world / "Images")[0]["grounding"]["regions"]) == 1
    with pytest.raises(UserError, match="no object word has an attention of 0.8"):
        export("odvg", path, "--out", world / "o.jsonl", "--min-weight", 0.8)
    with pytest.raises(UserError, match="--min-weight: expected a number >= 0, got nan"):
        export("odvg", path, "--out", world / "o.jsonl", "--min-weight", "nan")


# --- FiftyOne -------------------------------------------------------------------------------------------------------

READ_BACK = """
import sys, mongomock, mongomock.store, mongoengine, pymongo
store, connect = mongomock.store.ServerStore(), mongoengine.connect
class Client(mongomock.MongoClient):
    _closed = False
    def __init__(self, *args, appname=None, **more):
        super().__init__(*args, _store=store, **more)
pymongo.MongoClient = Client
mongoengine.connect = lambda *args, **more: connect(*args, mongo_client_class=Client, **more)
import fiftyone, json
data = fiftyone.Dataset.from_dir(sys.argv[1], dataset_type=fiftyone.types.FiftyOneDataset)
right = data.evaluate_detections("greedy_words", gt_field="ground_truth", iou=0.5).metrics()["precision"]
first = data.first()
print("FOUND", json.dumps([len(data), first.caption, first.greedy_words.detections[0].label, first.references[0],
                           first.greedy_words.detections[0].bounding_box, first.filepath, right]))
"""


@pytest.fixture
def fiftyone_folder(world):
    export(
        "fiftyone", world / "results.json", "--out", world / "fo", "--images", world / "Images",
        "--annotations", world / "annotations",
    )  # fmt: skip
    return world / "fo"


def test_the_fiftyone_folder_has_the_layout_of_its_importer(fiftyone_folder):
    metadata = json.loads((fiftyone_folder / "metadata.json").read_text())
    assert "version" not in metadata and metadata["media_type"] == "image"  # how the importer recognises the layout
    samples = json.loads((fiftyone_folder / "samples.json").read_text(encoding="utf-8"))["samples"]
    assert [sample["filepath"] for sample in samples] == ["data/1.png", "data/2.png", "data/3.png"]
    assert all((fiftyone_folder / sample["filepath"]).is_file() for sample in samples)
    first, empty, _ = samples
    dog, car = first["greedy_words"]["detections"]
    # DOG is 50, 60, 150, 160 of 400 x 300: left 50 / 400, top 60 / 300, width 100 / 400, height 100 / 300
    assert dog == {
        "_cls": "Detection", "label": "dog", "bounding_box": [0.125, 0.2, 0.25, 0.333333],
        "confidence": 0.5, "word": "dog",
    }  # fmt: skip
    assert [d["label"] for d in first["words"]["detections"]] == ["dog", "car"] and car["label"] == "car"
    assert [d["label"] for d in first["ground_truth"]["detections"]] == ["dog", "car"]
    assert first["references"][0] == "A dog near a car ." and first["tags"] == ["test"]
    assert empty["caption"] == "" and empty["words"]["detections"] == []


@pytest.mark.skipif(
    find_spec("fiftyone") is None or find_spec("mongomock") is None,
    reason="FiftyOne is not installed: pip install fiftyone mongomock",
)
def test_fiftyone_itself_reads_the_folder(fiftyone_folder):
    """With a database in memory; FiftyOne's own starts a program that its package downloads."""
    settings = {"MONGODB": "7.0.0", "FIFTYONE_DATABASE_URI": "mongodb://localhost", "FIFTYONE_DO_NOT_TRACK": "true",
                "FIFTYONE_DATABASE_ADMIN": "false", "FIFTYONE_DATABASE_VALIDATION": "false"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", READ_BACK, fiftyone_folder], env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))[6:])
    assert found[:4] == [3, "a dog near a car", "dog", "A dog near a car ."]
    assert found[4] == [0.125, 0.2, 0.25, 0.333333] and found[5] == str(fiftyone_folder / "data" / "1.png")
    assert found[6] == 1.0  # its own evaluation: both boxes of image 1 are right, the other captions name nothing


# --- sizes, names and boxes -----------------------------------------------------------------------------------------


def test_missing_and_other_pictures_are_all_listed(world):
    (world / "Images" / "1.png").unlink()
    Image.new("RGB", (300, 400)).save(world / "Images" / "2.png")
    (world / "Images" / "3.png").write_bytes(b"not a picture")
    with pytest.raises(UserError) as caught:
        export("fiftyone", world / "results.json", "--out", world / "fo", "--images", world / "Images")
    first, second, third = str(caught.value).splitlines()[1:]
    assert "image 1: no picture in" in first
    assert "has 300 x 400 pixels, its boxes are for 400 x 300" in second
    assert "3.png cannot be opened as a picture" in third
    assert not (world / "fo").exists()


@pytest.mark.parametrize("photographs", [False, True])
def test_pictures_may_be_in_an_archive(world, photographs):
    captions = {1: grounded("a dog"), 2: grounded("a dog")}
    names = {1: "sea/holiday 1.png", 2: "sea/x2.png"} if photographs else {1: "sea/1.png", 2: "sea/image_002.png"}
    path = write(
        world / "r.json", captions, **({"pictures": {"1": "holiday 1.png", "2": "x2.png"}} if photographs else {})
    )
    with zipfile.ZipFile(world / "all.zip", "w") as archive:
        for image_id, name in names.items():
            archive.write(world / "Images" / f"{image_id}.png", name)
    export("fiftyone", path, "--out", world / "fo", "--images", world / "all.zip")
    stored = {file.name for file in (world / "fo" / "data").iterdir()}
    assert stored == ({"holiday 1.png", "x2.png"} if photographs else {"1.png", "2.png"})
    with zipfile.ZipFile(world / "all.zip", "w") as archive:
        archive.write(world / "Images" / "3.png", "sea/3.png")
    with pytest.raises(UserError, match=r"image 1: no picture.* in \S*/all.zip\.(?s:.*)image 2: no picture") as caught:
        export("odvg", path, "--out", world / "o.jsonl", "--images", world / "all.zip")
    assert str(world / "all.zip") in str(caught.value)


def test_a_size_comes_from_the_annotations_or_the_picture_when_the_results_lack_it(world):
    path = write(world / "r.json", {1: grounded("a dog", size=None)})
    with pytest.raises(UserError, match="image 1: its size is unknown; give --annotations or --images"):
        export("odvg", path, "--out", world / "o.jsonl")
    for more in (["--annotations", world / "annotations"], ["--images", world / "Images"]):
        export("odvg", path, "--out", world / "o.jsonl", *more)
        assert json.loads((world / "o.jsonl").read_text())["width"] == 400
    with pytest.raises(UserError, match=r"--annotations .*No annotations of split val: .*val\.json does not exist"):
        export("odvg", write(path, {1: grounded("a dog")}, split="val"), "--out", world / "o.jsonl",
               "--annotations", world / "annotations")  # fmt: skip


def test_a_picture_on_its_side_is_upright_and_named_in_a_warning(world, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (300, 400)).save(world / "Images" / "1.png", exif=exif)
    path = write(world / "r.json", {1: grounded("a dog")})
    export("odvg", path, "--out", world / "o.jsonl", "--images", world / "Images")
    assert "warning" in (err := capsys.readouterr().err) and "1 pictures are stored on their side (EXIF)" in err
    assert json.loads((world / "o.jsonl").read_text())["width"] == 400


def test_photographs_keep_their_names_and_never_lead_out_of_the_folder(world):
    captions = {1: grounded("a dog"), 2: grounded("a dog")}
    (world / "Images" / "holiday 1.png").write_bytes((world / "Images" / "1.png").read_bytes())
    names = {"1": "/home/me/holiday 1.png", "2": "../../Images/2.png"}
    path = write(world / "r.json", captions, pictures=names)
    export("odvg", path, "--out", world / "o.jsonl", "--images", world / "Images")
    found = [sample["filename"] for sample in read_odvg(world / "o.jsonl", world / "Images")]
    assert found == ["holiday 1.png", "2.png"]
    write(path, captions, pictures={"1": "a/x.png", "2": "b/x.png"})
    with pytest.raises(UserError, match="several photographs named 'x.png'"):
        export("fiftyone", path, "--out", world / "fo", "--images", world / "Images")


def test_boxes_are_cut_at_the_edges_and_those_outside_are_counted(tmp_path, capsys):
    # 4 wide, 3 high: the first box keeps 0, 1, 4, 3; the second has no pixel inside, the third only half of one
    boxes = [(-2, 1, 9, 7), (4, 0, 9, 3), (3.5, 0, 9, 3)]
    words = [GroundedWord("dog", 0, box, 0.5) for box in boxes]
    caption = GroundedCaption(words, image_size=(4, 3))
    found, outside = object_words(caption, {"dog": "dog"}, 4, 3)
    assert [word.box_px for word in found] == [(0, 1, 4, 3)] and outside == 2
    assert no_boxes(2).startswith("the boxes of all 2 object words are outside")
    assert no_boxes(0).startswith("no caption names an object")
    export("odvg", write(tmp_path / "r.json", {1: caption}), "--out", tmp_path / "o.jsonl")
    assert "warning" in (err := capsys.readouterr().err) and "2 object words were left out" in err
