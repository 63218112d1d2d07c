"""The embedded runtime against upstream X-modaler: the same losses, weights and sentences, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    not os.environ.get("XMODALER_HOME"), reason="XMODALER_HOME names no clone of upstream X-modaler"
)


def run(host: str, folder: Path, *opts: str) -> dict:
    paths = [str(HERE.parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "RUNTIME_TOY_HOST": host, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, str(HERE / "stock_run.py"), str(folder), *opts], check=True, env=env)
    return json.loads((folder / "done.json").read_text())


@pytest.mark.parametrize(
    "opts",
    [
        ["DATALOADER.NUM_WORKERS", "0", "SOLVER.GRAD_CLIP_TYPE", "value", "DATASETS.TEST", "RuntimeToyDataset"],
        ["DATALOADER.NUM_WORKERS", "2", "SOLVER.NAME", "AdamW", "LOSSES.NAMES", "['LabelSmoothing']"],
    ],
)
def test_both_hosts_do_the_same_over_epoch_ends_with_evaluation(tmp_path, opts):
    opts += ["SOLVER.EPOCH", "5", "SOLVER.BASE_LR", "0.05", "LR_SCHEDULER.GAMMA", "0.9"]
    upstream = run("upstream", tmp_path / "upstream", *opts)
    embedded = run("embedded", tmp_path / "embedded", *opts)
    assert (upstream.pop("host"), embedded.pop("host")) == ("xmodaler", "xmodaler_ssattn")
    assert len(embedded["losses"]) == 20
    assert embedded == upstream
