"""``xmodaler demo``: from nothing to a trained model, captions with boxes, and scores, in about a minute."""

from __future__ import annotations

import argparse
import logging
import time
from importlib import resources
from pathlib import Path

from xmodaler_ssattn.cli import train
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.errors import UserError

ROWS = ("updown", "ss_attn")
TITLES = {"updown": "Up-Down", "ss_attn": "SS attention"}
# What the table shows, in the order of the paper's Table 1; scores are fractions, the table is in percent.
TABLE = (
    ("B@1", "Bleu_1"),
    ("B@4", "Bleu_4"),
    ("M", "METEOR"),
    ("R", "ROUGE_L"),
    ("C", "CIDEr"),
    ("S", "SPICE"),
    ("F1_all", "F1_all"),
    ("F1_loc", "F1_loc"),
)
PICTURES_SHOWN = 12


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="draw sample scenes, train Up-Down and SS attention on them, caption and score",
        description="Needs nothing but this package: draws pictures, trains two small models, and shows what they say.",
    )
    parser.add_argument("--out", default="demo", metavar="DIR", help="folder for everything (default: demo)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the training runs (default: 1)")
    parser.add_argument("--images", type=int, default=1500, help="pictures to draw (default: 1500)")
    parser.add_argument("--epochs", type=int, help="epochs of each model (default: the sample config's)")
    parser.add_argument("--device", help="cpu or cuda; default: cuda when there is one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from xmodaler_ssattn import host

    started = time.monotonic()
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file, expected a folder.")
    print(host.describe(), flush=True)
    scores = {row: train_row(row, out, args) for row in ROWS}
    table = format_table(scores)
    pictures = draw_pictures(out)
    print(f"\nScores on the test scenes, in percent:\n\n{table}")
    print(f"\nEverything is in {out.resolve()}:")
    print("  data/                     pictures, annotations in the official layout, regions")
    print("  updown/ and ss_attn/      model_final.pth, config.yaml, metrics.json, results/*.json, log.txt")
    print(f"  pictures/                 {pictures} test pictures, both models' captions and boxes")
    print(f"Done in {time.monotonic() - started:.0f} seconds.")
    return 0


def train_row(row: str, out: Path, args: argparse.Namespace) -> dict[str, float]:
    """Train one model of the sample configs; returns its test scores by their short names."""
    from xmodaler_ssattn import host
    from xmodaler_ssattn.evaluation.results import read_results

    with resources.as_file(resources.files("xmodaler_ssattn.sample") / "configs") as folder:
        opts = ["SEED", str(args.seed), "OUTPUT_DIR", str(out / row), "DATALOADER.SAMPLE_SCENES", str(args.images)]
        if args.epochs is not None:
            opts += ["SOLVER.EPOCH", str(args.epochs), "SOLVER.EVAL_PERIOD", str(args.epochs)]
        config_file = str(folder / f"{row}.yaml")
        cfg = load_config(config_file, opts, data=str(out / "data"), device=args.device)
    train.prepare_sample(cfg)
    print(f"\n{TITLES[row]}: {cfg.SOLVER.EPOCH} epochs on {cfg.MODEL.DEVICE}.", flush=True)
    run_args = argparse.Namespace(config_file="", resume=False, eval_only=False)
    host.launch(train.run_host, 1, args=(run_args, cfg))
    # One process trains one model after the other: the next one's log must not go into this one's file.
    logging.shutdown()
    results = read_results(out / row / "results" / f"test_epoch_{cfg.SOLVER.EPOCH}.json")
    return dict(results.header["scores"])


def format_table(scores: dict[str, dict[str, float]]) -> str:
    """Both models side by side; a score that could not be computed is left out of the table."""
    columns = [(title, key) for title, key in TABLE if any(key in row for row in scores.values())]
    lines = ["".join([f"{'':14s}", *(f"{title:>8s}" for title, _ in columns)])]
    for row, values in scores.items():
        cells = [f"{100 * values[key]:8.1f}" if values.get(key) is not None else f"{'-':>8s}" for _, key in columns]
        lines.append("".join([f"{TITLES[row]:14s}", *cells]))
    return "\n".join(lines)


def draw_pictures(out: Path) -> int:
    """Draw both models' test captions side by side into ``out/pictures``; returns how many."""
    from PIL import Image

    from xmodaler_ssattn.evaluation.results import read_results
    from xmodaler_ssattn.files import atomic_path
    from xmodaler_ssattn.report.overlay import draw_captions

    by_row = {}
    for row in ROWS:
        last = max((out / row / "results").glob("test_epoch_*.json"), key=lambda path: path.stat().st_mtime)
        by_row[row] = read_results(last)
    captions = {row: {image.image_id: image.grounded for image in results.images} for row, results in by_row.items()}
    shown = list(captions[ROWS[0]])[:PICTURES_SHOWN]
    for image_id in shown:
        both = {TITLES[row]: captions[row][image_id] for row in ROWS}
        positions = {
            TITLES[row]: [
                i for i, word in enumerate(captions[row][image_id].words) if word.text in by_row[row].object_words
            ]
            for row in ROWS
        }
        with Image.open(picture_file(out / "data", image_id)) as picture:
            sheet = draw_captions(picture, both, positions)
        with atomic_path(out / "pictures" / f"{image_id}.png") as temporary:
            sheet.save(temporary)
    return len(shown)


def picture_file(data: Path, image_id: int) -> Path:
    """The picture of an image in the official layout, whatever its suffix."""
    found = sorted((data / "Images").glob(f"{image_id}.*"))
    if not found:
        raise UserError(f"{data / 'Images'}: there is no picture {image_id}.*.")
    return found[0]
