"""All rows of a plan in minutes: on a few sample scenes, with the sizes of the sample configs.

Each row's difference from its base.yaml is applied to the sample scenes' base, so that a row has the same meaning.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from xmodaler_ssattn import shipped
from xmodaler_ssattn.reproduce.plan import Plan

SCENES, FEATURE_DIM = 500, 256
SEEDS = (0, 1)
COMMON = {
    "SOLVER.EPOCH": 6,
    "SOLVER.EVAL_PERIOD": 2,
    "INFERENCE.METRICS": ["CIDEr", "F1"],
}


def smoke_plan(plan: Plan) -> Plan:
    """The plan on the sample scenes' base config, with few epochs, and ``SEEDS`` for rows with more than one."""
    base = shipped.folder() / "sample" / "base.yaml"
    rows = {name: replace(row, seeds=SEEDS[: min(len(row.seeds), len(SEEDS))]) for name, row in plan.rows.items()}
    note = (
        f"A smoke test: {SCENES} drawn scenes, {COMMON['SOLVER.EPOCH']} epochs. It shows that every row trains and is "
        "scored; its numbers say nothing about the paper's claims."
    )
    return replace(plan, title=f"{plan.title} (smoke test)", note=note, base=base, common=COMMON, rows=rows)


def draw_data(folder: Path) -> None:
    """Draw the scenes unless they exist."""
    from xmodaler_ssattn.worlds.drawn import draw_dataset

    print(f"Sample scenes: {SCENES} in {folder}", flush=True)
    draw_dataset(folder, num_images=SCENES, feature_dim=FEATURE_DIM)
