"""Measure training and decoding at the paper's sizes, beside stock X-modaler on the same data.

    python tools/benchmark.py [step] [decode] [memory] [baseline] [real] [--captions FILE] [--json OUT]

Stock X-modaler's Up-Down takes part when XMODALER_HOME points to a clone; on a machine without CUDA its
``.cuda()`` calls are answered by the identity, in its own process. Every contestant lives in a process of
its own and does one step when told to, in turn (A B C A B C ...), so that all see the same machine; the
table gives medians, and ratios of medians. The product peak of the machine is measured in the same run.

step      one training step (forward, losses, backward, clipping, optimiser): stock, ours float32, ours bf16
decode    beam-3 decoding of 32 images; with --captions by an Up-Down that has first learned from them for 100
          steps and so knows how to end a sentence, else with random weights, whose captions never end
memory    bytes that the backward pass keeps of a training step (saved-tensor hooks; the allocator on a GPU)
baseline  SS attention + grounding loss against our own Up-Down, alternating steps, with a 95 % interval
real      100 training steps on the words of --captions, vocabulary by GVD's rule, regions filled with noise

Real captions: --captions takes a JSON {image_id: {"captions": [...]}} (or .json.gz). All but ``real`` use
their lengths alone; without the file lengths are drawn (mean 12.4, as on Flickr30k).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VOCAB, REGIONS, FEATURES, CLASSES, CAPTIONS = 8640, 36, 2048, 1601, 5


# --- the contestants, each in its own process ---------------------------------------------------------------------
def draw_batch(batch: int, lengths: list[int], device) -> dict:
    """The same arrays for everybody: features, boxes, classes, tokens and targets of ``batch`` images."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rng = random.Random(0)
    captions = [[rng.randrange(1, VOCAB) for _ in range(n)] for n in rng.choices(lengths, k=batch * CAPTIONS)]
    width = max(map(len, captions)) + 1
    tokens, targets = torch.zeros(len(captions), width, dtype=torch.long), torch.full((len(captions), width), -1)
    for row, words in enumerate(captions):
        tokens[row, 1 : len(words) + 1] = torch.tensor(words)
        targets[row, : len(words) + 1] = torch.tensor([*words, 0])
    corners = torch.rand(batch, REGIONS, 2, generator=generator) * 0.6
    p = torch.cat([corners, corners + 0.3], -1)
    return {
        "feats": torch.randn(batch, REGIONS, FEATURES, generator=generator).relu(),
        "boxes": p * 500,
        "p": torch.cat([p[..., [0, 2, 1, 3]], torch.full((batch, REGIONS, 1), 0.09)], -1),
        "c": torch.randn(batch, REGIONS, CLASSES, generator=generator).mul(3).softmax(-1),
        "sigma": (torch.rand(batch, 1, REGIONS, generator=generator) < 0.1).float(),
        "tokens": tokens.to(device),
        "targets": targets.to(device),
        "lengths": [len(words) + 1 for words in captions],
    }


