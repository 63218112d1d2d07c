"""The ranges of the config's numbers. The hosts notice a wrong one late, some after minutes of training."""

from __future__ import annotations

import math
from typing import Any

INF = math.inf
# Key -> (lowest, highest, whether the lowest itself is allowed). A list is checked number by number.
RANGES: dict[str, tuple[float, float, bool]] = {
    **{f"DATALOADER.{key}": (1, INF, True) for key in ("TRAIN_BATCH_SIZE", "TEST_BATCH_SIZE", "SEQ_PER_SAMPLE")},
    "DATALOADER.NUM_WORKERS": (0, INF, True),
    **{f"SOLVER.{key}": (0, INF, True) for key in (
        "EPOCH", "EVAL_PERIOD", "CHECKPOINT_STEPS", "CHECKPOINT_MINUTES", "KEEP_LAST", "KEEP_EVERY", "WEIGHT_DECAY",
        "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS", "BIAS_LR_FACTOR",
    )},
    **{f"SOLVER.{key}": (1, INF, True) for key in ("CHECKPOINT_PERIOD", "WRITE_PERIOD")},
    "SOLVER.BASE_LR": (0, INF, False),
    "SOLVER.EPS": (0, INF, False),
    "SOLVER.BETAS": (0, 1, True),
    "SOLVER.MOMENTUM": (0, 1, True),
    "SOLVER.GRAD_CLIP": (-INF, INF, True),
    "LR_SCHEDULER.STEP_SIZE": (1, INF, True),
    "LR_SCHEDULER.GAMMA": (0, INF, False),
    "SCHEDULED_SAMPLING.INC_EVERY_EPOCH": (1, INF, True),
    "SCHEDULED_SAMPLING.INC_PROB": (0, 1, True),
    "SCHEDULED_SAMPLING.MAX_PROB": (0, 1, True),
    "MODEL.CPU_THREADS": (0, INF, True),
    **{f"MODEL.{key}": (1, INF, True) for key in ("MAX_SEQ_LEN", "ENCODER_DIM", "DECODER_DIM")},
    "MODEL.VOCAB_SIZE": (2, INF, True),
    **{f"MODEL.{key}": (0, 1, True) for key in (
        "PRED_DROPOUT", "TOKEN_EMBED.DROPOUT", "VISUAL_EMBED.DROPOUT", "UPDOWN.DROPOUT1", "UPDOWN.DROPOUT2",
        "UPDOWN.ATT_EMBED_DROPOUT",
    )},
    "MODEL.UPDOWN.ATT_EMBED_SIZE": (1, INF, True),
    "MODEL.SS_ATTENTION.LAMBDA": (-INF, INF, True),
    "LOSSES.GROUNDING.MU": (0, INF, True),
    "INFERENCE.REGION_CLASS_POWER": (0, INF, True),
}  # fmt: skip


def out_of_range(cfg: Any) -> list[str]:
    """One sentence for each number of ``cfg`` that no run can use. Keys that the config lacks are not checked."""
    problems = []
    for key, (lowest, highest, included) in RANGES.items():
        node = cfg
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        for value in node if isinstance(node, (list, tuple)) else [node]:
            if not isinstance(value, (int, float)):
                continue
            if not (lowest <= value <= highest and (included or value > lowest)) or not math.isfinite(value):
                problems.append(f"{key}: expected {_words(lowest, highest, included)}, got {value}.")
    return problems


def _words(lowest: float, highest: float, included: bool) -> str:
    if highest < INF:
        return f"a number from {lowest:g} to {highest:g}"
    if lowest == -INF:
        return "a finite number"
    return f"{lowest:g} or more" if included else f"a finite number above {lowest:g}"
