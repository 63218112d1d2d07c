"""``xmodaler demo``: from nothing to a trained model, captions with boxes, and scores, in about a minute."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodaler_ssattn import shipped
from xmodaler_ssattn.cli.child import python_module
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.progress import doing
from xmodaler_ssattn.stopping import polite_stops, stopping_at_once

if TYPE_CHECKING:
    from xmodaler_ssattn.report.source import Model, Source

ROWS = ("updown", "ss_attn_words")
TITLES = {"updown": "Up-Down", "ss_attn_words": "SS attention"}
# The columns of the table, in the order of the paper's Table 1; scores are fractions, the table is in percent.
TABLE = {"B@1": "Bleu_1", "B@4": "Bleu_4", "M": "METEOR", "R": "ROUGE_L", "C": "CIDEr", "S": "SPICE"}
TABLE |= {"F1_all": "F1_all", "F1_loc": "F1_loc"}
PICTURES_SHOWN = 12
SAMPLE_SCENES = 1500
SECONDS_BETWEEN_LINES = 10.0
# Measured: pictures, annotations and regions of a scene; a checkpoint; what drawing keeps of a scene until the end.
BYTES_PER_SCENE, BYTES_PER_CHECKPOINT, MEMORY_PER_SCENE = 200_000, 10_000_000, 150_000


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        description="Needs only this package: draws pictures, trains two small models, and shows their captions.",
    )
    add = parser.add_argument
    add("--out", default="demo", metavar="DIR", help="folder for everything (default: demo)")
    add("--seed", type=int, default=1, help="seed of the training runs (default: 1)")
    add("--images", type=int, default=SAMPLE_SCENES, help=f"pictures to draw (default: {SAMPLE_SCENES})")
    add("--epochs", type=int, help="epochs of each model (default: the sample config's)")
    add("--device", help="cpu or cuda; default: cuda when there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn import host
    from xmodaler_ssattn.cli.configuring import load_config
    from xmodaler_ssattn.cli.data_files import prepare_sample
    from xmodaler_ssattn.evaluation.metrics import what_can_run

    started = time.monotonic()
    out = Path(args.out)
    check_sizes(args, out)
    print(host.describe(), flush=True)
    commands = {row: command_of(row, shipped.folder() / "sample", out, args) for row in ROWS}
    config, opts = commands[ROWS[0]]
    cfg = load_config(config, opts, data=str(out / "data"), device=args.device)
    check_space(args.images, cfg.SOLVER.EPOCH, out)
    with polite_stops(), stopping_at_once():
        prepare_sample(cfg)
    train_rows(commands, out, args)
    source = read_demo(out)
    scores = {row: dict(model.results.header["scores"]) for row, model in zip(ROWS, source.models)}
    with doing("Drawing the captions onto pictures"):
        pictures = draw_pictures(source, out)
    page = write_report(source, out)
    print(f"\nScores on the test scenes, in percent:\n\n{format_table(scores)}")
    print(f"\n{right_boxes(source)}")
    if not any(row.get("CIDEr") for row in scores.values()):
        print("\nAll scores are zero: too few pictures or epochs. Leave out --images and --epochs.")
    for metric, reason in what_can_run().items():
        if reason:
            print(f"\n{metric} was left out: {reason}.")
    print(f"\nEverything is in {out.resolve()}:")
    print("  data/                     pictures, annotations in the official layout, regions")
    print("  updown/, ss_attn_words/   model_final.pth, config.yaml, metrics.json, results/*.json, log.txt")
    print("  page/                     a page of both models' captions, boxes and attention: open page/index.html")
    print(f"  pictures/                 {pictures} test pictures, both models' captions and boxes")
    print(f"Both show first the pictures in which {TITLES[ROWS[1]]} has more object words with a right box.")
    print(f"Open {page.resolve()}")
    picture = picture_file(out / "data", min(source.image_ids))
    words = ["xmodaler", "caption", str(picture), "--weights", str(out / ROWS[-1]), "--report", "caption.html"]
    print("Caption a picture from its pixels only (data/region_maker.npz is the scenes' detector):")
    print(f"  {shlex.join(words)}")
    print(f"Done in {time.monotonic() - started:.0f} seconds.")
    return 0


def check_sizes(args: argparse.Namespace, out: Path) -> None:
    """Refuse wrong numbers and a wrong folder before anything is drawn."""
    problems = []
    if out.exists() and not out.is_dir():
        problems.append(f"--out: {out} is a file, expected a folder.")
    if args.images < 3:
        problems.append(f"--images: expected 3 or more (one each for train, val and test), got {args.images}.")
    if args.epochs is not None and args.epochs < 1:
        problems.append(f"--epochs: expected 1 or more, got {args.epochs}.")
    if not 0 <= args.seed < 2**32:
        problems.append(f"--seed: expected 0 to {2**32 - 1}, got {args.seed}.")
    raise_all(problems, "demo")


def check_space(images: int, epochs: int, out: Path) -> None:
    """Refuse a demo that does not fit the disk or the memory."""
    problems = []
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    scenes = 0 if (out / "data").exists() else images * BYTES_PER_SCENE
    needed, free = scenes + len(ROWS) * (epochs + 1) * BYTES_PER_CHECKPOINT, shutil.disk_usage(folder).free
    if needed > free:
        problems.append(
            f"{images:,} pictures and {epochs} epochs need {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB "
            "free; lower --images or --epochs, or give another --out."
        )
    memory = memory_of_machine()
    if memory is not None and images * MEMORY_PER_SCENE > memory:
        problems.append(
            f"drawing {images:,} pictures needs {images * MEMORY_PER_SCENE / 1e9:.1f} GB of memory, this machine has "
            f"{memory / 1e9:.1f} GB; lower --images."
        )
    raise_all(problems, "demo")


def memory_of_machine() -> int | None:
    """Bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def command_of(row: str, configs: Path, out: Path, args: argparse.Namespace) -> tuple[str, list[str]]:
    """(config file, KEY VALUE options) of one model."""
    opts = ["SEED", str(args.seed), "OUTPUT_DIR", str(out / row), "DATALOADER.SAMPLE_SCENES", str(args.images)]
    opts += ["INFERENCE.SAVE_ATTENTION", "True"]  # the page shades the regions by it
    if args.epochs is not None:
        opts += ["SOLVER.EPOCH", str(args.epochs), "SOLVER.EVAL_PERIOD", str(args.epochs)]
    return str(configs / f"{row}.yaml"), opts