class Ours:
    """This package on its embedded runtime: Up-Down or SS attention, float32 or bf16."""

    def __init__(self, options: dict):
        import torch

        from xmodaler_ssattn import host
        from xmodaler_ssattn.cli.configuring import load_config

        self.torch, self.options = torch, options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        opts = ["INFERENCE.VOCAB", options["vocab"], "SOLVER.AMP", str(options.get("amp", False))]
        opts += ["MODEL.VOCAB_SIZE", str(options.get("vocab_size", VOCAB))]
        if options.get("exact"):  # stock's function: tanh, no dropout
            opts += ["MODEL.SS_ATTENTION.ACTIVATION", "tanh", "MODEL.PRED_DROPOUT", "0.0"]
            opts += ["MODEL.TOKEN_EMBED.DROPOUT", "0.0", "MODEL.VISUAL_EMBED.DROPOUT", "0.0"]
        row = options.get("row", "ss_attn")
        cfg = load_config(str(ROOT / f"configs/flickr30k_entities/{row}.yaml"), opts, device=self.device)
        torch.manual_seed(0)
        self.model = host.build_model(cfg).train()
        if options.get("weights"):
            self.model.load_state_dict(torch.load(options["weights"], weights_only=True))
        self.optimizer, self.losses = host.build_optimizer(cfg, self.model), host.build_losses(cfg)
        self.kfg = host.kfg
        self.data = draw_batch(options["batch"], options["lengths"], self.device)

    def batch(self, images: int, captions: int) -> dict:
        from xmodaler_ssattn import keys

        data, kfg, torch = self.data, self.kfg, self.torch
        batch = {
            kfg.IDS: list(range(images)),
            kfg.ATT_FEATS: data["feats"],
            kfg.ATT_MASKS: torch.ones(images, REGIONS),
            keys.BOXES_PX: data["boxes"],
            keys.SPATIAL: data["p"],
            keys.CLASS_PROBS: data["c"],
            keys.IMAGE_SIZE: torch.full((images, 2), 500.0),
            keys.SIGMA: data["sigma"],
            keys.HAS_BOXES: torch.ones(images, 1),
        }
        batch = {key: value.to(self.device) if torch.is_tensor(value) else value for key, value in batch.items()}
        batch |= {keys.NUM_REGIONS: [REGIONS] * images, keys.CAPTIONS_PER_IMAGE: captions}
        if captions > 1:
            batch |= {kfg.G_TOKENS_IDS: data["tokens"], kfg.G_TARGET_IDS: data["targets"]}
            batch |= {keys.CAPTION_LENGTHS: data["lengths"], keys.NUM_WORDS: sum(data["lengths"])}
        return batch

    def loss_parts(self) -> dict:
        out = self.model({**self.batch(self.options["batch"], CAPTIONS), self.kfg.SS_PROB: self.options.get("ss", 0.0)})
        parts = {}
        for loss in self.losses:
            parts.update(loss(out))
        return parts

    def loss(self):
        return sum(self.loss_parts().values())

    def decode(self) -> None:
        self.model.eval()
        with self.torch.no_grad():
            # The searcher alone, as the stock model is asked; the greedy companion is an extra of ours.
            self.model.decode_beam_search(self.batch(self.options["batch"], 1), True)


class Stock(Ours):
    """Upstream X-modaler's Up-Down with its own embedding, loop, loss and optimiser."""

    def __init__(self, options: dict):
        import torch

        if not torch.cuda.is_available():
            torch.Tensor.cuda = lambda self, *_, **__: self
        sys.path.insert(0, os.environ["XMODALER_HOME"])
        sys.path.append(str(ROOT / "tests" / "standins"))
        from xmodaler.config import get_cfg, kfg
        from xmodaler.losses import build_losses
        from xmodaler.modeling import add_config, build_model
        from xmodaler.optim import build_optimizer

        self.torch, self.options, self.kfg = torch, options, kfg
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        file = str(Path(os.environ["XMODALER_HOME"]) / "configs/image_caption/updown/updown.yaml")
        cfg = get_cfg()
        add_config(cfg, cfg.load_from_file_tmp(file, allow_unsafe=False))
        cfg.merge_from_file(file, allow_unsafe=False)
        opts = [
            "MODEL.VOCAB_SIZE",
            options.get("vocab_size", VOCAB),
            "MODEL.DEVICE",
            self.device,
            "INFERENCE.VOCAB",
            options["vocab"],
        ]
        if options.get("exact"):
            opts += ["MODEL.PRED_DROPOUT", 0.0, "MODEL.TOKEN_EMBED.DROPOUT", 0.0, "MODEL.VISUAL_EMBED.DROPOUT", 0.0]
        cfg.merge_from_list(opts)
        torch.manual_seed(0)
        self.model = build_model(cfg).train()
        if options.get("weights"):
            self.model.load_state_dict(torch.load(options["weights"], weights_only=True))
        if options.get("save"):
            torch.save(self.model.state_dict(), options["save"])
        self.optimizer, self.losses = build_optimizer(cfg, self.model), build_losses(cfg)
        self.data = draw_batch(options["batch"], options["lengths"], self.device)

    def batch(self, images: int, captions: int) -> dict:
        # As BaseEncoderDecoder.preprocess_batch leaves it: features repeated once a caption.
        data, kfg, torch = self.data, self.kfg, self.torch
        feats = data["feats"].repeat_interleave(captions, 0).to(self.device)
        batch = {kfg.IDS: list(range(images)), kfg.ATT_FEATS: feats}
        batch[kfg.ATT_MASKS] = torch.ones(images * captions, REGIONS, device=self.device)
        if captions > 1:
            batch |= {kfg.G_TOKENS_IDS: data["tokens"].clone(), kfg.G_TARGET_IDS: data["targets"].clone()}
        return batch

    def decode(self) -> None:
        self.model.eval()
        with self.torch.no_grad():
            self.model(self.batch(self.options["batch"], 1), use_beam_search=True, output_sents=True)


