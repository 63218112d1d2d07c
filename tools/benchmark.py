"""Measure training, decoding and loading at the paper's sizes, in comparison with stock X-modaler on the same data.

    python tools/benchmark.py [WHAT ...] [--captions FILE] [--json OUT]

step      one training step (forward, losses, backward, clipping, optimiser), and its share of the machine's peaks
decode    beam-3 decoding of 32 images; with --captions by an Up-Down model that is first trained on them for 100
          steps and therefore ends its sentences, else with random weights, whose captions never end
memory    bytes that the backward pass keeps of a training step (saved-tensor hooks; the allocator on a GPU)
baseline  each method against our own Up-Down: alternating steps, with 95 % intervals, and kept memory
systems   the same for the other systems (docs/methods.md)
real      100 training steps on the words of --captions, vocabulary by GVD's rule, regions filled with noise
loading   the share of the time that the hosts' own trainers wait for data from a region file
largest   images per second at 8, 16, 32, ... images per step, up to the limits of --memory and --patience

Stock X-modaler's Up-Down is included when XMODALER_HOME is the path of a clone, and in ``step``, ``memory`` and
``largest`` also ImageCaptioning.pytorch's when IMAGECAPTIONING_HOME is the path of a clone. Every contestant runs in
its own process and does its steps in turn with the others (A B C A B C ...), so that all have the same conditions; the
table has medians, and ratios of medians. The machine's product peaks and its copy rate are measured in the same run.

Real captions: --captions takes a JSON {image_id: {"captions": [...]}} (or .json.gz). All except ``real`` use only their
lengths; without the file, lengths are sampled (mean 12.4, as on Flickr30k).

The parts are in benchmarks/: contestants.py (the processes), data.py (noise at the paper's sizes), measures.py (peaks,
operations, memory, medians), loading.py. Other programs are benchmark_store.py (reading region features),
benchmark_scores.py (the grounding metric) and benchmark_precision.py (the quality with bfloat16).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from benchmarks.contestants import DEVICE, KINDS, ROOT, Contestant, Ours, in_turn
from benchmarks.data import CAPTIONS, MOST_WORDS, caption_lengths, pad, read_captions, write_vocabulary
from benchmarks.loading import loading
from benchmarks.measures import machine, paired_ratio, peak_mib, rates, table

FUSED_LOSS = ["LOSSES.NAMES", "['FusedCrossEntropy','GroundingLoss']"]
CAPTURED = ["MODEL.CAPTURE_GRAPHS", "True"]
WAYS = {
    "ours, SS attention, float32": {},
    "ours, SS attention, bf16": {"amp": True},
    "ours, float32, 25 % sampled words": {"ss": 0.25},
    "ours, float32, fused loss": {"set": FUSED_LOSS},
    "ours, bf16, fused loss": {"amp": True, "set": FUSED_LOSS},
    "ours, float32, shared dropout": {"set": ["MODEL.SHARE_REGION_DROPOUT", "True"]},
    "ours, bf16, captured": {"amp": True, "set": CAPTURED},
    "ours, bf16, captured, 25 % sampled": {"amp": True, "ss": 0.25, "set": CAPTURED},
}
"""Ways of training: name -> options of ``Ours``; those with captured graphs need a GPU."""
WORDS = ["LOSSES.NAMES", "['CrossEntropy','WordAttentionLoss']"]
METHODS = {
    "Up-Down": {"row": "updown"},
    "Up-Down + words": {"row": "updown", "set": WORDS},
    "SS attention + grounding loss": {},
    "SS attention + words": {"row": "ss_attn_wo_gnd", "set": WORDS},
    "product + words on gamma": {
        "row": "ss_attn_wo_gnd",
        "set": [*WORDS, "MODEL.SS_ATTENTION.FUSION", "log", "LOSSES.WORD_ATTENTION.ATTENTION", "gamma"],
    },
    "beta of the state + grounding loss": {"set": ["MODEL.SS_ATTENTION.STATE_DIM", "32"]},
}
"""What is trained: name -> options of ``Ours``; the first is the baseline."""
SYSTEMS = {
    "Up-Down": {"row": "updown"},
    "GVD": {"row": "gvd"},
    "GVD, unsupervised": {"row": "gvd_unsupervised"},
    "POS-SCAN (pairs of the matcher)": {"row": "updown", "set": WORDS},
    "after Prophet attention": {"row": "prophet"},
    "Cyclical": {"row": "cyclical"},
    "after Distributed attention": {"row": "distributed"},
    "GCN-LSTM": {"row": "gcn_lstm"},
    "LSTM-A": {"row": "lstm_a"},
    "NBT-style": {"row": "nbt_style"},
}
STOCK = "stock Up-Down, float32"
PEER = "ImageCaptioning.pytorch, Up-Down, float32"
MEMORY_SHARE = 0.8  # of the memory that is free at the start


class Benchmark:
    """One run: the common settings of all contestants, and the report."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder
        self.lengths = caption_lengths(args.captions)[:20000]
        self.common = {"vocab": str(write_vocabulary(folder)), "lengths": self.lengths, "threads": args.threads}
        self.stock = bool(os.environ.get("XMODALER_HOME"))
        self.facts = machine(args.threads)
        self.report = {"machine": self.facts, "batch": args.batch}
        if not self.stock:
            print("XMODALER_HOME is not set: stock X-modaler is not included.")

    def start(self, name: str, **options) -> Contestant:
        kind = next((kind for kind in KINDS if name.startswith(kind)), "ours")
        return Contestant(name, **{"kind": kind, "batch": self.args.batch, **self.common, **options})

    def ways(self, *left_out: str) -> dict[str, dict]:
        """The others, if available, and our ways of training without those that have a word of ``left_out``."""
        ours = {name: way for name, way in WAYS.items() if not any(word in name for word in left_out)}
        peer = {PEER: {}} if os.environ.get("IMAGECAPTIONING_HOME") else {}
        return ({STOCK: {}} if self.stock else {}) | peer | ours

    def group(self, ways: dict[str, dict], **options) -> list[Contestant]:
        return [self.start(name, **options, **way) for name, way in ways.items()]

    def step(self) -> None:
        if self.stock:
            weights = str(self.folder / "stock.pth")
            pair = [self.start("stock", exact=True, save=weights)]
            pair.append(self.start("ours", exact=True, row="updown", weights=weights))
            losses = [c.ask("loss") for c in pair]
            print(f"\nloss with equal weights, no dropout: stock {losses[0]:.6f}, ours {losses[1]:.6f}")
            self.report["loss"] = losses
            close(pair)
        print(f"\ntraining step, {self.args.batch} images x {CAPTIONS} captions:")
        group = self.group(self.ways(*([] if DEVICE == "cuda" else ["captured"])))
        times = in_turn(group, "step", self.args.rounds, 3)
        self.report["step"] = table(times, "s")
        print("\nof the machine's peaks:")
        for contestant in group:
            name, kind = contestant.name, "bfloat16" if contestant.options.get("amp") else "float32"
            peak = contestant.ask("peak")  # before counting, which needs memory itself
            # A replayed graph dispatches no countable operations, so the same step is counted without a graph.
            plain = contestant
            if contestant.options.get("set") == CAPTURED:
                plain = self.start(name, **{**contestant.options, "set": []})
            seconds, work = statistics.median(times[name]), plain.ask("work")
            self.report["step"][name] |= rates(name, seconds, self.args.batch, work, peak, self.facts, kind)
            if plain is not contestant:
                plain.close()
        close(group)

    def decode(self) -> None:
        learned = {}
        if self.args.captions:
            size = real_sentences(self.args.captions, 100, self.folder, row="updown", exact=True)["vocabulary"]
            learned = {"vocab_size": size, "weights": str(self.folder / "learned.pth"), "row": "updown", "exact": True}
            learned |= {"vocab": str(self.folder / "vocabulary.txt")}
        print(f"\nbeam-3 decoding of 32 images ({'learned' if learned else 'random'} weights):")
        ways = ({STOCK: {}} if self.stock else {}) | {"ours, float32": {}, "ours, bf16": {"amp": True}}
        group = self.group(ways, **{"batch": 32, **learned})
        self.report["decode"] = table(in_turn(group, "decode", self.args.rounds, 1), "s")
        close(group)

    def memory(self) -> None:
        print("\nkept for the backward pass of a training step:")
        group = self.group(self.ways("sampled", "captured"))
        self.report["memory"] = table({c.name: [c.ask("memory") / 2**20] for c in group}, "MiB")
        close(group)

    def baseline(self) -> None:
        print("\neach method against our Up-Down, same step:")
        self._against_the_first("baseline", METHODS, max(30, self.args.rounds))

    def systems(self) -> None:
        print("\nthe other systems against our Up-Down, same step:")
        self._against_the_first("systems", SYSTEMS, max(10, self.args.rounds))

    def _against_the_first(self, what: str, ways: dict[str, dict], rounds: int) -> None:
        group = self.group(ways)
        times = in_turn(group, "step", rounds, 3)
        base = group[0].name
        found = self.report[what] = table(times, "s")
        for name in list(ways)[1:]:
            found[name]["paired_ratio"] = paired_ratio({base: times[base], name: times[name]})
        self.report[f"{what}_memory"] = table({c.name: [c.ask("memory") / 2**20] for c in group}, "MiB")
        close(group)

    def real(self) -> None:
        if not self.args.captions:
            raise SystemExit("real needs --captions FILE")
        self.report["real"] = real_sentences(self.args.captions, 100, self.folder)

    def loading(self) -> None:
        args = self.args
        self.report["loading"] = loading(
            self.lengths, threads=args.threads, batch=args.batch, steps=args.steps, folder=args.folder, stock=self.stock
        )

    def largest(self) -> None:
        from xmodaler_ssattn.data.device_cache import free_bytes

        free = (free_bytes(torch.device(DEVICE)) or 0) / 2**20
        budget = self.args.memory * 1024 if self.args.memory else MEMORY_SHARE * free
        print(f"\nlargest batch in {budget / 1024:.1f} GiB, or of {self.args.patience:.0f} s per step:")
        ways = self.ways("sampled", "captured", "shared", "bf16, fused")
        self.report["largest"] = {name: self._grow(name, budget, options) for name, options in ways.items()}

    def _grow(self, name: str, budget_mib: float, options: dict) -> dict:
        """Double the batch until its memory, predicted from the last two sizes, or its time exceeds the limit."""
        rows: dict[int, dict] = {}
        images, why = 8, ""
        while not why:
            found = self._at(name, images, options)
            if found is None or found["peak_mib"] > budget_mib:
                why = "memory"
                break
            rows[images] = found
            before = rows.get(images // 2, {"peak_mib": 0.0})["peak_mib"]
            # The first size includes weights and libraries; from the second size on, the growth is that of the batch.
            growth = 2 * (found["peak_mib"] - before) if before else 0.0
            if found["peak_mib"] + growth > budget_mib:
                why = "memory"
            elif 2 * found["seconds"] > self.args.patience:
                why = "patience"
            images *= 2
        if not rows:
            print(f"  {name:38s} not even 8 images fit")
            return {"stopped_by": why}
        largest = max(rows)
        row = rows[largest]
        print(
            f"  {name:38s} {largest:6d} images  {row['seconds']:8.3f} s per step  "
            f"{row['images_a_second']:8.1f} images/s  peak {row['peak_mib']:8.0f} MiB  (stopped by {why})"
        )
        return {"largest": largest, "stopped_by": why, "sizes": rows}

    def _at(self, name: str, images: int, options: dict) -> dict | None:
        """Three steps at that size; None when there is not enough memory."""
        try:
            contestant = self.start(name, **{**options, "batch": images})
            seconds = [contestant.ask("step") for _ in range(4)][1:]
            if "out of memory" in seconds:
                contestant.close()
                return None
            peak = contestant.ask("peak")
        except EOFError:  # killed by the system
            return None
        contestant.close()
        median = statistics.median(seconds)
        return {"seconds": median, "images_a_second": images / median, "peak_mib": peak}


def real_sentences(path: str, steps: int, folder: Path, **options) -> dict:
    """Train on real sentences, in this process; returns losses, seconds per step and peak memory.

    The vocabulary and the weights are left in ``folder`` as vocabulary.txt and learned.pth.
    """
    from xmodaler_ssattn.data import vocabulary

    images = read_captions(path)
    words = vocabulary.build_vocabulary(Counter(word for image in images for caption in image for word in caption))
    vocabulary.write_vocabulary(folder / "vocabulary.txt", words)
    options |= {"vocab": str(folder / "vocabulary.txt"), "batch": 8, "lengths": [5], "vocab_size": words.model_size}
    model = Ours(options)
    rng = random.Random(0)
    losses, seconds = [], []
    for _ in range(steps):
        captions = [words.encode(c[:MOST_WORDS]) for image in rng.sample(images, 8) for c in image[:CAPTIONS]]
        tokens, targets = (part.to(DEVICE) for part in pad(captions))
        model.data |= {"tokens": tokens, "targets": targets, "lengths": [len(caption) + 1 for caption in captions]}
        start = time.perf_counter()
        parts = model.loss_parts()
        model.optimizer.zero_grad()
        sum(parts.values()).backward()
        model.optimizer.step()
        losses.append(float(next(iter(parts.values())).detach()))
        seconds.append(time.perf_counter() - start)
    torch.save(model.model.state_dict(), folder / "learned.pth")
    found = {"vocabulary": words.model_size, "loss": losses, "seconds": statistics.median(seconds)}
    found["peak_mib"] = peak_mib()
    print(
        f"\n{steps} steps on {len(images)} images' captions, vocabulary {len(words)} words: cross-entropy "
        f"{statistics.mean(losses[:5]):.3f} (first five) -> {statistics.mean(losses[-5:]):.3f} (last five); "
        f"{found['seconds']:.3f} s per step (median); peak memory {found['peak_mib']:.0f} MiB"
    )
    return found


def close(contestants: list[Contestant]) -> None:
    for contestant in contestants:
        contestant.close()


def main() -> None:
    names = [name for name in vars(Benchmark) if f"\n{name} " in __doc__]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what",
        nargs="*",
        default=["step", "decode", "memory", "baseline"],
        metavar="WHAT",
        help=f"any of {', '.join(names)} (default: step, decode, memory, baseline)",
    )
    parser.add_argument("--captions", help="real captions, for their lengths")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=8, help="images of a training step (default: 8)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20, help="loading: steps to time (default: 20)")
    parser.add_argument("--folder", help="loading: where to make its files, 4.2 MB per step (default: the system's)")
    parser.add_argument("--memory", type=float, help="largest: GiB to use at most (default: 80 %% of the free memory)")
    parser.add_argument("--patience", type=float, default=30, help="largest: seconds per step at most (default: 30)")
    parser.add_argument("--json", help="also write the numbers here")
    args = parser.parse_args()
    unknown = [name for name in args.what if name not in names]
    if unknown:
        raise SystemExit(f"unknown benchmark {', '.join(unknown)}; choose from {', '.join(names)}")
    # The host of this process; the contestants choose their own.
    os.environ["XMODALER_SSATTN_HOST"] = "embedded"
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(args, Path(folder))
        for what in args.what:
            getattr(benchmark, what)()
    if args.json:
        Path(args.json).write_text(json.dumps(benchmark.report, indent=2) + "\n")


if __name__ == "__main__":
    main()
