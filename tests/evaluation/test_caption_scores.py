"""Caption scores: published numbers, and what captions may contain."""

import contextlib
import io
import json

import numpy as np
import pytest

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.java import tokenizer_jar
from xmodaler_ssattn.evaluation.metrics import metric_names
from xmodaler_ssattn.evaluation.metrics.bleu import Bleu
from xmodaler_ssattn.evaluation.metrics.cider import Cider
from xmodaler_ssattn.evaluation.metrics.rouge_l import RougeL
from xmodaler_ssattn.evaluation.ptb import PtbTokenizer, one_line
from xmodaler_ssattn.evaluation.scoring import CaptionScorer

REFERENCES = {
    "1": ["A man rides a horse.", "Somebody on a horse!"],
    "2": ["Two dogs play in the snow.", "The dogs run."],
    "3": ["A boy's red ball.", "A ball, red."],
}
CAPTIONS = {"1": "a man on a horse", "2": "two dogs in the grass", "3": "a red ball"}
FAST = ("Bleu", "ROUGE_L", "CIDEr")


# --- numbers --------------------------------------------------------------------------------------------------------


def test_coco_fakecap_gives_the_published_scores(shared_data, with_java):
    records = json.loads((shared_data / "metrics" / "coco_fakecap_1000.json").read_text(encoding="utf-8"))
    scorer = CaptionScorer({record["image_id"]: record["refs"] for record in records})
    scorer.warm_up()
    captions = {record["image_id"]: record["test"] for record in records}
    result = scorer.score(captions, ["Bleu", "METEOR", "ROUGE_L", "CIDEr"])
    rounded = {name: round(value, 3) for name, value in result.values.items()}
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
    assert result.values == pytest.approx(
        {
            "Bleu_1": 0.550000, "Bleu_2": 0.428174, "Bleu_3": 0.284043, "Bleu_4": 0.201143,
            "METEOR": 0.295797, "ROUGE_L": 0.522104, "CIDEr": 1.242192,
        },
        abs=1e-6,
    )  # fmt: skip


def test_scores_equal_pycocoevalcaps_own_classes_on_the_same_tokens():
    from pycocoevalcap.bleu.bleu import Bleu as OfficialBleu
    from pycocoevalcap.cider.cider import Cider as OfficialCider
    from pycocoevalcap.rouge.rouge import Rouge

    gts = {image: [text.lower() for text in refs] for image, refs in REFERENCES.items()}
    res = {image: [text] for image, text in CAPTIONS.items()}
    captions, references = list(CAPTIONS.values()), list(gts.values())
    metrics = (Bleu(), RougeL(), Cider())
    found = [metric.values(metric.rows(captions, references), np.ones((1, 3))) for metric in metrics]
    ours = {name: value[0] for scores in found for name, value in scores.items()}
    expected = dict(
        zip(["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4"], OfficialBleu(4).compute_score(gts, res, verbose=0)[0])
    )
    expected |= {"ROUGE_L": Rouge().compute_score(gts, res)[0], "CIDEr": OfficialCider().compute_score(gts, res)[0]}
    assert ours == pytest.approx(expected, abs=1e-12)


def test_bleu_one_by_hand():
    # "a b c" against "a b d e": 2 of 3 words right; the length 3 < 4 costs exp(1 - 4/3).
    rows = Bleu().rows(["a b c"], [["a b d e"]])
    assert Bleu().values(rows, np.ones((1, 1)))["Bleu_1"][0] == pytest.approx(2 / 3 * np.exp(-1 / 3))


def test_weights_equal_repeating_the_images():
    captions, references = list(CAPTIONS.values()), list(REFERENCES.values())
    repeated = [0, 0, 2]
    weights = np.array([[2.0, 0.0, 1.0]])
    chosen = Bleu().rows([captions[i] for i in repeated], [references[i] for i in repeated])
    weighted = Bleu().values(Bleu().rows(captions, references), weights)
    for name, value in Bleu().values(chosen, np.ones((1, 3))).items():
        assert weighted[name] == pytest.approx(value)
    rouge = RougeL().rows(captions, references)
    assert RougeL().values(rouge, weights)["ROUGE_L"][0] == pytest.approx((2 * rouge[0] + rouge[2]) / 3)


def test_a_corpus_of_empty_references_scores_zero_in_cider():
    assert Cider().rows(["a"], [[""]]).tolist() == [0.0]


def test_empty_captions_score_zero_and_disturb_no_other(with_java):
    scorer = CaptionScorer(REFERENCES)
    alone = scorer.score({"1": CAPTIONS["1"]}, ["ROUGE_L"]).rows["ROUGE_L"]
    both = scorer.score({"1": CAPTIONS["1"], "2": ""}, ["ROUGE_L"]).rows["ROUGE_L"]
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
    def files():
        return {path for path in tokenizer_jar().parents[1].rglob("*") if "__pycache__" not in path.parts}

    before = files()
    CaptionScorer(REFERENCES).score(CAPTIONS, FAST)
    assert files() == before


# --- input ----------------------------------------------------------------------------------------------------------


def test_metric_names_take_any_case_and_unknown_ones_are_named():
    assert metric_names(["cider", "BLEU", "rouge-l"]) == ("Bleu", "ROUGE_L", "CIDEr")
    with pytest.raises(UserError, match="Unknown metric bleurt; expected some of Bleu, METEOR"):
        metric_names(["bleurt"])


def test_captions_without_references_and_no_captions_are_errors():
    scorer = CaptionScorer(REFERENCES, tokenized=True)
    with pytest.raises(UserError, match="no references for image 9"):
        scorer.score({"1": "a", "9": "b"}, ["Bleu"])
    with pytest.raises(UserError, match="there are none to score"):
        scorer.score({}, ["Bleu"])
    with pytest.raises(UserError, match="no caption for image 4"):
        CaptionScorer({"4": []})


def test_beam_and_greedy_sets_are_scored_as_if_separate(with_java):
    scorer = CaptionScorer(REFERENCES)
    greedy = {image: text + " there" for image, text in CAPTIONS.items()}
    both = scorer.score_many({"": CAPTIONS, "greedy_": greedy}, FAST)
    assert both[""].values == scorer.score(CAPTIONS, FAST).values
    assert both["greedy_"].values == scorer.score(greedy, FAST).values
