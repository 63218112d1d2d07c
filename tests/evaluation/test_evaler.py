"""The registered evaluator, as the stock trainer calls it, on whichever host runs."""

import json
import logging
import math
import os
import sys

import numpy as np
import pytest

import xmodaler_ssattn.evaluation.evaler as evaler_module
from xmodaler_ssattn.caption import GroundedCaption, GroundedWord
from xmodaler_ssattn.config import add_ssattn_config
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.evaler import Flickr30kEntitiesEvaler, split_of
from xmodaler_ssattn.evaluation.metrics import what_can_run
from xmodaler_ssattn.evaluation.results import read_results
from xmodaler_ssattn.evaluation.scoring import Scores
from xmodaler_ssattn.host import EVALUATION_REGISTRY, build_evaluation, get_cfg

BOXES = np.array([[0, 0, 9, 9], [50, 50, 89, 89]], dtype=np.float32)
TEXTS = {1: ["a man with a dog", "the man"], 2: ["a dog runs", "two dogs"]}
# Image 1: man at region 0 in both captions, dog at region 1 in the first. Image 2: nothing annotated.
ANNOTATED = {1: [{1: ("man", 0), 4: ("dog", 1)}, {1: ("man", 0)}], 2: [{}, {}]}


@pytest.fixture(autouse=True)
def with_java():
    reason = what_can_run(["Bleu"])["Bleu"]
    if reason:
        pytest.skip(reason)
    evaler_module._said.clear()


def grounding_reference():
    images = []
    for image, texts in TEXTS.items():
        captions = []
        for text, entries in zip(texts, ANNOTATED[image]):
            captions.append(
                {
                    "tokens": text.split(),
                    "process_idx": list(entries),
                    "process_clss": [name for name, _ in entries.values()],
                    "process_bnd_box": [BOXES[region].tolist() for _, region in entries.values()],
                }
            )
        images.append({"image_id": image, "image_size": [99, 99], "captions": captions})
    return {"vocab": ["man", "dog"], "annotations": images}


@pytest.fixture
def cfg(tmp_path):
    cfg = get_cfg()
    add_ssattn_config(cfg)
    for split in ("val", "test"):
        data = {
            "images": [{"id": image} for image in TEXTS],
            "annotations": [{"image_id": i, "caption": text} for i, texts in TEXTS.items() for text in texts],
        }
        (tmp_path / f"captions_{split}.json").write_text(json.dumps(data), encoding="utf-8")
        (tmp_path / f"grounding_{split}.json").write_text(json.dumps(grounding_reference()), encoding="utf-8")
    (tmp_path / "vocabulary.txt").write_text("a\nman\ndog\ndogs\nwith\nUNK\n", encoding="utf-8")
    cfg.INFERENCE.NAME = "Flickr30kEntitiesEvaler"
    cfg.INFERENCE.VAL_ANNFILE = str(tmp_path / "captions_val.json")
    cfg.INFERENCE.TEST_ANNFILE = str(tmp_path / "captions_test.json")
    cfg.INFERENCE.VOCAB = str(tmp_path / "vocabulary.txt")
    cfg.INFERENCE.FINAL_METRICS = []
    cfg.DATALOADER.ANNO_FOLDER = str(tmp_path)
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.SOLVER.EPOCH = 5
    return cfg


def grounded(text, regions, **more):
    words = [GroundedWord(w, r, tuple(map(float, BOXES[r])), 1.0) for w, r in zip(text.split(), regions)]
    return GroundedCaption(words, boxes_px=BOXES, image_size=(99.0, 99.0), **more)


def results(one="a man with a dog", one_regions=(0, 0, 1, 1, 1), references=False):
    captions = {
        1: grounded(one, one_regions),
        2: grounded("a dog", [0, 1]),
    }
    output = []
    for image, greedy in captions.items():
        forced = ()
        if references:
            # Every word looks at region 0: man right, dog wrong.
            forced = tuple(grounded(text, [0] * len(text.split())) for text in TEXTS[image])
        beam = grounded("a man", [0, 1]).with_companions(greedy=greedy, references=forced)
        output.append({"image_id": image, "caption": beam})
    return output