def serve(options: dict) -> None:
    """Answer ``step``, ``decode``, ``memory`` and ``loss`` on stdin with a JSON line each."""
    import torch

    torch.set_num_threads(options["threads"])
    contestant = (Stock if options["kind"] == "stock" else Ours)(options)
    cuda = contestant.device == "cuda"

    def timed(work) -> float:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def step() -> None:
        loss = contestant.loss()
        contestant.optimizer.zero_grad()
        loss.backward()
        contestant.optimizer.step()

    print("ready", flush=True)
    for command in map(str.strip, sys.stdin):
        if command == "step":
            answer = timed(step)
        elif command == "decode":
            answer = timed(contestant.decode)
        elif command == "loss":
            answer = float(contestant.loss().detach())
        else:
            answer = kept_bytes(contestant, step, cuda)
        print(json.dumps(answer), flush=True)


def kept_bytes(contestant, step, cuda: bool) -> int:
    """Bytes alive between forward and backward beside weights, gradients and optimiser state."""
    import torch

    if cuda:
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    ours = {p.untyped_storage().data_ptr() for p in contestant.model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = contestant.loss()  # alive while we count, so that no address is used twice
    total = sum(seen.values())
    del kept
    return total


# --- the parent ----------------------------------------------------------------------------------------------------
class Contestant:
    """A process that does one thing when told to."""

    def __init__(self, name: str, **options):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("XMODALER_SSATTN")}
        if options["kind"] == "ours":
            environ |= {"XMODALER_SSATTN_HOST": "embedded"}
        environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), environ.get("PYTHONPATH", "")])
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if options.get("quiet", True) else None,
            text=True,
            env=environ,
        )
        line = ""
        while line.strip() != "ready":
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"{name}: the process ended before it was ready; run its worker by hand to see why")

    def ask(self, command: str) -> float:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        while True:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"{self.name}: the process ended during {command!r}")
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue  # something that the host printed

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def in_turn(contestants: list[Contestant], command: str, rounds: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of each contestant, one after the other in every round."""
    times: dict[str, list[float]] = {c.name: [] for c in contestants}
    for turn in range(warmup + rounds):
        for contestant in contestants:
            seconds = contestant.ask(command)
            if turn >= warmup:
                times[contestant.name].append(seconds)
    return times


def table(times: dict[str, list[float]], unit: str) -> dict:
    """Print and return medians; ratios against the first name."""
    first = statistics.median(next(iter(times.values())))
    rows = {}
    for name, values in times.items():
        median = statistics.median(values)
        rows[name] = {"median": median, "min": min(values), "max": max(values), "ratio": first / median}
        spread = f"(min {min(values):.3f}, max {max(values):.3f})"
        print(f"  {name:34s} {median:9.3f} {unit}  {spread}  {first / median:5.2f} x")
    return rows


def machine(threads: int) -> dict:
    """What ran, and its own product peak, so that numbers of two machines can be compared."""
    import torch

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    facts = {"torch": torch.__version__, "device": device, "threads": threads, "load": os.getloadavg()[0]}
    facts["name"] = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    size = 8192 if device == "cuda" else 2048
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(size, size, device=device).to(dtype)
        best = float("inf")
        for _ in range(6):
            start = time.perf_counter()
            a @ a
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        facts[f"gflops_{name}"] = 2 * size**3 / best / 1e9
    print(
        f"{facts['name']}, {threads} threads, torch {facts['torch']}, load {facts['load']:.1f}; product peak "
        f"{facts['gflops_float32']:.0f} GFLOP/s float32, {facts['gflops_bfloat16']:.0f} bfloat16"
    )
    return facts


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def real_sentences(path: str, steps: int, folder: Path, **options) -> dict:
    """Train on real sentences; returns losses, seconds a step and peak memory. Runs in this process.

    The vocabulary and the weights are left in ``folder`` as vocabulary.txt and learned.pth.
    """
    import resource

    import torch

    os.environ["XMODALER_SSATTN_HOST"] = "embedded"
    sys.path.insert(0, str(ROOT))
    from xmodaler_ssattn.data.vocabulary import build_vocabulary, write_vocabulary

    images = [[words_of(caption) for caption in image["captions"]] for image in read_captions(path).values()]
    counts: dict[str, int] = {}
    for word in (word for image in images for caption in image for word in caption):
        counts[word] = counts.get(word, 0) + 1
    vocabulary = build_vocabulary(counts)
    write_vocabulary(folder / "vocabulary.txt", vocabulary)
    options |= {"vocab": str(folder / "vocabulary.txt"), "batch": 8, "lengths": [5]}
    model = Ours(options | {"vocab_size": vocabulary.model_size})
    rng = random.Random(0)
    losses, seconds = [], []
    for _ in range(steps):
        captions = [vocabulary.encode(c[:20]) for image in rng.sample(images, 8) for c in image[:CAPTIONS]]
        width = max(map(len, captions)) + 1
        tokens, targets = torch.zeros(len(captions), width, dtype=torch.long), torch.full((len(captions), width), -1)
        for row, words in enumerate(captions):
            tokens[row, 1 : len(words) + 1] = torch.tensor(words)
            targets[row, : len(words) + 1] = torch.tensor([*words, 0])
        model.data |= {"tokens": tokens, "targets": targets, "lengths": [len(words) + 1 for words in captions]}
        start = time.perf_counter()
        parts = model.loss_parts()
        model.optimizer.zero_grad()
        sum(parts.values()).backward()
        model.optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(float(next(iter(parts.values())).detach()))
    torch.save(model.model.state_dict(), folder / "learned.pth")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    first, last = statistics.mean(losses[:5]), statistics.mean(losses[-5:])
    print(
        f"\n{steps} steps on {len(images)} images' captions, vocabulary {len(vocabulary)} words: cross-entropy "
        f"{first:.3f} (first five) -> {last:.3f} (last five); {statistics.median(seconds):.3f} s a step (median); "
        f"peak memory {peak:.0f} MiB"
    )
    return {
        "vocabulary": vocabulary.model_size,
        "loss": losses,
        "seconds": statistics.median(seconds),
        "peak_mib": peak,
    }


def words_of(caption: str) -> list[str]:
    """Lower-cased words; punctuation stands alone and is dropped."""
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", caption.lower())


def read_captions(path: str) -> dict:
    with gzip.open(path, "rt") if path.endswith(".gz") else open(path, encoding="utf-8") as file:
        return json.load(file)


def caption_lengths(path: str | None) -> list[int]:
    """Words of each caption, cut at 20."""
    if path is None:
        rng = random.Random(0)
        return [min(20, max(4, round(rng.gauss(12.4, 5)))) for _ in range(5000)]
    return [min(20, len(words_of(caption))) for image in read_captions(path).values() for caption in image["captions"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["step", "decode", "memory", "baseline"])
    parser.add_argument("--captions", help="real captions, for their lengths")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=8, help="images of a training step (default: 8)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", help="also write the numbers here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(json.loads(args.worker))
        return

    report = {"machine": machine(args.threads), "batch": args.batch}
    stock = bool(os.environ.get("XMODALER_HOME"))
    if not stock:
        print("XMODALER_HOME is not set: stock X-modaler does not take part.")
    with tempfile.TemporaryDirectory() as folder:
        vocab = Path(folder) / "vocabulary.txt"
        vocab.write_text("".join(f"w{i}\n" for i in range(VOCAB - 2)) + "UNK\n")
        common = {"vocab": str(vocab), "lengths": caption_lengths(args.captions)[:20000], "threads": args.threads}

        def start(name: str, **options) -> Contestant:
            return Contestant(name, **{"kind": "ours", "batch": args.batch, **common, **options})

        for what in args.what:
            if what == "step":
                if stock:
                    weights = str(Path(folder) / "stock.pth")
                    pair = [start("stock", kind="stock", exact=True, save=weights)]
                    pair.append(start("ours", exact=True, row="updown", weights=weights))
                    losses = [c.ask("loss") for c in pair]
                    print(f"\nloss with equal weights, no dropout: stock {losses[0]:.6f}, ours {losses[1]:.6f}")
                    report["loss"] = losses
                    [c.close() for c in pair]
                print(f"\ntraining step, {args.batch} images x {CAPTIONS} captions:")
                group = [start("stock Up-Down, float32", kind="stock")] if stock else []
                group += [start("ours, SS attention, float32"), start("ours, SS attention, bf16", amp=True)]
                group += [start("ours, float32, 25 % sampled words", ss=0.25)]
                report["step"] = table(in_turn(group, "step", args.rounds, 3), "s")
            elif what == "decode":
                learned = {}
                if args.captions:
                    size = real_sentences(args.captions, 100, Path(folder), row="updown", exact=True)["vocabulary"]
                    learned = {"vocab_size": size, "weights": str(Path(folder) / "learned.pth")}
                    learned |= {"vocab": str(Path(folder) / "vocabulary.txt"), "row": "updown", "exact": True}
                print(f"\nbeam-3 decoding of 32 images ({'learned' if learned else 'random'} weights):")
                group = [start("stock Up-Down, float32", kind="stock", batch=32, **learned)] if stock else []
                group += [start("ours, float32", batch=32, **learned)]
                group += [start("ours, bf16", batch=32, amp=True, **learned)]
                report["decode"] = table(in_turn(group, "decode", args.rounds, 1), "s")
            elif what == "memory":
                print("\nkept for the backward pass of a training step:")
                group = [start("stock Up-Down, float32", kind="stock")] if stock else []
                group += [start("ours, SS attention, float32"), start("ours, SS attention, bf16", amp=True)]
                report["memory"] = table({c.name: [c.ask("memory") / 2**20] for c in group}, "MiB")
            elif what == "real":
                if not args.captions:
                    raise SystemExit("real needs --captions FILE")
                report["real"] = real_sentences(args.captions, 100, Path(folder))
                continue
            elif what == "baseline":
                print("\nSS attention + grounding loss against our Up-Down, same step:")
                group = [start("Up-Down", row="updown"), start("SS attention + grounding loss")]
                report["baseline"] = baseline(in_turn(group, "step", max(30, args.rounds), 3))
            else:
                raise SystemExit(f"unknown benchmark {what!r}; choose from step, decode, memory, baseline, real")
            [c.close() for c in group]
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")


def baseline(times: dict[str, list[float]]) -> dict:
    """Paired ratio of the two, mean and 95 % interval over the rounds (bootstrap of the pairs)."""
    rows = table(times, "s")
    first, second = times.values()
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(2000))
    low, high = medians[49], medians[1949]
    middle = statistics.median(ratios)
    print(f"  ratio, median of {len(ratios)} pairs: {middle:.3f} (95 % interval {low:.3f} to {high:.3f})")
    return rows | {"paired_ratio": {"median": middle, "low": low, "high": high}}


if __name__ == "__main__":
    main()
