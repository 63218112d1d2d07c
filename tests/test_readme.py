"""What the README shows is what there is."""

import argparse
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from xmodaler_ssattn import host
from xmodaler_ssattn.cli.main import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Lines that call ``xmodaler`` in the README's plain code blocks."""
    lines, inside, plain = [], False, False
    for line in README.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            inside, plain = not inside, line == "```"
        elif inside and plain and re.search(r"(^|&& |\S=\S+ )xmodaler ", line):
            lines.append(line)
    return lines


@pytest.mark.parametrize("line", commands())
def test_every_command_in_the_readme_is_understood(line):
    words = shlex.split(line.split("&&")[-1])
    words = words[words.index("xmodaler") + 1 :]
    args = parse(words)
    assert isinstance(args, argparse.Namespace) and callable(args.run)


def test_commands_were_found():
    assert len(commands()) >= 9


def test_files_and_names_that_the_readme_mentions_exist():
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / link).exists(), link
    for config in re.findall(r"configs/[\w/]+\.yaml", README):
        assert (ROOT / config).is_file(), config
    for registry, name in (
        (host.META_ARCH_REGISTRY, "GroundedCaptioner"),
        (host.SOLVER_REGISTRY, "FusedAdam"),
        (host.EVALUATION_REGISTRY, "Flickr30kEntitiesEvaler"),
    ):
        assert name in README and registry.get(name)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_ci_script_finds_the_test_command():
    (line,) = [x for x in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines() if x.startswith("command=")]
    script = f'{line}; printf %s "$command"'
    found = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == 'pip install "torch==2.13.0" -e ".[test]" && python -m pytest'
