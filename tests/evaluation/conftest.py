"""Java for the tests that need it, and small programs in its place for the tests of what can go wrong."""

import os
import stat
import sys

import pytest

from xmodaler_ssattn.evaluation.metrics import what_can_run


@pytest.fixture(scope="session")
def with_java():
    reason = what_can_run(["METEOR"])["METEOR"]
    if reason:
        pytest.skip(reason)


@pytest.fixture
def program(tmp_path):
    """A function: body of a Python script -> path of a program that runs it."""
    if os.name == "nt":
        pytest.skip("needs executable scripts")
    folder = tmp_path / "programs"
    folder.mkdir()

    def make(body: str) -> str:
        path = folder / f"program_{len(list(folder.iterdir()))}"
        path.write_text(f"#!{sys.executable}\nimport json, sys, time\n{body}\n", encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make
