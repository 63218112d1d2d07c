"""How long training waits for its data: the host's own trainer and loader on a region file at the paper's sizes.

Each run is a process of its own, because a process has one host. It trains a few steps on noise and reads what the
trainer itself notes of every step: the seconds that it took and those that it waited for the next batch. How long
``preprocess_batch`` took, that is collating and starting the transfer, is measured around the call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from benchmark_data import CAPTIONS, write_training_files

ROOT = Path(__file__).resolve().parents[1]
WARMUP = 3
# 50 epochs of 29,000 images, 8 a step.
IMAGES_OF_THE_PAPER = 50 * 3625 * 8


def loading(lengths: list[int], *, threads: int, batch: int, steps: int, folder: str | None, stock: bool) -> dict:
    """Print and return, for every way of loading, the share of the time that a step waits for its data."""
    import torch

    fast = ["SOLVER.AMP", "True", "MODEL.CAPTURE_GRAPHS", "True"] if torch.cuda.is_available() else []
    ways = [("embedded", cache, workers) for workers in (0, 4) for cache in ("none", "device")]
    ways += [("upstream", cache, 4) for cache in ("none", "device")] if stock else []
    print(f"\nwaiting for data, {batch} images x {CAPTIONS} captions, {steps} steps of the host's own trainer:")
    rows = {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        data = Path(name)
        write_training_files(data, batch * (steps + WARMUP), lengths)
        for host, cache, workers in ways:
            label = f"{host} host, cache {cache}, {workers} workers"
            options = {
                "host": host,
                "data": name,
                "threads": threads,
                "set": [
                    "DATALOADER.CACHE",
                    cache,
                    "DATALOADER.NUM_WORKERS",
                    str(workers),
                    "DATALOADER.TRAIN_BATCH_SIZE",
                    str(batch),
                    *fast,
                ],
            }
            row = rows[label] = _in_a_process(options)
            row["paper_hours"] = row["step"] / batch * IMAGES_OF_THE_PAPER / 3600
            print(
                f"  {label:38s} step {row['step']:7.4f} s  waited {row['waited']:7.4f} s ({row['share_waited']:5.1%})  "
                f"collate and transfer {row['collated']:7.4f} s ({row['share_collated']:5.1%})  "
                f"as many images as the paper's 50 epochs: {row['paper_hours']:6.2f} h"
            )
    return rows


def _in_a_process(options: dict) -> dict:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("XMODALER_SSATTN")}
    environ |= {"XMODALER_SSATTN_HOST": options["host"]}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), environ.get("PYTHONPATH", "")])
    if options["host"] == "upstream":
        environ["PYTHONPATH"] = os.pathsep.join([os.environ["XMODALER_HOME"], environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(options)],
        env=environ,
        cwd=options["data"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"loading, {options}:\n{(done.stdout + done.stderr)[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def train(options: dict) -> dict:
    """In the process: train over the file once; means over the steps after the first few."""
    import torch

    sys.path.append(str(ROOT / "tests" / "standins"))
    from xmodaler_ssattn import host
    from xmodaler_ssattn.cli.configuring import load_config

    torch.set_num_threads(options["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = str(Path(options["data"]) / f"out_{time.time_ns()}")
    opts = ["DATASETS.VAL", "", "DATASETS.TEST", "", "SOLVER.EPOCH", "1", "OUTPUT_DIR", out, *options["set"]]
    cfg = load_config(str(ROOT / "configs/flickr30k_entities/ss_attn.yaml"), opts, data=options["data"], device=device)
    cfg.freeze()
    host.default_setup(cfg, Namespace(config_file="", eval_only=False))
    trainer = host.build_engine(cfg)
    trainer.checkpointer.save = lambda *_, **__: None  # 600 MB that nobody reads
    collated = []
    preprocess = trainer.model.preprocess_batch

    def timed(samples):
        start = time.perf_counter()
        batch = preprocess(samples)
        collated.append(time.perf_counter() - start)
        return batch

    trainer.model.preprocess_batch = timed
    trainer.train()
    histories = {}
    for name in ("time", "data_time"):
        # IterationTimer notes no time for the first steps: what counts is the tail of all three.
        histories[name] = [value for value, _ in trainer.storage.history(name).values()]
    steps = min(len(histories["time"]), len(collated) - WARMUP)
    step, waited, collate = (sum(v[-steps:]) / steps for v in (histories["time"], histories["data_time"], collated))
    return {
        "step": step,
        "waited": waited,
        "collated": collate,
        "share_waited": waited / step,
        "share_collated": collate / step,
        "steps": steps,
    }


if __name__ == "__main__":
    print("\n" + json.dumps(train(json.loads(sys.argv[1]))))
