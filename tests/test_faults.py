"""The short form of tools/faults.py: one fault of each kind that takes seconds."""

import importlib.util
from pathlib import Path

import pytest

from xmodaler_ssattn.host import NAME, UPSTREAM

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def faults():
    spec = importlib.util.spec_from_file_location("faults", ROOT / "tools" / "faults.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(NAME == UPSTREAM, reason="the processes use the embedded runtime")
def test_a_kill_a_stop_and_changed_bits(faults, tmp_path):
    rows = {row.kind: row for row in faults.inject(["kills", "stops", "flips"], tmp_path, times=1)}
    assert set(rows) == {"training: kills", "training: stops", "bit flips: checkpoint", "bit flips: region file"}
    assert all(row.injected == row.survived == 1 for row in rows.values())
    assert rows["training: stops"].lost.startswith("at most 0 of")


def test_the_bytes_that_differ(faults):
    one = {"a": b"\0\1\2", "b": b"xy", "c": b"same"}
    # a: one byte; b: the last is missing; d: all three are missing.
    assert faults.differing(one, {"a": b"\0\7\2", "b": b"x", "c": b"same", "d": b"123"}) == 1 + 1 + 3
    assert faults.differing(one, dict(one)) == 0