def test_the_class_is_registered_and_built_by_the_host(cfg):
    assert EVALUATION_REGISTRY.get("Flickr30kEntitiesEvaler") is Flickr30kEntitiesEvaler
    evaluator = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    assert isinstance(evaluator, Flickr30kEntitiesEvaler) and evaluator.split == "val"


def test_val_and_test_are_told_apart_by_their_file_else_by_the_folder(cfg):
    assert split_of(cfg, cfg.INFERENCE.VAL_ANNFILE, cfg.OUTPUT_DIR) == "val"
    assert split_of(cfg, cfg.INFERENCE.TEST_ANNFILE, None) == "test"
    cfg.INFERENCE.TEST_ANNFILE = cfg.INFERENCE.VAL_ANNFILE
    assert split_of(cfg, cfg.INFERENCE.VAL_ANNFILE, None) == "val"
    assert split_of(cfg, cfg.INFERENCE.VAL_ANNFILE, cfg.OUTPUT_DIR) == "test"


def test_scores_carry_their_split_and_are_plain_floats(cfg):
    scores = build_evaluation(cfg, cfg.INFERENCE.TEST_ANNFILE, cfg.OUTPUT_DIR).eval(results(), 1)
    assert all(key.startswith("test/") and type(value) is float for key, value in scores.items())
    expected = ("CIDEr", "Bleu_4", "ROUGE_L", "greedy_CIDEr", "F1_all", "F1_loc")
    assert {f"test/{name}" for name in expected} <= set(scores)
    assert "test/METEOR" not in scores and "test/attention_accuracy" not in scores


def test_grounding_is_scored_on_the_greedy_captions_boxes(cfg):
    scores = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(results(references=True), 1)
    # V = {man, dog}. Greedy captions: image 1 "man" at region 0, "dog" at region 1; image 2 "dog".
    # Precision: man 2 of 2 (both captions of image 1). dog: caption 1 a hit, caption 2 a hallucination; in image 2 both
    # captions name a dog without annotation (skipped): 1/2. Mean 3/4; in "loc" dog is 1 of 1: mean 1. Recall: 1.
    assert scores["val/precision_all"] == pytest.approx(0.75) and scores["val/recall_all"] == 1.0
    assert scores["val/F1_all"] == pytest.approx(2 * 0.75 / 1.75) and scores["val/F1_loc"] == 1.0
    # Forced captions look at region 0 always: man 2 of 2, dog 0 of 1.
    assert scores["val/attention_accuracy"] == pytest.approx(0.5)
    assert scores["val/reachable"] == 1.0
    # The beam caption's boxes (man at region 1) would have given 0.
    assert scores["val/lemma_fallback"] == 1.0


def test_a_lemma_table_beside_the_annotations_is_used(cfg, tmp_path):
    words = {word for texts in TEXTS.values() for text in texts for word in text.split()}
    table = {word: {"dogs": "dog"}.get(word, word) for word in words}
    (tmp_path / "lemmas.json").write_text(json.dumps(table), encoding="utf-8")
    scores = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(results(), 1)
    assert scores["val/lemma_fallback"] == 0.0


def test_what_makes_a_score_doubtful_is_logged_beside_it(cfg, caplog):
    with caplog.at_level(logging.WARNING):
        build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(results(), 1)
    assert caplog.messages == ["val: all 2 captions are the same: 'a man'."]  # those of beam search
    silent = [{"image_id": image, "caption": grounded("a a", [0, 0])} for image in TEXTS]
    with caplog.at_level(logging.WARNING):
        scores = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(silent, 1)
    assert scores["val/F1_all"] == 0.0
    assert "val: no sentence names an object" in caplog.text and "val: all 2 captions are the same" in caplog.text


