"""Compare the quality of bfloat16 and float32: train a config with and without SOLVER.AMP over several seeds.

    python tools/benchmark_precision.py --seeds 3 --out output/precision

Runs `xmodaler train` twice per seed, one run after the other, and reads the last score of each from its metrics.json.
To see whether the two means differ by more than seeds do, their difference is compared with the standard deviation over
seeds. Runs that are already in --out are not repeated. The default config is the paper's model on the
drawn sample scenes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from xmodaler_ssattn.cli.child import python_module
from xmodaler_ssattn.cli.options import Parser, add_config_options

KINDS = {"float32": "False", "bfloat16": "True"}


def last_score(folder: Path, name: str) -> float:
    """The last value of a score in a run's metrics.json."""
    from xmodaler_ssattn.report.curves import read_run

    series = read_run(folder).series
    if name not in series:
        known = sorted(key for key in series if "/" in key)
        raise SystemExit(f"{folder / 'metrics.json'} has no {name}; it has {', '.join(known) or 'no scores'}.")
    return series[name][-1][1]


def compare(scores: dict[str, list[float]]) -> dict:
    """Means, the larger of the two standard deviations over seeds, and the difference of the means.

    Args:
        scores: float32 and bfloat16 -> one score per seed, at least two, in the same order of seeds.
    """
    one, other = scores["float32"], scores["bfloat16"]
    means = {kind: statistics.mean(values) for kind, values in scores.items()}
    spread = max(statistics.stdev(one), statistics.stdev(other))
    difference = means["bfloat16"] - means["float32"]
    return {
        "mean": means,
        "deviation_over_seeds": spread,
        "difference": difference,
        "within_seeds": abs(difference) <= spread,
        "paired": [b - a for a, b in zip(one, other, strict=True)],
    }


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=str(ROOT / "configs/sample/ss_attn.yaml"))
    parser.add_argument("--data", help="folder of the data (default: the config's)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1, 2, ..., at least two (default: 3)")
    parser.add_argument("--score", default="test/CIDEr")
    parser.add_argument("--out", required=True, help="folder for the runs and precision.json")
    add_config_options(parser)
    args = parser.parse_args()
    if args.seeds < 2:
        raise SystemExit(f"--seeds: expected at least 2, for a deviation over seeds; got {args.seeds}.")
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for seed in range(1, args.seeds + 1):
        for kind, amp in KINDS.items():
            folder = Path(args.out) / f"{kind}_{seed}"
            if not (folder / "model_final.pth").is_file():
                command = [*python_module("xmodaler_ssattn"), "train", "--config-file", args.config_file]
                command += ["--data", args.data] if args.data else []
                command += ["OUTPUT_DIR", str(folder), "SEED", str(seed), "SOLVER.AMP", amp, *args.opts]
                subprocess.run(command, check=True)
            scores[kind].append(last_score(folder, args.score))
            print(f"seed {seed}, {kind}: {args.score} {scores[kind][-1]:.4f}", flush=True)
    found = compare(scores)
    for kind, values in scores.items():
        print(f"{kind:9s} mean {found['mean'][kind]:.4f} over seeds " + ", ".join(f"{value:.4f}" for value in values))
    verdict = "no more than" if found["within_seeds"] else "MORE THAN"
    print(
        f"bfloat16 - float32: {found['difference']:+.4f}, {verdict} the standard deviation over seeds, "
        f"{found['deviation_over_seeds']:.4f}"
    )
    report = {"score": args.score, "scores": scores, **found}
    (Path(args.out) / "precision.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
