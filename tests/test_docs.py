"""What the documents say is so: commands, links, keys, messages, generated parts, and the site."""

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xmodaler_ssattn import __version__, host
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.main import main, parse

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, *ROOT.glob("docs/*.md"), *ROOT.glob("xmodaler_ssattn/**/*.md")])
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}

spec = importlib.util.spec_from_file_location("docs_tool", ROOT / "tools/docs.py")
docs_tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs_tool)


def name(page):
    return str(page.relative_to(ROOT))


def commands() -> list[tuple[str, str]]:
    """(page, command) for each line of a plain code block that calls ``xmodaler`` or a tool."""
    found = []
    for page, text in TEXTS.items():
        inside = plain = False
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("```"):
                inside, plain = not inside, line == "```"
            elif inside and plain and re.search(r"(^|&& |\S=\S+ )(xmodaler|python tools/\S+) ", line):
                found.append((name(page), line.split("&& ")[-1]))
    return found


COMMANDS = commands()
# Those that need only what the demo leaves are run, in the order of the page.
RUN = [line for page, line in COMMANDS if page == "docs/getting_started.md" and line.startswith("xmodaler")]


def test_commands_were_found():
    assert (
        len(COMMANDS) >= 30
        and RUN[0].startswith("xmodaler demo ")
        and len(RUN) >= 5
        and {page for page, _ in COMMANDS} >= {"README.md", "docs/data.md"}
    )


@pytest.mark.parametrize("line", sorted({line for _, line in COMMANDS if "xmodaler " in line}))
def test_every_command_is_understood(line):
    words = [word for word in shlex.split(line) if word != "..."]
    args = parse(words[words.index("xmodaler") + 1 :])
    assert isinstance(args, argparse.Namespace) and callable(args.run)


def test_the_tools_know_the_options_of_their_commands():
    wanted: dict[str, set[str]] = {}
    for words in (shlex.split(line) for _, line in COMMANDS if "python tools/" in line):
        flags = wanted.setdefault(words[words.index("python") + 1], set())
        flags |= {word for word in words if word.startswith("--")}
    assert len(wanted) >= 6
    for tool, flags in wanted.items():
        help_text = [sys.executable, tool, "--help"]
        usage = subprocess.run(help_text, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert {flag for flag in flags if flag not in usage} == set(), tool


def test_the_commands_of_the_first_page_run_one_after_the_other(small_demo, monkeypatch, capsys):
    """After a demo of 40 pictures and one epoch in place of 1,500 and eight."""
    monkeypatch.chdir(small_demo[0].parent)
    Path("configs").symlink_to(ROOT / "configs")
    for line in RUN[1:]:
        line = line.replace("100001", "100037").replace("epoch_8", "epoch_1")
        line += " DATALOADER.SAMPLE_SCENES 40" if " train " in line else ""
        assert main(shlex.split(line)[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
    for path in ("demo/page/index.html", "photo.html", "output/sample/model_final.pth"):
        assert Path(path).is_file()
    assert "CIDEr" in capsys.readouterr().out.rsplit("Bleu", 1)[-1]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(((?!http)[^)#]+)", TEXTS[page]):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_keys_exist(page):
    """A key is written in capitals with dots: `MODEL.SS_ATTENTION.DIM`, or MODEL.SS_ATTENTION.{DIM, BIAS}."""
    cfg = load_config(ROOT / "configs/flickr30k_entities/ss_attn.yaml", [])
    found = re.findall(
        r"\b((?:MODEL|LOSSES|DATALOADER|SOLVER|INFERENCE|DECODE_STRATEGY|SCORER|ENGINE)(?:\.[A-Z_]+)+)\b", TEXTS[page]
    )
    for key in found:
        node = cfg
        for part in key.split("."):
            assert part in node, f"{key}: no {part}"
            node = node[part]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_configs_exist(page):
    for config in re.findall(r"configs/[\w/]+\.yaml", TEXTS[page]):
        assert (ROOT / config).is_file(), config


def test_registered_names_are_registered():
    text = TEXTS[ROOT / "docs/other_projects.md"]
    table = text[text.index("## Registered names") :]
    names = re.findall(
        r"`([A-Z]\w+)`", " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))
    )
    registries = [getattr(host, registry) for registry in dir(host) if registry.endswith("_REGISTRY")]
    assert len(names) > 12
    for registered in names:
        assert any(registered in registry for registry in registries), registered


def test_messages_of_the_page_about_errors_are_in_the_code():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "xmodaler_ssattn").rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # a text of several lines
    messages = re.findall(r"^\| `([^`]+)`", TEXTS[ROOT / "docs/troubleshooting.md"], flags=re.MULTILINE)
    assert len(messages) > 25
    for message in messages:
        if message != "detectron2":
            assert message in sources, message


def test_the_page_about_the_paper_names_every_choice_that_has_a_key():
    text = TEXTS[ROOT / "docs/reading_the_paper.md"]
    cfg = load_config(ROOT / "configs/flickr30k_entities/ss_attn.yaml", [])
    beyond_the_paper = {"FUSION", "STATE_DIM", "ENABLED", "LAMBDA", "SEED", "MU"}
    for node in ("MODEL.SS_ATTENTION", "LOSSES.GROUNDING"):
        section = cfg
        for part in node.split("."):
            section = section[part]
        for key in set(section) - beyond_the_paper:
            assert f"`{node}.{key}`" in text, f"{node}.{key}"


def test_the_generated_parts_are_up_to_date(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["docs.py", "--check"])
    assert docs_tool.main() == 0, f"run `python tools/docs.py`: {capsys.readouterr().out}"


def test_every_key_has_a_description():
    sections = docs_tool.config_keys(docs_tool.CONFIG.read_text(encoding="utf-8"))
    missing = [key.name for _, keys in sections for key in keys if not key.text]
    assert sum(len(keys) for _, keys in sections) > 50 and missing == []


def test_a_line_is_found_and_a_wrong_name_refused(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("X = 1\n\n\nclass A:\n    def b(self):\n        pass\n")
    assert [docs_tool.line_of(path, what) for what in ("X", "A", "A.b")] == [1, 4, 5]
    with pytest.raises(SystemExit, match=r"A\.c is not defined"):
        docs_tool.line_of(path, "A.c")


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    equations = (tmp_path / "mathematics.html").read_text(encoding="utf-8")
    anchor = re.search(
        r'href="(source/xmodaler_ssattn/modeling/ss_attention\.py\.html)#(__codelineno-0-\d+)"', equations
    )
    assert f'name="{anchor[2]}"' in (tmp_path / anchor[1]).read_text(encoding="utf-8")
    for page in tmp_path.rglob("*.html"):  # it opens without a network
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text(encoding="utf-8")
        )
        assert [link for link in loaded if "canonical" not in link] == [], page


def test_the_citation_names_this_version():
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_ci_script_finds_the_test_command():
    (line,) = [x for x in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines() if x.startswith("command=")]
    script = f'{line}; printf %s "$command"'
    found = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found == 'pip install "torch==2.13.0" -e ".[test]" && python -m pytest -n 2 --dist loadfile'
