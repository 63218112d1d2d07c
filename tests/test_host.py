"""Which host is chosen, in processes of their own: a process has one host."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def choose(tmp_path: Path, code: str = "", *, path: str = "", **environ: str) -> subprocess.CompletedProcess:
    """Run ``code`` and then print the chosen host, with only the given variables of ours set."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("XMODALER")}
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))
    script = f"{code}\nfrom xmodaler_ssattn import host\nprint(host.NAME, '|', host.REASON)"
    return subprocess.run(
        [sys.executable, "-c", script], env=clean | environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )


@pytest.fixture
def broken_clone(tmp_path) -> Path:
    """Something that looks like X-modaler and fails when imported."""
    package = tmp_path / "clone" / "xmodaler" / "config"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no module named torchvision')\n")
    return tmp_path / "clone"


def test_without_any_setting_the_embedded_runtime_is_taken_and_the_reason_given(tmp_path):
    done = choose(tmp_path)
    assert done.stdout.startswith("embedded | no X-modaler is importable"), done.stderr


def test_a_folder_called_xmodaler_is_not_a_host(tmp_path):
    (tmp_path / "xmodaler").mkdir()
    assert choose(tmp_path).stdout.startswith("embedded |")


def test_a_broken_clone_is_reported_with_its_own_error_and_never_replaced(tmp_path, broken_clone):
    done = choose(tmp_path, XMODALER_HOME=str(broken_clone))
    assert done.returncode != 0 and "no module named torchvision" in done.stderr
    assert "XMODALER_SSATTN_HOST=embedded" in done.stderr  # the way out
    found = choose(tmp_path, path=str(broken_clone))
    assert found.returncode != 0 and "no module named torchvision" in found.stderr


def test_the_embedded_host_can_be_requested_beside_a_clone(tmp_path, broken_clone):
    done = choose(tmp_path, XMODALER_HOME=str(broken_clone), XMODALER_SSATTN_HOST="embedded")
    assert done.stdout.startswith("embedded | XMODALER_SSATTN_HOST=embedded"), done.stderr


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"XMODALER_SSATTN_HOST": "upstreem"}, "expected 'upstream' or 'embedded', got 'upstreem'"),
        ({"XMODALER_SSATTN_HOST": "upstream"}, "xmodaler.config cannot be imported"),
        ({"XMODALER_HOME": "/nowhere/at/all"}, "XMODALER_HOME=/nowhere/at/all: expected the folder"),
    ],
)
def test_settings_that_cannot_be_met_are_errors(tmp_path, environ, message):
    done = choose(tmp_path, **environ)
    assert done.returncode != 0 and message in done.stderr


def test_an_imported_x_modaler_wins_and_contradictions_are_errors(tmp_path):
    package = tmp_path / "other" / "xmodaler" / "config"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    first = f"import sys; sys.path.insert(0, {str(tmp_path / 'other')!r}); import xmodaler.config"
    asked = choose(tmp_path, first, XMODALER_SSATTN_HOST="embedded")
    assert asked.returncode != 0 and "is imported already" in asked.stderr
    elsewhere = choose(tmp_path, first, XMODALER_HOME="/nowhere/at/all")
    assert elsewhere.returncode != 0 and "Unset one of the two" in elsewhere.stderr
    alone = choose(tmp_path, first)  # chosen, and then found to be another version
    assert alone.returncode != 0 and "xmodaler.config has no get_cfg" in alone.stderr


def test_the_command_says_so_without_a_traceback(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("XMODALER")}
    done = subprocess.run(
        [sys.executable, ROOT / "xmodaler_ssattn_command.py", "check", "--config-file", "x.yaml"],
        env=clean | {"PYTHONPATH": str(ROOT), "XMODALER_HOME": "/nowhere/at/all"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    message = done.stderr.removeprefix("Loading PyTorch ...\n")  # said on a slow machine
    assert message.startswith("xmodaler: error: XMODALER_HOME=/nowhere/at/all: expected the folder")


@pytest.mark.skipif(not os.environ.get("XMODALER_HOME"), reason="XMODALER_HOME does not point to an X-modaler clone")
def test_the_contract_holds_on_upstream():
    """The tests of the model, its losses and the contract once more, inside the clone, in their own process."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/contract",
            "tests/modeling",
            "tests/losses",
            "tests/engine",
        ],
        env=os.environ | {"SSATTN_TEST_HOST": "upstream"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
