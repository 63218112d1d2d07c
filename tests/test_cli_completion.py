"""Tab completion, in a real shell."""

import shutil
import subprocess
import sys

import pytest

from xmodaler_ssattn.cli.main import main

TRY = """source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); _shtab_xmodaler; echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab", reason="shtab is not installed: pip install shtab")
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    code = """import sys, xmodaler_ssattn_command
try:
    xmodaler_ssattn_command.main()
finally:
    assert "torch" not in sys.modules
"""
    words = [sys.executable, "-c", code, "--print-completion", "bash"]
    path = tmp_path_factory.mktemp("completion") / "xmodaler"
    path.write_text(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tr", ["train"]),
        ("score gr", ["grounding"]),
        ("train --res", ["--resume"]),
        ("prepare regions --format mil", ["milvlg-npz"]),
        ("train --config-file some", ["some.yaml"]),
        ("train --data so", ["somewhere"]),
    ],
)
def test_commands_options_choices_and_files_are_completed(script, tmp_path, words, expected):
    (tmp_path / "some.yaml").touch()
    (tmp_path / "somewhere").mkdir()
    done = subprocess.run(
        ["bash", "-c", TRY, "bash", script, "xmodaler", *words.split(" ")], cwd=tmp_path, capture_output=True, text=True
    )
    found = done.stdout.split()
    if words.startswith("train --config-file"):
        assert set(expected) <= set(found)  # folders lead to files
    else:
        assert found == expected, done.stderr


def test_without_the_library_the_command_to_install_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "zsh"]) == 2
    assert "--print-completion needs shtab, which is not installed: `pip install shtab`" in capsys.readouterr().err
