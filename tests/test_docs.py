"""What the documents say exists: files they link to, keys they name."""

import re
from pathlib import Path

import pytest

from xmodaler_ssattn.cli.configuring import load_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("xmodaler_ssattn/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_keys_exist(page):
    """A key is written in capitals with dots: `MODEL.SS_ATTENTION.DIM`, or MODEL.SS_ATTENTION.{DIM, BIAS}."""
    cfg = load_config(ROOT / "configs/flickr30k_entities/ss_attn.yaml", [])
    text = page.read_text(encoding="utf-8")
    found = re.findall(
        r"\b((?:MODEL|LOSSES|DATALOADER|SOLVER|INFERENCE|DECODE_STRATEGY|SCORER|ENGINE)(?:\.[A-Z_]+)+)\b", text
    )
    for key in found:
        node = cfg
        for part in key.split("."):
            assert part in node, f"{key}: no {part}"
            node = node[part]


def test_the_page_about_the_paper_names_every_choice_that_has_a_key():
    text = (ROOT / "docs/reading_the_paper.md").read_text(encoding="utf-8")
    cfg = load_config(ROOT / "configs/flickr30k_entities/ss_attn.yaml", [])
    beyond_the_paper = {"FUSION", "STATE_DIM", "ENABLED", "LAMBDA", "SEED", "MU"}
    for node in ("MODEL.SS_ATTENTION", "LOSSES.GROUNDING"):
        section = cfg
        for part in node.split("."):
            section = section[part]
        for key in set(section) - beyond_the_paper:
            assert f"`{node}.{key}`" in text, f"{node}.{key}"