def test_nothing_grounded_gives_zero_and_not_nan(cfg):
    scores = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(results("with with", (0, 0)), 1)
    assert scores["val/F1_all"] == 0.0 and not any(math.isnan(value) for value in scores.values())


def test_the_results_file_holds_captions_scores_and_config(cfg, tmp_path):
    evaluator = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    scores = evaluator.eval(results(references=True), 3)
    stored = read_results(tmp_path / "out" / "results" / "val_epoch_3.json")
    assert stored.header["split"] == "val" and stored.header["epoch"] == 3 and stored.header["ground_by"] == "gamma"
    assert {f"val/{key}": value for key, value in stored.header["scores"].items()} == scores
    assert len(stored.header["config_sha256"]) == len(stored.header["loss_sha256"]) == 64
    assert "SS_ATTENTION" in stored.header["config"]
    assert stored.object_words == {"man": "man", "dog": "dog"}
    assert str(stored.images[0].caption.greedy) == "a man with a dog"
    boxes = [BOXES[0].tolist()] * 2
    assert stored.images[0].forced[0] == {"clss": ["man", "dog"], "idx_in_sent": [1, 4], "bbox": boxes}
    evaluator.eval(results(), -1)
    assert (tmp_path / "out" / "results" / "val_eval.json").is_file()


def test_a_repeated_epoch_is_not_scored_again_unless_captions_changed(cfg, monkeypatch):
    evaluator = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    calls = []
    original = evaluator._captions.score_many
    monkeypatch.setattr(evaluator._captions, "score_many", lambda *a: calls.append(1) or original(*a))
    first = evaluator.eval(results(), 5)
    assert evaluator.eval(results(), 5) == first and len(calls) == 1
    assert evaluator.eval(results("a man"), 5) != first and len(calls) == 2
    evaluator.eval(results("a man"), 4)
    assert len(calls) == 3


def test_final_metrics_come_with_the_last_epoch_and_without_training(cfg, monkeypatch):
    cfg.INFERENCE.FINAL_METRICS = ["METEOR"]
    cfg.SOLVER.EPOCH = 100  # a long run: METEOR is not started at once
    evaluator = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    asked = []

    def score_many(sets, metrics):
        asked.append("METEOR" in metrics)
        return {key: Scores({}) for key in sets}

    monkeypatch.setattr(evaluator._captions, "score_many", score_many)
    for epoch in (1, 99, 100, -1):
        evaluator.eval(results(), epoch)
    assert asked == [False, False, True, True]


def test_a_metric_can_be_requested_on_only_one_split(cfg):
    cfg.INFERENCE.METRICS = ["val/ROUGE_L", "test/F1", "Bleu"]
    val = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(results(), 1)
    test = build_evaluation(cfg, cfg.INFERENCE.TEST_ANNFILE, None).eval(results(), 1)
    assert "val/ROUGE_L" in val and "val/F1_all" not in val and "val/Bleu_4" in val
    assert "test/ROUGE_L" not in test and "test/F1_all" in test and "test/Bleu_4" in test


def test_meteor_starts_early_in_a_short_run_alone(cfg, monkeypatch):
    started = []
    monkeypatch.setattr("xmodaler_ssattn.evaluation.metrics.meteor.Meteor.start", lambda self: started.append(1))
    cfg.INFERENCE.FINAL_METRICS = ["METEOR"]
    cfg.SOLVER.EPOCH = 100
    build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    assert started == []
    cfg.SOLVER.EPOCH = 5
    build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    assert started == [1]


def test_what_cannot_run_is_said_once_before_training(cfg, caplog, monkeypatch):
    def reasons(names):
        return {name: "there is no Java" if name == "CIDEr" else None for name in names}

    monkeypatch.setattr(evaler_module, "what_can_run", reasons)
    with caplog.at_level(logging.WARNING, logger=evaler_module.__name__):
        for annfile in (cfg.INFERENCE.VAL_ANNFILE, cfg.INFERENCE.TEST_ANNFILE):
            scores = build_evaluation(cfg, annfile, None).eval(results(), 1)
    assert "test/Bleu_4" in scores and "test/CIDEr" not in scores
    assert [r.message for r in caplog.records if "CIDEr" in r.message] == ["CIDEr will be left out: there is no Java."]


