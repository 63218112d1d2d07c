"""Measure the speed of reading region features: our store, one sequential read, and a folder of npz files.

    python tools/benchmark_store.py --images 1000 --folder /some/disk

Makes a region file and npz files with the same random content at the paper's sizes (K 36, D 2048, C 1601), reads all
content several times in turn from a warm cache, and prints medians. The bytes are those of features, boxes and class
probabilities.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from benchmarks.data import write_regions

from xmodaler_ssattn.packs.formats.xmodaler_npz import export_npz
from xmodaler_ssattn.packs.store import RegionStore


def read_sequentially(path: Path, chunk: int) -> None:
    """Read the whole file, ``chunk`` bytes at a time, each into new memory, as samples need it."""
    with open(path, "rb", buffering=0) as file:
        while file.read(chunk):
            pass


def read_store(store: RegionStore, order: list[int]) -> None:
    for image_id in order:
        store.read(image_id)


def read_npz(folder: Path, order: list[int]) -> None:
    for image_id in order:
        with np.load(folder / f"{image_id}.npz") as content:
            for key in ("features", "boxes", "cls_prob", "image_w", "image_h"):
                content[key]


def memory_of_workers(path: Path, order: list[int], workers: int) -> dict[str, float]:
    """Read everything in several processes at once; private and shared memory of each, in MB."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    store = RegionStore(path)
    children = [context.Process(target=_worker, args=(store, order, queue)) for _ in range(workers)]
    for child in children:
        child.start()
    answers = [queue.get() for _ in children]
    for child in children:
        child.join()
    return {name: max(answer[name] for answer in answers) for name in answers[0]}


def _worker(store: RegionStore, order: list[int], queue: multiprocessing.SimpleQueue) -> None:
    read_store(store, order)
    found = {"peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    rollup = Path("/proc/self/smaps_rollup")
    if rollup.exists():
        rows = dict(line.split(":", 1) for line in rollup.read_text().splitlines()[1:])
        private = sum(int(rows[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
        found["private"] = private / 1024
    queue.put(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1601)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where to make the files (default: the system's temporary folder)")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    if args.folder:
        os.makedirs(args.folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        path = write_regions(Path(name) / "regions.h5", args.images, args.regions, args.dim, args.classes)
        npz = Path(name) / "npz"
        export_npz(RegionStore(path), npz)
        row = args.regions * (args.dim + args.classes + 4) * 4
        total = row * args.images
        order = list(range(args.images))
        random.Random(0).shuffle(order)
        store = RegionStore(path)
        ways = {
            "sequential read": lambda: read_sequentially(path, row),
            "store, random order": lambda: read_store(store, order),
            "npz folder, random order": lambda: read_npz(npz, order),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds + 1):  # in turn, so that all have the same load; the first round warms the cache
            for way, work in ways.items():
                start = time.perf_counter()
                work()
                times[way].append(time.perf_counter() - start)
        median = {way: statistics.median(values[1:]) for way, values in times.items()}
        for way, value in median.items():
            print(f"{way:26s} {args.images / value:8.0f} images/s  {total / value / 1e9:6.2f} GB/s")
        share = median["sequential read"] / median["store, random order"]
        factor = median["npz folder, random order"] / median["store, random order"]
        print(
            f"store: {100 * share:.0f} % of the sequential rate, {factor:.1f} times the npz folder; "
            f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )
        memory = memory_of_workers(path, order, args.workers)
        print(
            f"{args.workers} workers reading all {total / 1e6:.0f} MB: "
            + ", ".join(f"{name} {value:.0f} MB" for name, value in memory.items())
            + " each at most"
        )
        if args.json:
            figures = {
                "seconds": median,
                "share_of_sequential": share,
                "times_npz": factor,
                "bytes": total,
                "worker_memory_mb": memory,
                "load": os.getloadavg()[0],
            }
            Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
