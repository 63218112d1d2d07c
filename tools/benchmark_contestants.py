"""The contestants of ``benchmark.py``, each in a process of its own that does one thing when told to.

Stock X-modaler's Up-Down comes from the clone that XMODALER_HOME names; on a machine without CUDA its ``.cuda()``
calls are answered by the identity.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmark_data import CAPTIONS, REGIONS, VOCAB, draw_batch

ROOT = Path(__file__).resolve().parents[1]


# --- in the contestant's process ----------------------------------------------------------------------------
class Ours:
    """This package on its embedded runtime.

    Options: ``row`` (a yaml of configs/flickr30k_entities), ``amp``, ``exact`` (stock's function: tanh, no dropout),
    ``set`` (KEY VALUE pairs, flat), ``ss`` (share of sampled words), ``weights``.
    """

    def __init__(self, options: dict):
        import torch

        from xmodaler_ssattn import host
        from xmodaler_ssattn.cli.configuring import load_config

        self.torch, self.options = torch, options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        opts = ["INFERENCE.VOCAB", options["vocab"], "SOLVER.AMP", str(options.get("amp", False))]
        opts += ["MODEL.VOCAB_SIZE", str(options.get("vocab_size", VOCAB)), *options.get("set", ())]
        if options.get("exact"):
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
            kfg.ATT_MASKS: torch.ones(images, REGIONS, device=self.device),
            keys.BOXES_PX: data["boxes"],
            keys.SPATIAL: data["p"],
            keys.CLASS_PROBS: data["c"],
            keys.IMAGE_SIZE: torch.full((images, 2), 500.0, device=self.device),
            keys.SIGMA: data["sigma"],
            keys.HAS_BOXES: torch.ones(images, 1, device=self.device),
        }
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

    def step(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def decode(self) -> None:
        self.model.eval()
        amp = self.options.get("amp", False)
        with self.torch.no_grad(), self.torch.autocast(self.device, self.torch.bfloat16, enabled=amp):
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
        opts = ["MODEL.VOCAB_SIZE", options.get("vocab_size", VOCAB), "MODEL.DEVICE", self.device]
        opts += ["INFERENCE.VOCAB", options["vocab"]]
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
        feats = data["feats"].repeat_interleave(captions, 0)
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
    """Answer each command on stdin with a JSON line; memory that does not suffice is answered ``"out of memory"``."""
    import benchmark_measures as measures
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

    commands = {
        "step": lambda: timed(contestant.step),
        "decode": lambda: timed(contestant.decode),
        "loss": lambda: float(contestant.loss().detach()),
        "work": lambda: measures.work_of(contestant.step),
        "peak": lambda: measures.peak_mib(cuda),
        "memory": lambda: measures.kept_bytes(contestant.model, contestant.loss, contestant.step, cuda),
    }
    print("ready", flush=True)
    for command in map(str.strip, sys.stdin):
        try:
            answer = commands[command]()
        except (torch.cuda.OutOfMemoryError, MemoryError):
            answer = "out of memory"
        print(json.dumps(answer), flush=True)


# --- in the parent's process --------------------------------------------------------------------------------
class Contestant:
    """A process that does one thing when told to.

    Raises:
        EOFError: the process has ended, by itself or for lack of memory.
    """

    def __init__(self, name: str, **options):
        environ = {k: v for k, v in os.environ.items() if not k.startswith("XMODALER_SSATTN")}
        if options["kind"] == "ours":
            environ |= {"XMODALER_SSATTN_HOST": "embedded"}
        environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), environ.get("PYTHONPATH", "")])
        self.name, self.options = name, options
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if options.get("quiet", True) else None,
            text=True,
            env=environ,
        )
        while self._line() != "ready":
            pass

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise EOFError(f"{self.name}: the process ended; give it the option quiet False to see why")
        return line.strip()

    def ask(self, command: str):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        while True:
            try:
                return json.loads(self._line())
            except json.JSONDecodeError:
                continue  # something that the host printed

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def in_turn(contestants: Iterable[Contestant], command: str, rounds: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of each contestant, one after the other in every round."""
    times: dict[str, list[float]] = {c.name: [] for c in contestants}
    for turn in range(warmup + rounds):
        for contestant in contestants:
            seconds = contestant.ask(command)
            if turn >= warmup:
                times[contestant.name].append(seconds)
    return times


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
