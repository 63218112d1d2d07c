"""Inject faults, and measure what they cost: how much work is lost, and what differs at the end.

    python tools/faults.py [KIND ...] [--times N] [--seed N]

kills      training ends by SIGKILL at random moments and is resumed
stops      training is asked to stop (SIGTERM) at random moments and is resumed
prepare    `xmodaler prepare regions` ends by SIGKILL and is started again
extract    `xmodaler extract` ends by SIGKILL and is started again
study      `tools/reproduce_tables.py` ends by SIGKILL in the middle of a training and is resumed
flips      one bit of a checkpoint and of a region file is changed; found or not
fuzz       changed inputs for every reader (needs the tests of a checkout); values or our own errors, or not

Every run is compared with one that nobody disturbed: weights, optimiser, scores, region files, byte by byte. Everything
happens in a temporary folder with drawn scenes. --times is the number of faults of each kind (fuzz: per reader).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SCENES, EVERY = 60, 4  # drawn scenes; steps between checkpoints
SETTINGS = {
    "DATALOADER.SAMPLE_SCENES": SCENES, "DATALOADER.TRAIN_BATCH_SIZE": 4, "SOLVER.EPOCH": 12, "SOLVER.EVAL_PERIOD": 3,
    "SOLVER.CHECKPOINT_STEPS": EVERY, "SOLVER.WRITE_PERIOD": 1, "INFERENCE.METRICS": "['CIDEr','F1']",
    "INFERENCE.FINAL_METRICS": "[]", "MODEL.DECODER_DIM": 16, "MODEL.VISUAL_EMBED.IN_DIM": 64,
    "DECODE_STRATEGY.BEAM_SIZE": 1, "SOLVER.KEEP_BEST": "val/CIDEr", "INFERENCE.PICTURES": 0,
}  # fmt: skip


class Row(NamedTuple):
    """One line of the table."""

    kind: str
    injected: int
    survived: int
    lost: str
    differing: str


def start(command: Sequence[str], log: Path) -> subprocess.Popen:
    with open(log, "ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **ENV},
        )


ENV = {"XMODALER_SSATTN_HOST": "embedded", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def finish(command: Sequence[str], log: Path) -> None:
    if code := start(command, log).wait():
        raise SystemExit(f"exit code {code}: {' '.join(command)}\n{log.read_text(errors='replace')[-3000:]}")


def disturb(
    command: Sequence[str], log: Path, number: int, moment: Callable[[], bool], delay: float
) -> tuple[int, float] | None:
    """Start a command, wait for its moment and then ``delay`` seconds, and send a signal.

    Returns:
        its exit code and the seconds from the signal to its end; None when it had ended before.
    """
    process = start(command, log)
    while not moment() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    if process.poll() is not None:
        if process.returncode:
            raise SystemExit(f"exit code {process.returncode}\n{log.read_text(errors='replace')[-3000:]}")
        return None
    process.send_signal(number)
    sent = time.monotonic()
    return process.wait(), time.monotonic() - sent


# --- training ---------------------------------------------------------------------------------------------
def train_command(out: Path, data: Path, *flags: str) -> list[str]:
    words = [str(word) for pair in {**SETTINGS, "OUTPUT_DIR": out}.items() for word in pair]
    config = str(ROOT / "configs/sample/ss_attn.yaml")
    return [
        sys.executable,
        "-m",
        "xmodaler_ssattn",
        "train",
        "--config-file",
        config,
        "--data",
        str(data),
        *flags,
        *words,
    ]


def steps_done(out: Path) -> int:
    """The last iteration of which the metrics know, counted from 1."""
    path = out / "metrics.json"
    done = 0
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            done = max(done, json.loads(line)["iteration"] + 1)
        except (ValueError, KeyError, TypeError):
            continue  # being written
    return done


def steps_saved(out: Path) -> int:
    from xmodaler_ssattn.engine.resume import iterations_of, last_checkpoint

    checkpoint = last_checkpoint(out)
    return 0 if checkpoint is None else iterations_of(checkpoint)


def outcome(out: Path) -> dict[str, bytes]:
    """What a run leaves: the numbers of its last and best weights and of the optimiser, and its results."""
    from xmodaler_ssattn.safe_load import safe_load

    found: dict[str, bytes] = {}

    def take(name: str, value: Any) -> None:
        if hasattr(value, "numpy"):
            found[name] = value.numpy().tobytes()
        elif isinstance(value, dict):
            for key, item in value.items():
                take(f"{name}/{key}", item)
        elif isinstance(value, (list, tuple)):
            for key, item in enumerate(value):
                take(f"{name}/{key}", item)

    final = safe_load(out / "model_final.pth")
    take("weights", final["model"])
    take("optimizer", final["trainer"]["optimizer"]["state"])
    take("random", final["trainer"]["random_states"])
    take("best", safe_load(out / "model_best.pth")["model"])
    for path in sorted((out / "results").glob("*.json")):
        content = json.loads(path.read_text())
        found[path.name] = json.dumps([content["images"], content["scores"]]).encode()
    return found


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> int:
    """Bytes that differ; a missing part counts as a whole."""
    count = 0
    for name in one.keys() | other.keys():
        a, b = one.get(name, b""), other.get(name, b"")
        count += abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b))
    return count


def training(kind: str, folder: Path, times: int, rng: random.Random) -> Row:
    data, calm, out, log = folder / "data", folder / "calm", folder / kind, folder / f"{kind}.txt"
    if not calm.exists():
        finish(train_command(calm, data), folder / "calm.txt")
    number = signal.SIGKILL if kind == "kills" else signal.SIGTERM
    lost, slowest, injected, survived = [], 0.0, 0, 0
    while injected < times:
        resume = ["--resume"] if (out / "last_checkpoint").is_file() else []
        if steps_saved(out) >= steps_saved(calm):  # the run is over: begin another one
            survived += injected - survived if differing(outcome(calm), outcome(out)) == 0 else 0
            shutil.rmtree(out)
            continue
        begun = steps_saved(out)
        ended = disturb(
            train_command(out, data, *resume),
            log,
            number,
            lambda begun=begun: steps_done(out) > begun,
            rng.uniform(0, 0.6),
        )
        if ended is None:
            continue
        injected += 1
        lost.append(max(steps_done(out) - steps_saved(out), 0))
        slowest = max(slowest, ended[1])
        if kind == "stops" and ended[0] != 143:
            raise SystemExit(f"a polite stop ended with {ended[0]}, expected 143; see {log}")
    finish(train_command(out, data, *(["--resume"] if (out / "last_checkpoint").is_file() else [])), log)
    different = differing(outcome(calm), outcome(out))
    survived = injected if different == 0 else survived
    text = f"at most {max(lost)} of {EVERY} steps" + (f", {slowest:.1f} s to end" if kind == "stops" else "")
    return Row(f"training: {kind}", injected, survived, text, f"{different} bytes")


# --- other commands ---------------------------------------------------------------------------------------
def restarted(
    kind: str, command: Callable[[Path], list[str]], name: str, folder: Path, times: int, rng: random.Random
) -> Row:
    """Kill a command that continues its own unfinished file, several times per file."""
    log, calm, out = folder / f"{kind}.txt", folder / f"{kind} calm", folder / f"{kind} out"
    calm.mkdir()
    began = time.monotonic()
    finish(command(calm / name), log)
    whole = time.monotonic() - began
    injected = survived = 0
    while injected < times:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        before = injected
        for _ in range(min(3, times - injected)):
            if disturb(command(out / name), log, signal.SIGKILL, lambda: True, rng.uniform(0.3, 0.95) * whole) is None:
                break
            injected += 1
            if (out / name).exists():  # killed after its last file was complete
                break
        if not (out / name).exists():
            finish(command(out / name), log)
        same = (calm / name).read_bytes() == (out / name).read_bytes()
        left = [path.name for path in out.iterdir() if path.name != name]
        survived += injected - before if same and not left else 0
    return Row(kind, injected, survived, "rows since the last mark", "0 bytes" if survived == injected else "see above")


def prepare(folder: Path, times: int, rng: random.Random) -> Row:
    from xmodaler_ssattn.packs.formats.xmodaler_npz import export_npz
    from xmodaler_ssattn.packs.store import RegionStore

    pack = folder / "pack"
    export_npz(RegionStore(folder / "data" / "regions.h5"), pack)

    def command(out: Path) -> list[str]:
        words = ["prepare", "regions", "--format", "xmodaler-npz", "--input", str(pack), "--out", str(out)]
        return [sys.executable, "-m", "xmodaler_ssattn", *words, "--annotations", str(folder / "data")]

    return restarted("prepare regions: kills", command, "regions.h5", folder, times, rng)


def extract(folder: Path, times: int, rng: random.Random) -> Row:
    def command(out: Path) -> list[str]:
        words = ["extract", "--images", str(folder / "data" / "Images"), "--weights"]
        words += [str(folder / "data" / "region_maker.npz"), "--out", str(out)]
        return [sys.executable, "-m", "xmodaler_ssattn", *words]

    return restarted("extract: kills", command, "regions.h5", folder, times, rng)


def study(folder: Path, times: int, rng: random.Random) -> Row:
    plan = folder / "plan.yaml"
    values = {key: value for key, value in SETTINGS.items() if key != "DATALOADER.SAMPLE_SCENES"}
    config = {
        "config": str(ROOT / "configs/sample/ss_attn.yaml"),
        "set": values | {"INFERENCE.METRICS": ["CIDEr", "F1"]},
    }
    config["set"] |= {"INFERENCE.FINAL_METRICS": [], "DATALOADER.SAMPLE_SCENES": SCENES}
    plan.write_text(json.dumps({"title": "t", "seeds": [0], "rows": {"a": config}}))

    def command(out: Path, *flags: str) -> list[str]:
        words = ["--plan", str(plan), "--data", str(folder / "data"), "--out", str(out), "--threads", "1", *flags]
        return [sys.executable, str(ROOT / "tools/reproduce_tables.py"), *words, "--metrics", "CIDEr"]

    log, calm, out = folder / "study.txt", folder / "study calm", folder / "study out"
    finish(command(calm), log)
    run = out / "a" / "seed_0"
    injected = 0
    lost = []
    while injected < times:
        if (run / "model_final.pth").is_file():
            shutil.rmtree(out)
        begun = steps_saved(run)
        resume = ["--resume"] if out.exists() else []
        if (
            disturb(
                command(out, *resume),
                log,
                signal.SIGKILL,
                lambda begun=begun: steps_done(run) > begun,
                rng.uniform(0, 0.5),
            )
            is None
        ):
            continue
        injected += 1
        # The training notices that its study has died, and saves.
        deadline = time.monotonic() + 60
        while still_running(run) and time.monotonic() < deadline:
            time.sleep(0.2)
        if still_running(run):
            raise SystemExit(f"a training went on alone after its study was killed; see {log}")
        lost.append(max(steps_done(run) - steps_saved(run), 0))
    finish(command(out, "--resume"), log)
    different = differing(outcome(calm / "a" / "seed_0"), outcome(run))
    survived = injected if different == 0 else 0
    return Row("study: kills", injected, survived, f"at most {max(lost)} of {EVERY} steps", f"{different} bytes")


def still_running(run: Path) -> bool:
    """Whether a process holds the run's folder."""
    import fcntl

    if not (run / ".running").is_file():
        return False
    with open(run / ".running", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# --- damage -----------------------------------------------------------------------------------------------
def flips(folder: Path, times: int, rng: random.Random) -> list[Row]:
    from xmodaler_ssattn.engine.kept import damage
    from xmodaler_ssattn.errors import UserError
    from xmodaler_ssattn.packs.trust import check_region_file

    def region_file(path: Path) -> str:
        try:
            check_region_file(path)
        except UserError as error:
            return str(error)
        return ""

    rows = []
    for kind, source, find in (
        ("checkpoint", folder / "calm" / "model_final.pth", damage),
        ("region file", folder / "data" / "regions.h5", region_file),
    ):
        whole = source.read_bytes()
        path, found = folder / f"flipped{source.suffix}", 0
        for _ in range(times):
            place = rng.randrange(len(whole))
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :])
            found += bool(find(path))
        rows.append(Row(f"bit flips: {kind}", times, found, "-", f"{times - found} not found"))
    return rows


