"""The examples run as a reader would run them."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xmodaler_ssattn.evaluation.metrics import what_can_run

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
UPSTREAM = pytest.mark.skipif(not os.environ.get("XMODALER_HOME"), reason="XMODALER_HOME does not point to a clone")


@pytest.mark.parametrize("host", ["embedded", pytest.param("upstream", marks=UPSTREAM)])
def test_another_project_trains_our_model_on_its_own_data_set(tmp_path, host):
    """The colour of a bird is in its features only: the captions have the right one, with the box of a region."""
    place = tmp_path / "project"
    shutil.copytree(EXAMPLES / "other_project", place)
    runpy.run_path(str(place / "make_data.py"))["make"](place / "birds")
    environ = {**os.environ, "XMODALER_SSATTN_HOST": host, "OMP_NUM_THREADS": "1"}
    # Stand-ins for torchvision and pytorch_transformers come last: the real ones win.
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "standins")])
    command = [sys.executable, "train.py", "--config-file", "birds.yaml"]
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    captions = {int(line.split()[1][:-1]): line.split(": ")[1] for line in lines if line.startswith("image ")}
    assert list(captions) == list(range(33, 41))
    colours = ("red", "blue", "green")
    assert sum(f"{colours[image % 3]} bird" in caption for image, caption in captions.items()) >= 7
    assert sum(line.startswith("  bird ") and len(line.split()) == 5 for line in lines) >= 8  # x1 y1 x2 y2
    values = [json.loads(line) for line in (place / "output/birds/metrics.json").read_text().splitlines()]
    assert any("val/CIDEr" in value for value in values) and any("Grounding Loss" in value for value in values)


def test_the_class_of_the_other_project_stays_short():
    text = (EXAMPLES / "other_project" / "birds_dataset.py").read_text(encoding="utf-8")
    body = text[text.index("@DATASETS_REGISTRY") :].splitlines()
    assert len([line for line in body if line.strip()]) <= 30


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A function: entries -> run the example on them, with a reference of two images."""
    man, dog, other = [0, 0, 100, 100], [200, 0, 300, 100], [0, 0, 50, 50]
    references = {1: ("a man with a dog", {1: ("man", man), 4: ("dog", dog)}), 2: ("a dog runs", {1: ("dog", other)})}
    annotations, coco = [], []
    for image, (text, words) in references.items():
        caption = {"tokens": text.split(), "process_idx": list(words)}
        caption |= {"process_clss": [name for name, _ in words.values()]}
        caption |= {"process_bnd_box": [box for _, box in words.values()]}
        annotations.append({"image_id": image, "image_size": [400, 300], "captions": [caption]})
        coco.append({"id": image, "image_id": image, "caption": text})
    reference = {"vocab": ["man", "dog", "cat"], "annotations": annotations}
    (tmp_path / "grounding_test.json").write_text(json.dumps(reference))
    images = [{"id": image} for image in references]
    (tmp_path / "captions_test.json").write_text(json.dumps({"images": images, "annotations": coco}))

    def run(entries):
        (tmp_path / "mine.json").write_text(json.dumps(entries))
        words = [str(tmp_path / "mine.json"), str(tmp_path), "--metrics", "Bleu"]
        monkeypatch.setattr(sys, "argv", ["score_other_models.py", *words])
        runpy.run_path(str(EXAMPLES / "score_other_models.py"), run_name="__main__")

    return run


def test_captions_with_boxes_of_any_model_are_scored(scored, capsys):
    if what_can_run(["BLEU"])["Bleu"]:
        pytest.skip("no Java for the tokeniser")
    right, wrong = [0, 0, 100, 100], [300, 200, 310, 210]
    # "with" names no object: its box is not judged.
    first = {"image_id": 1, "caption": "A man with a dog", "boxes": [None, right, wrong, None, wrong]}
    second = {"image_id": 2, "caption": "a dog sits", "boxes": [None, [0, 0, 50, 50], None]}
    scored([first, second])
    values = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    # Words: 5 of 5 and 2 of 3, lengths as the references. Boxes: man 1 of 1, dog 1 of 2; (1 + 1/2) / 2 = 3/4.
    assert values["Bleu_1"] == "87.50" and values["F1_all"] == values["F1_loc"] == "75.00"


def test_a_caption_with_another_number_of_boxes_is_named(scored):
    with pytest.raises(SystemExit, match="image 1: 2 words and 1 boxes"):
        scored([{"image_id": 1, "caption": "a man", "boxes": [None]}])
