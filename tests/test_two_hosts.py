"""The same config, seed and data on both hosts: the same loss curve, across an epoch's end with its evaluation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xmodaler_ssattn.worlds.drawn import draw_dataset

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "contract" / "losses_of_a_run.py"
CONFIG = ROOT / "configs" / "sample" / "ss_attn.yaml"

# 32 training pictures in batches of 4: 8 steps an epoch, three epochs, an evaluation after each.
SMALL = {
    "DATALOADER.TRAIN_BATCH_SIZE": "4",
    "DATALOADER.SAMPLE_SCENES": "48",
    "MODEL.VISUAL_EMBED.IN_DIM": "32",
    "MODEL.DECODER_DIM": "16",
    "SOLVER.EPOCH": "3",
    "SOLVER.EVAL_PERIOD": "1",
    "SCHEDULED_SAMPLING.INC_EVERY_EPOCH": "1",
    "INFERENCE.METRICS": "['CIDEr', 'F1']",
    "INFERENCE.FINAL_METRICS": "[]",
}

needs_upstream = pytest.mark.skipif(
    not os.environ.get("XMODALER_HOME"), reason="XMODALER_HOME does not point to an X-modaler clone"
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "data"
    draw_dataset(folder, num_images=48, feature_dim=32)
    return folder


def curve(host: str, data: Path, out: Path, workers: int, config: Path = CONFIG, **changes: str) -> dict:
    vocabulary = len((data / "vocabulary.txt").read_text().split()) + 1
    options = SMALL | {"MODEL.VOCAB_SIZE": str(vocabulary), "OUTPUT_DIR": str(out / f"{host}_{workers}")} | changes
    result = out / f"{host}_{workers}.json"
    command = [sys.executable, SCRIPT, config, data, result, workers, 24]
    done = subprocess.run(
        [*map(str, command), *(word for pair in options.items() for word in pair)],
        env=os.environ | {"XMODALER_SSATTN_HOST": host, "PYTHONPATH": str(ROOT)},
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return json.loads(result.read_text())


def test_the_embedded_host_trains_and_evaluates_and_keeps_val_and_test_apart(sample, tmp_path):
    history = curve("embedded", sample, tmp_path, 0)
    assert history["host"] == "embedded" and len(history["losses"]) == 24
    assert history["losses"][-1] < history["losses"][0]
    lines = [json.loads(line) for line in (tmp_path / "embedded_0" / "metrics.json").read_text().splitlines()]
    names = set().union(*lines)
    assert {"val/CIDEr", "test/CIDEr", "val/F1_all", "test/F1_loc", "CrossEntropy Loss(G)", "Grounding Loss"} <= names
    assert "CIDEr" not in names
    assert (tmp_path / "embedded_0" / "model_final.pth").is_file()
    assert (tmp_path / "embedded_0" / "results" / "test_epoch_3.json").is_file()


@needs_upstream
@pytest.mark.parametrize("workers", [0, 2])
def test_both_hosts_give_one_loss_curve_across_epochs_and_evaluations(sample, tmp_path, workers):
    upstream = curve("upstream", sample, tmp_path, workers)
    embedded = curve("embedded", sample, tmp_path, workers)
    assert (upstream["host"], embedded["host"]) == ("upstream", "embedded")
    assert len(upstream["losses"]) == 24  # three epochs: the comparison crosses two ends and their evaluations
    assert embedded["losses"] == pytest.approx(upstream["losses"], abs=1e-4)
