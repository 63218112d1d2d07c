"""Check this package on a CUDA machine and measure it, in about ten minutes; no data set is needed.

    python tools/gpu_check.py [--out FOLDER]

It compares losses, gradients and captions of the CPU and the GPU, plain and accelerated steps, captured graphs,
bfloat16 and float32; looks for waits in a training step; checks the resident cache, resuming, and two GPUs over NCCL
where there are two. Then it measures a training step and decoding at the paper's sizes (tools/benchmark.py), with stock
X-modaler if XMODALER_HOME is the path of a clone. FOLDER gets gpu_check.json, and gpu_check.md to paste into an issue.

Exit code: 0 when every check has passed or was skipped, 1 when one has failed, 2 without CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_checks import CHECKS, ROOT, Place, outcome

IMAGES_OF_THE_PAPER = 50 * 29_000
ANSWER = "gpu_check: "


def machine() -> dict[str, Any]:
    """Versions, driver and GPUs."""
    import xmodaler_ssattn

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "xmodaler_ssattn": xmodaler_ssattn.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda or "none",
        "driver": _driver(),
        "system": platform.platform(),
        "GPUs": [f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, {gpu.major}.{gpu.minor}" for gpu in gpus],
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def in_its_process(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    """The outcome of a check in a process of its own, because an error of CUDA makes the rest of a process useless."""
    started = time.perf_counter()
    failed = {"check": name, "verdict": "FAILED", "numbers": {}}
    command = [sys.executable, __file__, "--one", name, "--out", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 1.0), check=False)
    except subprocess.TimeoutExpired:
        return {**failed, "message": f"not finished in {seconds:.0f} s", "seconds": seconds}
    answers = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if answers:
        found = json.loads(answers[-1].removeprefix(ANSWER))
    else:
        found = {**failed, "message": f"exit code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"}
    return {**found, "seconds": time.perf_counter() - started}


def benchmark(folder: Path, seconds: float) -> dict[str, Any]:
    """The report of tools/benchmark.py, or {"error": why there is none}."""
    out = folder / "benchmark.json"
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "step", "decode", "--rounds", "5"]
    command += ["--json", str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 1.0), check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"not finished in {seconds:.0f} s"}
    if done.returncode:
        return {"error": f"exit code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"}
    return json.loads(out.read_text())


# --- the report -----------------------------------------------------------------------------------------------
def step_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A row for each contestant of the benchmark's training step, as in the Markdown's table."""
    return [
        [
            name,
            f"{1 / row['median']:.2f}",
            f"{row['images_a_second']:.0f}",
            f"{row['ratio']:.2f} x",
            f"{row['peak_mib']:,.0f} MiB",
            f"{row['median'] * IMAGES_OF_THE_PAPER / report['batch'] / 3600:.2f} h",
            f"{row['share_of_product_peak']:.0%}",
        ]
        for name, row in report["step"].items()
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: machine, verdicts, the messages of what failed, the benchmark."""
    checks, measured = report["checks"], report["benchmark"]
    failed = [found["check"] for found in checks if found["verdict"] == "FAILED"]
    failed += ["benchmark"] if "error" in measured else []
    lines = [f"# GPU check: {'FAILED: ' + ', '.join(failed) if failed else 'all checks passed'}", ""]
    lines += table(["", ""], [[k, "; ".join(v) if isinstance(v, list) else v] for k, v in report["machine"].items()])
    rows = []
    for found in checks:
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in found["numbers"].items())
        told = numbers if found["verdict"] == "passed" else found["message"]
        rows.append([found["check"], found["verdict"], _one_line(told), f"{found['seconds']:.0f} s"])
    lines += ["", "## Checks", "", *table(["check", "verdict", "numbers (differences) or reason", "time"], rows)]
    lines += ["", "## Benchmark", ""]
    if "error" in measured:
        return "\n".join([*lines, "FAILED", "", "```", measured["error"], "```", ""])
    head = [
        "training step",
        "steps/s",
        "images/s",
        "against the first",
        "peak memory",
        "50 epochs",
        "of the matrix peak",
    ]
    lines += [f"{measured['batch']} images x 5 captions; " + _peaks(measured["machine"]), ""]
    lines += table(head, step_rows(measured))
    decoding = [[k, f"{row['median']:.3f} s", f"{row['ratio']:.2f} x"] for k, row in measured.get("decode", {}).items()]
    lines += ["", *table(["beam-3 decoding of 32 images", "time", "against the first"], decoding)]
    return "\n".join([*lines, ""])


def _peaks(facts: Mapping[str, Any]) -> str:
    return (
        f"measured peaks: {facts['gflops_float32'] / 1000:.1f} TFLOP/s in float32, "
        f"{facts['gflops_bfloat16'] / 1000:.1f} in bfloat16, copy {facts['gigabytes_a_second']:.0f} GB/s"
    )


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:600]


def write_report(report: Mapping[str, Any], folder: Path) -> int:
    """Write both files; the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_check.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "gpu_check.md").write_text(markdown(report), encoding="utf-8")
    print(f"Report: {folder / 'gpu_check.md'} and gpu_check.json")
    bad = any(found["verdict"] == "FAILED" for found in report["checks"]) or "error" in report["benchmark"]
    return int(bad)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="output/gpu_check", metavar="FOLDER", help="default: output/gpu_check")
    parser.add_argument("--minutes", type=float, default=10.0, help="stop what is not finished by then (default: 10)")
    parser.add_argument("--one", choices=list(CHECKS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no CUDA device on this machine, so there is nothing to check.")
        return 2
    os.environ["XMODALER_SSATTN_HOST"] = "embedded"
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")])
    if args.one:
        found = outcome(args.one, Place("cuda", Path(args.out)))
        print("\n" + ANSWER + json.dumps(found))
        return 0
    end = time.monotonic() + 60 * args.minutes
    report: dict[str, Any] = {"machine": machine(), "checks": []}
    with tempfile.TemporaryDirectory() as name:
        for check in CHECKS:
            found = in_its_process(check, Path(name), end - time.monotonic())
            print(f"{check:20s} {found['verdict']:8s} {_one_line(found['message'])}", flush=True)
            report["checks"].append(found)
        report["benchmark"] = benchmark(Path(name), end - time.monotonic())
    return write_report(report, Path(args.out))


if __name__ == "__main__":
    sys.exit(main())