def train_rows(commands: dict[str, tuple[str, list[str]]], out: Path, args: argparse.Namespace) -> None:
    """Train all rows at once, each in its own process on one core, and report their progress."""
    processes = {}
    for row, (config, opts) in commands.items():
        if (out / row / "terminal.txt").is_file():  # of an earlier demo, which starts from the beginning
            shutil.rmtree(out / row)
        (out / row).mkdir(parents=True, exist_ok=True)
        command = [*python_module("xmodaler_ssattn"), "train", "--config-file", config, "--data", str(out / "data")]
        command += ["--device", args.device, *opts] if args.device else opts
        streams = {"stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        with open(out / row / "terminal.txt", "w", encoding="utf-8") as terminal:
            processes[row] = subprocess.Popen(command, stdout=terminal, **streams)
    try:
        watch(processes, out)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    for row, process in processes.items():
        if process.returncode:
            path = out / row / "terminal.txt"
            last = last_words(path.read_text(encoding="utf-8", errors="replace"))
            raise UserError(
                f"Training {TITLES[row]} failed with exit code {process.returncode} (output: {path}):\n{last}"
            )


def last_words(text: str) -> str:
    """The error message at the end of a run's output; else the end of the output."""
    found = text.rfind("xmodaler: error: ")
    return text[found:].strip() if found >= 0 else text.strip()[-1500:]


def watch(processes: dict[str, subprocess.Popen], out: Path) -> None:
    """Report the models' progress every few seconds until all have finished or one has failed."""
    live = sys.stderr.isatty()
    started = next_line = time.monotonic()
    while any(process.poll() is None for process in processes.values()):
        if any(process.poll() for process in processes.values()):
            break
        time.sleep(0.5)
        if time.monotonic() >= next_line:
            next_line = time.monotonic() + (1.0 if live else SECONDS_BETWEEN_LINES)
            text = "   ".join(f"{TITLES[row]}: {state_of(out / row, started)}" for row in processes)
            print(f"\r{text}\033[K" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)
    if live:
        print(file=sys.stderr)


def state_of(folder: Path, started: float | None = None) -> str:
    """The progress of a run, from its metrics file; ``started`` (``time.monotonic``) tells how much is over."""
    metrics = folder / "metrics.json"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue  # being written
        if "total_loss" in values:
            share = left = ""
            if seconds := values.get("eta_seconds"):
                left = f", {seconds:.0f} s left"
                if started is not None:
                    over = time.monotonic() - started
                    share = f"{over / (over + seconds):.0%}, "
            return f"{share}step {values['iteration'] + 1}, loss {values['total_loss']:.2f}{left}"
    return "starting up"


def last_results_file(folder: Path) -> Path:
    found = sorted((folder / "results").glob("test_epoch_*.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{folder / 'results'}: there is no test_epoch_*.json; see {folder / 'terminal.txt'}.")
    return found[-1]


def format_table(scores: dict[str, dict[str, float]]) -> str:
    """Both models side by side; a score that could not be computed is left out of the table."""
    columns = {title: key for title, key in TABLE.items() if any(key in row for row in scores.values())}
    lines = ["".join([f"{'':14s}", *(f"{title:>8s}" for title in columns)])]
    for row, values in scores.items():
        found = [values.get(key) for key in columns.values()]
        cells = [f"{'-':>8s}" if value is None else f"{100 * value:8.1f}" for value in found]
        lines.append("".join([f"{TITLES[row]:14s}", *cells]))
    return "\n".join(lines)


def read_demo(out: Path) -> Source:
    """Both models' last results on test; first the images in which the second model has more right object words.

    There a word that a caption repeats counts once, so that the page does not begin with repetitions.
    """
    from xmodaler_ssattn.report.source import read_source
    from xmodaler_ssattn.report.verdicts import RIGHT, WRONG

    source = read_source([last_results_file(out / row) for row in ROWS], [TITLES[row] for row in ROWS], out / "data")
    first, second = source.models

    def gain(image_id: int) -> tuple[int, int]:
        before, after = judged(source, first, image_id), judged(source, second, image_id)
        right = [len({word for word, verdict in found if verdict == RIGHT}) for found in (before, after)]
        return right[1] - right[0], -sum(verdict == WRONG for _, verdict in after)

    return dataclasses.replace(source, image_ids=tuple(sorted(source.image_ids, key=gain, reverse=True)))


def judged(source: Source, model: Model, image_id: int) -> list[tuple[str, str]]:
    """(word, RIGHT or WRONG) of each object word of the model's caption whose class is annotated in the image."""
    from xmodaler_ssattn.report.verdicts import ABSENT, verdicts

    caption, objects = model.images[image_id].grounded, model.results.object_words
    words = [word.text for word in getattr(caption, "words", ()) if word.text in objects]
    found = zip(words, verdicts(caption, objects, source.truths[image_id].boxes))
    return [(word, verdict) for word, verdict in found if verdict != ABSENT]


def right_boxes(source: Source) -> str:
    """For each model, how many of the judged boxes are right."""
    from xmodaler_ssattn.report.verdicts import RIGHT

    lines = ["Boxes of object words that are right, of those whose class is annotated in the picture:"]
    for model in source.models:
        found = [verdict for image_id in source.image_ids for _, verdict in judged(source, model, image_id)]
        share = f" ({found.count(RIGHT) / len(found):.0%})" if found else ""
        lines.append(f"  {model.name:14s}{found.count(RIGHT)} of {len(found)}{share}")
    return "\n".join(lines)


def draw_pictures(source: Source, out: Path) -> int:
    """Draw both models' captions of the first images side by side into ``out/pictures``; returns their number."""
    from PIL import Image

    from xmodaler_ssattn.files import atomic_path
    from xmodaler_ssattn.report.figure import draw_captions

    object_words = {word: name for model in source.models for word, name in model.results.object_words.items()}
    shown = source.image_ids[:PICTURES_SHOWN]
    for old in (out / "pictures").glob("*.png"):  # from an earlier run
        if old.stem.isdecimal() and int(old.stem) not in shown:
            old.unlink()
    for image_id in shown:
        both = {model.name: model.images[image_id].grounded for model in source.models}
        with Image.open(picture_file(out / "data", image_id)) as picture:
            sheet = draw_captions(picture, both, object_words)
        with atomic_path(out / "pictures" / f"{image_id}.png") as temporary:
            sheet.save(temporary)
    return len(shown)


def write_report(source: Source, out: Path) -> Path:
    """Write the page of both models into ``out/page``; returns the file to open."""
    from xmodaler_ssattn.report.curves import read_run
    from xmodaler_ssattn.report.page import write_page

    runs = [read_run(out / row, TITLES[row]) for row in ROWS]
    title = f"Sample scenes, first those in which {TITLES[ROWS[1]]} has more words with a right box"
    return write_page(out / "page", source, images=out / "data" / "Images", runs=runs, title=title)


def picture_file(data: Path, image_id: int) -> Path:
    """The picture of an image in the official layout, with any suffix."""
    found = sorted((data / "Images").glob(f"{image_id}.*"))
    if not found:
        raise UserError(f"{data / 'Images'}: there is no picture {image_id}.*.")
    return found[0]
