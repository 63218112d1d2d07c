"""The configs of the second stage, and the command that runs them."""

import json
from pathlib import Path

import pytest

from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.engine.rl_trainer import check_config
from xmodaler_ssattn.scorer.caption_reward import check_scorer_config

ROOT = Path(__file__).parents[2]
PAPERS = ROOT / "configs" / "flickr30k_entities"
SAMPLE = ROOT / "configs" / "sample"
# What may differ between the stages: nothing that the weights, the data or the scores of the test depend on.
MAY_DIFFER = {
    "ENGINE.NAME",
    "DATALOADER.TRAIN_BATCH_SIZE",
    "LOSSES.NAMES",
    "LR_SCHEDULER.NAME",
    "OUTPUT_DIR",
    "SOLVER.BASE_LR",
    "SOLVER.EPOCH",
    "SOLVER.EVAL_PERIOD",
}


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize(
    ("folder", "row"), [(PAPERS, "updown"), (PAPERS, "ss_attn_wo_gnd"), (PAPERS, "ss_attn"), (SAMPLE, "ss_attn")]
)
def test_a_second_stage_is_the_first_but_for_how_it_trains(folder, row):
    first, second = (load_config(str(folder / f"{name}.yaml"), device="cpu") for name in (row, f"{row}_rl"))
    one, other = dict(flat(first)), dict(flat(second))
    changed = {key for key in one if one[key] != other[key]}
    assert {key for key in changed if not key.startswith("SCORER.")} <= MAY_DIFFER
    assert ("GroundingLoss" in first.LOSSES.NAMES) == ("GroundingLoss" in second.LOSSES.NAMES)
    assert second.SCORER.GROUNDING_WEIGHT == 0.0 and second.SCORER.BASELINE == "greedy"
    check_config(second)
    check_scorer_config(second)


SMALL = {
    "DATALOADER.SAMPLE_SCENES": 40,
    "DATALOADER.TRAIN_BATCH_SIZE": 8,
    "MODEL.VISUAL_EMBED.IN_DIM": 32,
    "MODEL.DECODER_DIM": 16,
    "SOLVER.EPOCH": 1,
    "SOLVER.EVAL_PERIOD": 1,
    "SOLVER.WRITE_PERIOD": 2,
    "INFERENCE.METRICS": "['CIDEr','F1']",
    "INFERENCE.FINAL_METRICS": "[]",
}


def train(tmp_path, config, out, **changes) -> int:
    options = SMALL | {"OUTPUT_DIR": tmp_path / out} | {key.replace("__", "."): value for key, value in changes.items()}
    words = [str(word) for pair in options.items() for word in pair]
    return main(["train", "--config-file", str(SAMPLE / config), "--data", str(tmp_path / "data"), *words])


def test_the_command_trains_the_second_stage_on_the_first_ones_weights(tmp_path, capsys):
    assert train(tmp_path, "ss_attn.yaml", "first") == 0
    assert train(tmp_path, "ss_attn_rl.yaml", "none") == 2
    assert "MODEL.WEIGHTS is empty" in capsys.readouterr().err
    weights = tmp_path / "first" / "model_final.pth"
    assert train(tmp_path, "ss_attn_rl.yaml", "rl", MODEL__WEIGHTS=weights, SCORER__GROUNDING_WEIGHT="0.5") == 0
    lines = [json.loads(line) for line in (tmp_path / "rl" / "metrics.json").read_text().splitlines()]
    names = set().union(*lines)
    assert {"rl/reward", "rl/baseline", "rl/Grounding", "Self-critical Loss", "Grounding Loss", "test/CIDEr"} <= names
    assert (tmp_path / "rl" / "model_final.pth").is_file()
    assert train(tmp_path, "ss_attn_rl.yaml", "x", MODEL__WEIGHTS=weights, SCORER__BASELINE="beam") == 2
    assert "SCORER.BASELINE: expected one of ('greedy', 'mean'), got 'beam'" in capsys.readouterr().err
