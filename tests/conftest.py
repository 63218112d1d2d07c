"""One process, one host: SSATTN_TEST_HOST=upstream runs the contract tests inside a clone (XMODALER_HOME)."""

import contextlib
import io
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

HOST = os.environ.get("SSATTN_TEST_HOST", "embedded")
os.environ["XMODALER_SSATTN_HOST"] = HOST
if HOST == "upstream":
    # At the end of the path: a real torchvision wins where there is one.
    sys.path.append(str(Path(__file__).parent / "standins"))

import torch

from xmodaler_ssattn.stopping import SIGNALS

# Toys are faster on one thread, and far faster when others use the machine too.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def log_lines_reach_pytest():
    """A training run in an earlier test sends our log lines to its own file and terminal only."""
    logging.getLogger("xmodaler_ssattn").propagate = True


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real captions and metric cases, kept beside the project because of their licence."""
    root = Path(os.environ.get("SSATTN_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no shared test data at {root}; set SSATTN_TEST_DATA")
    return root


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory) -> tuple[Path, str]:
    """The folder of `xmodaler demo` with 40 pictures and one epoch, named demo, and what the command printed."""
    from xmodaler_ssattn.cli.main import main

    out = tmp_path_factory.mktemp("a folder") / "demo"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["demo", "--out", str(out), "--images", "40", "--epochs", "1"]) == 0
    return out, printed.getvalue()


@pytest.fixture(autouse=True)
def no_signal_handler_stays():
    """A handler that a test leaves would make later processes of this one ignore how they are ended."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