def fuzz(folder: Path, times: int, rng: random.Random) -> list[Row]:
    sys.path.insert(0, str(ROOT / "tests"))
    from fuzzing import binary_inputs, foreign_errors, text_inputs

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rows = []
    for kind, inputs in (("texts", text_inputs), ("other files", binary_inputs)):
        (folder / kind).mkdir()
        total: Counter = Counter()
        files = inputs(folder / kind)
        readers = Counter(name.split(" / ")[0] for name in files)
        for name, (path, read) in files.items():
            share = -(-times // readers[name.split(" / ")[0]])
            counts, found = foreign_errors(name, path, read, share, rng.random())
            total += counts
            print("\n".join(found), end="\n" if found else "", flush=True)
        good = total["value"] + total["our error"]
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        text = (
            f"{total['value']} values, {total['our error']} our errors, {len(readers)} readers, peak {peak >> 10} MiB"
        )
        rows.append(Row(f"fuzz: {kind}", total.total(), good, "-", text))
    return rows


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'fault':26s}{'injected':>9s}{'survived':>9s}  {'work lost':34s}{'differing'}"]
    return "\n".join(lines + [f"{r.kind:26s}{r.injected:9d}{r.survived:9d}  {r.lost:34s}{r.differing}" for r in rows])


KINDS = ("kills", "stops", "prepare", "extract", "study", "flips", "fuzz")
TIMES = {"kills": 50, "stops": 20, "prepare": 10, "extract": 10, "study": 10, "flips": 100, "fuzz": 10_000}


def inject(kinds: Sequence[str], folder: Path, times: int | None = None, seed: int = 0) -> list[Row]:
    """Inject the faults of these kinds; the drawn scenes and a run that nobody disturbs are made first."""
    rng, rows = random.Random(seed), []
    if set(kinds) & {"kills", "stops", "prepare", "extract", "study", "flips"}:
        finish(train_command(folder / "calm", folder / "data"), folder / "calm.txt")
    for kind in kinds:
        count = times or TIMES[kind]
        if kind in ("kills", "stops"):
            rows.append(training(kind, folder, count, rng))
        else:
            made = {"prepare": prepare, "extract": extract, "study": study, "flips": flips, "fuzz": fuzz}[kind](
                folder, count, rng
            )
            rows += made if isinstance(made, list) else [made]
        print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=KINDS, help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--times", type=int, help="faults of each kind, instead of " + str(TIMES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if unknown := sorted(set(args.kinds) - set(KINDS)):
        parser.error(f"unknown kinds: {', '.join(unknown)}; expected some of {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory() as folder:
        rows = inject(args.kinds, Path(folder), args.times, args.seed)
    print(table(rows))
    return 0 if all(row.injected == row.survived for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