def test_plain_captions_and_a_missing_reference_leave_grounding_out_with_one_line(cfg, tmp_path, caplog):
    plain = [{"image_id": image, "caption": "a dog"} for image in TEXTS]
    with caplog.at_level(logging.WARNING, logger=evaler_module.__name__):
        evaluator = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
        scores = evaluator.eval(plain, 1)
        evaluator.eval(plain, 2)
        (tmp_path / "grounding_test.json").unlink()
        build_evaluation(cfg, cfg.INFERENCE.TEST_ANNFILE, None).eval(results(), 1)
    assert set(scores) == {f"val/{name}" for name in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr")}
    assert [record.message.split(":")[0] for record in caplog.records if "No grounding" in record.message] == [
        "No grounding scores for val", "No grounding scores for test",
    ]  # fmt: skip


def test_captions_missing_for_some_images_are_named(cfg, caplog):
    with caplog.at_level(logging.WARNING, logger=evaler_module.__name__):
        build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(results()[:1], 1)
    assert "val: 1 of 2 images have no caption and are not scored: 2" in caplog.text


def test_captions_of_unknown_images_and_no_captions_are_errors(cfg):
    evaluator = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    with pytest.raises(UserError, match="have no references: 9"):
        evaluator.eval([{"image_id": 9, "caption": "a dog"}], 1)
    with pytest.raises(UserError, match="there are none to score"):
        evaluator.eval([], 1)


def test_forced_captions_of_other_annotations_are_an_error(cfg):
    output = results(references=True)
    other = tuple(grounded(text, [0] * len(text.split())) for text in reversed(TEXTS[1]))
    output[0]["caption"] = output[0]["caption"].with_companions(references=other)
    evaluator = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    with pytest.raises(UserError, match="image 1: the forced caption 'the man' is not the reference's"):
        evaluator.eval(output, 1)


def test_forced_positions_step_over_empty_tokens_and_a_cut_caption_misses(cfg, tmp_path):
    reference = grounding_reference()
    first = reference["annotations"][0]["captions"][0]
    first.update(tokens=["", "a", "man", "", "with", "a", "dog"], process_idx=[2, 6])
    (tmp_path / "grounding_val.json").write_text(json.dumps(reference), encoding="utf-8")
    output = results()
    # The first forced caption is cut before "dog"; its man is right. The second's man looks at the wrong region.
    forced = (grounded("a man UNK", [1, 0, 1]), grounded("the man", [0, 1]))
    output[0]["caption"] = output[0]["caption"].with_companions(greedy=output[0]["caption"].greedy, references=forced)
    scores = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(output, 1)
    assert scores["val/attention_accuracy"] == pytest.approx((1 / 2 + 0) / 2)


def test_a_config_without_our_keys_works(cfg):
    stock = get_cfg()
    for key in ("NAME", "VAL_ANNFILE", "TEST_ANNFILE", "VOCAB"):
        stock.INFERENCE[key] = cfg.INFERENCE[key]
    stock.DATALOADER.ANNO_FOLDER, stock.OUTPUT_DIR = cfg.DATALOADER.ANNO_FOLDER, cfg.OUTPUT_DIR
    stock.SOLVER.EPOCH = 100
    scores = build_evaluation(stock, stock.INFERENCE.VAL_ANNFILE, None).eval(results(), 1)
    assert {"val/CIDEr", "val/F1_all"} <= set(scores)


def test_the_working_directory_and_the_import_path_stay_as_they_are(cfg, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = list(sys.path)
    build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None).eval(results(), 1)
    assert os.listdir(".") == [] and sys.path == path
