"""An epoch of the rows with a second pass, and with branches of attention, on the sample scenes and on both hosts."""

import json

import pytest

from test_two_hosts import ROOT, curve, needs_upstream
from xmodaler_ssattn.worlds.drawn import draw_dataset

LOSSES = {
    "prophet": {"Prophet Cross-Entropy", "Prophet Attention Loss"},
    "cyclical": {"Reconstruction Loss"},
    "distributed": {"Consistency Loss"},
}
EPOCH = {"SOLVER.EPOCH": "1", "MODEL.VISUAL_EMBED.OUT_DIM": "16", "MODEL.TOKEN_EMBED.DIM": "16"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    draw_dataset(folder, num_images=48, feature_dim=32)
    return folder


@pytest.mark.parametrize("row", LOSSES)
def test_an_epoch_on_the_sample_scenes(sample, tmp_path, row):
    losses = curve("embedded", sample, tmp_path, 0, ROOT / "configs/sample" / f"{row}.yaml", **EPOCH)["losses"]
    assert len(losses) == 10 and sum(losses[-3:]) < sum(losses[:3])
    lines = [json.loads(line) for line in (tmp_path / "embedded_0" / "metrics.json").read_text().splitlines()]
    assert LOSSES[row] | {"CrossEntropy Loss(G)", "test/F1_loc"} <= set().union(*lines)
    results = json.loads((tmp_path / "embedded_0/results/test_epoch_1.json").read_text())
    assert results["region_rule"] == ("union" if row == "distributed" else "argmax")


@needs_upstream
@pytest.mark.parametrize("row", LOSSES)
def test_both_hosts_give_one_loss_curve(sample, tmp_path, row):
    config = ROOT / "configs/sample" / f"{row}.yaml"
    found = (curve(host, sample, tmp_path, 0, config, **EPOCH) for host in ("upstream", "embedded"))
    upstream, embedded = (history["losses"] for history in found)
    assert len(upstream) == 10 and embedded == pytest.approx(upstream, abs=1e-4)
