"""DATALOADER.CACHE does not change a run: the same losses with and without it, under the stock trainer of each host."""

import pytest

from test_two_hosts import curve, needs_upstream
from xmodaler_ssattn.worlds.drawn import draw_dataset

SHORT = {"SOLVER.EPOCH": "2", "SOLVER.EVAL_PERIOD": "2"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "data"
    draw_dataset(folder, num_images=48, feature_dim=32)
    return folder


@pytest.mark.parametrize("host", ["embedded", pytest.param("upstream", marks=needs_upstream)])
def test_regions_that_are_resident_give_the_losses_of_regions_that_are_carried(data, tmp_path, host):
    runs = []
    for cache in ("none", "device"):
        (tmp_path / cache).mkdir()
        runs.append(curve(host, data, tmp_path / cache, 2, **SHORT, **{"DATALOADER.CACHE": cache})["losses"])
    assert len(runs[0]) == 20 and runs[0] == runs[1]
