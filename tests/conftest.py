"""One process, one host: SSATTN_TEST_HOST=upstream runs the contract tests inside a clone (XMODALER_HOME)."""

import logging
import os
import sys
from pathlib import Path

import pytest

HOST = os.environ.get("SSATTN_TEST_HOST", "embedded")
os.environ["XMODALER_SSATTN_HOST"] = HOST
if HOST == "upstream":
    # At the end of the path: a real torchvision wins where there is one.
    sys.path.append(str(Path(__file__).parent / "standins"))

import torch

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
