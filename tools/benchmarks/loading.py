"""Measure how long training waits for data: the host's trainer and loader on a region file at the paper's sizes.

Each run is a separate process, because a process has one host. It trains a few steps on noise and reads the trainer's
own records of every step: its seconds, and the seconds of waiting for the next batch. The time of
``preprocess_batch``, that is, of collating and starting the transfer, is measured around the call.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import torch
from benchmarks.contestants import DEVICE, ROOT, STANDINS, process
from benchmarks.data import CAPTIONS, VOCAB, write_training_files

WARMUP = 3
# 50 epochs of 29,000 images, 8 per step.
IMAGES_OF_THE_PAPER = 50 * 3625 * 8


def loading(lengths: list[int], *, threads: int, batch: int, steps: int, folder: str | None, stock: bool) -> dict:
    """Print and return, for every way of loading, the share of the time that a step waits for its data."""
    fast = ["SOLVER.AMP", "True", "MODEL.CAPTURE_GRAPHS", "True"] if DEVICE == "cuda" else []
    ways = [("embedded", cache, workers) for workers in (0, 4) for cache in ("none", "device")]
    ways += [("upstream", cache, 4) for cache in ("none", "device")] if stock else []
    print(f"\nwaiting for data, {batch} images x {CAPTIONS} captions, {steps} steps of the host's own trainer:")
    rows = {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        write_training_files(Path(name), batch * (steps + WARMUP), lengths)
        for host, cache, workers in ways:
            label = f"{host} host, cache {cache}, {workers} workers"
            opts = ["DATALOADER.CACHE", cache, "DATALOADER.NUM_WORKERS", str(workers)]
            opts += ["DATALOADER.TRAIN_BATCH_SIZE", str(batch), *fast]
            options = {"data": name, "threads": threads, "set": opts}
            done = subprocess.run(
                **process("benchmarks.loading", options, host), cwd=name, capture_output=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"loading, {label}:\n{(done.stdout + done.stderr)[-3000:]}")
            row = rows[label] = json.loads(done.stdout.splitlines()[-1])
            row["paper_hours"] = row["step"] / batch * IMAGES_OF_THE_PAPER / 3600
            print(
                f"  {label:38s} step {row['step']:7.4f} s  waited {row['waited']:7.4f} s ({row['share_waited']:5.1%})  "
                f"collate and transfer {row['collated']:7.4f} s ({row['share_collated']:5.1%})  "
                f"as many images as the paper's 50 epochs: {row['paper_hours']:6.2f} h"
            )
    return rows


def train(options: dict) -> dict:
    """In the process: train over the file once; means over the steps after the first few."""
    sys.path.append(STANDINS)
    from xmodaler_ssattn import host
    from xmodaler_ssattn.cli.configuring import load_config

    torch.set_num_threads(options["threads"])
    out = str(Path(options["data"]) / f"out_{time.time_ns()}")
    opts = ["DATASETS.VAL", "", "DATASETS.TEST", "", "SOLVER.EPOCH", "1", "OUTPUT_DIR", out]
    opts += ["MODEL.VOCAB_SIZE", str(VOCAB), *options["set"]]
    cfg = load_config(str(ROOT / "configs/flickr30k_entities/ss_attn.yaml"), opts, data=options["data"], device=DEVICE)
    cfg.freeze()
    host.default_setup(cfg, Namespace(config_file="", eval_only=False))
    trainer = host.build_engine(cfg)
    trainer.checkpointer.save = lambda *_, **__: None  # 600 MB that are not needed
    collated = []
    preprocess = trainer.model.preprocess_batch

    def timed(samples):
        start = time.perf_counter()
        batch = preprocess(samples)
        collated.append(time.perf_counter() - start)
        return batch

    trainer.model.preprocess_batch = timed
    trainer.train()
    # IterationTimer does not record the first steps, so the last steps of all three are used.
    times, waits = ([value for value, _ in trainer.storage.history(name).values()] for name in ("time", "data_time"))
    steps = min(len(times), len(collated) - WARMUP)
    step, waited, collate = (sum(values[-steps:]) / steps for values in (times, waits, collated))
    shares = {"share_waited": waited / step, "share_collated": collate / step}
    return {"step": step, "waited": waited, "collated": collate, **shares, "steps": steps}


if __name__ == "__main__":
    print("\n" + json.dumps(train(json.loads(sys.argv[1]))))
