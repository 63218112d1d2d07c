"""A metric in a file of its own is known everywhere: to `xmodaler score`, to the evaluator and to plans."""

import argparse
import json
import subprocess
import sys

import pytest

from xmodaler_ssattn.cli import score
from xmodaler_ssattn.config import add_ssattn_config
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation import metrics
from xmodaler_ssattn.evaluation.evaler import scores_after_each_epoch
from xmodaler_ssattn.host import build_evaluation, get_cfg

LENGTH = """
import numpy as np

from xmodaler_ssattn.evaluation.metrics import Metric, register


@register
class Length(Metric):
    name, titles = "Length", {"Length": "Len"}

    def rows(self, captions, references):
        return np.array([len(caption.split()) for caption in captions], dtype=np.float64)
"""
REFERENCES = {"1": ["a man rides a horse"], "2": ["two dogs run"]}
CAPTIONS = {"1": "a man", "2": "two dogs in snow"}  # 2 and 4 words: mean 3


@pytest.fixture
def length(tmp_path, monkeypatch):
    """A made-up metric, dropped in as one more file of the folder of metrics."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "length.py").write_text(LENGTH, encoding="utf-8")
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(folder)])
    yield
    metrics._REGISTERED.pop("Length", None)
    sys.modules.pop(f"{metrics.__name__}.length", None)


def test_score_knows_a_dropped_in_metric(length, tmp_path, capsys):
    for name, value in (("r.json", REFERENCES), ("p.json", CAPTIONS)):
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
    parser = argparse.ArgumentParser()
    score.add_parser(parser.add_subparsers())
    words = ["score", "captions", "--references", f"{tmp_path}/r.json", "--predictions", f"{tmp_path}/p.json"]
    args = parser.parse_args([*words, "--tokenized", "--metrics", "length", "bleu", "--json", "--bootstrap", "40"])
    assert args.run(args) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "Length", "bootstrap"]
    assert printed["Length"] == 3.0 and printed["bootstrap"]["Length"] == [2.0, 4.0]
    with pytest.raises(SystemExit):
        parser.parse_args(["score", "captions", "--help"])
    assert "length" in capsys.readouterr().out


def test_the_evaluator_knows_a_dropped_in_metric(length, tmp_path):
    if reason := metrics.what_can_run(["Length"])["Length"]:
        pytest.skip(reason)
    cfg = get_cfg()
    add_ssattn_config(cfg)
    coco = {
        "images": [{"id": int(i)} for i in REFERENCES],
        "annotations": [{"image_id": int(i), "caption": text} for i, (text,) in REFERENCES.items()],
    }
    (tmp_path / "captions.json").write_text(json.dumps(coco), encoding="utf-8")
    cfg.INFERENCE.NAME, cfg.INFERENCE.VAL_ANNFILE = "Flickr30kEntitiesEvaler", str(tmp_path / "captions.json")
    cfg.INFERENCE.METRICS, cfg.INFERENCE.FINAL_METRICS = ["Length"], []
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    assert "Length" in scores_after_each_epoch(cfg, "val")  # what SOLVER.KEEP_BEST may name
    evaluator = build_evaluation(cfg, cfg.INFERENCE.VAL_ANNFILE, None)
    assert evaluator.eval([{"image_id": int(i), "caption": c} for i, c in CAPTIONS.items()], 1) == {"val/Length": 3.0}


def test_a_plan_knows_a_dropped_in_metric(length, tmp_path):
    """In a process of its own: plans take their metrics when their module is imported."""
    plan = {"title": "T", "seeds": [0], "rows": {"a": {"config": "a.yaml"}}}
    plan["tables"] = [{"title": "One", "rows": ["a"], "metrics": ["Len", "B@4"]}]
    (tmp_path / "a.yaml").touch()
    (tmp_path / "plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    program = (
        f"from xmodaler_ssattn.evaluation import metrics; metrics.__path__.append({str(tmp_path / 'metrics')!r})\n"
        "from xmodaler_ssattn.reproduce.plan import METRICS, read_plan\n"
        f"print(read_plan({str(tmp_path / 'plan.yaml')!r}).tables[0].metrics, METRICS['Len'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "('Len', 'B@4') Length"


def test_an_unknown_metric_is_named_with_the_known_ones(length):
    with pytest.raises(UserError, match="Unknown metric bleurt; expected some of Bleu, .*SPICE, Length"):
        metrics.metric_names(["bleurt"])
