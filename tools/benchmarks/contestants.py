"""The contestants of ``benchmark.py``: each runs in its own process, because a process has one host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from benchmarks import measures
from benchmarks.data import CAPTIONS, FEATURES, MOST_WORDS, REGIONS, VOCAB, noise_batch

ROOT = Path(__file__).resolve().parents[2]
STANDINS = str(ROOT / "tests" / "standins")  # of modules that upstream X-modaler imports and a CPU does not need
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# --- in the contestant's process ----------------------------------------------------------------------------
class Ours:
    """This package on its embedded runtime.

    Options: ``row`` (a yaml of configs/flickr30k_entities), ``amp``, ``exact`` (stock's function: tanh, no dropout),
    ``set`` (KEY VALUE pairs, flat), ``ss`` (share of sampled words), ``vocab``, ``vocab_size``, ``weights`` (to load),
    ``save`` (where to save them), ``batch`` (images), ``lengths`` (words per caption).
    """

    def __init__(self, options: dict):
        self.options = options
        settings = {"INFERENCE.VOCAB": options["vocab"], "MODEL.VOCAB_SIZE": options.get("vocab_size", VOCAB)}
        if options.get("exact"):
            off = ("MODEL.PRED_DROPOUT", "MODEL.TOKEN_EMBED.DROPOUT", "MODEL.VISUAL_EMBED.DROPOUT")
            settings |= dict.fromkeys(off, 0.0)
        cfg, host = self.configure(settings)
        torch.manual_seed(0)
        self.model = host.build_model(cfg).train()
        if options.get("weights"):
            self.model.load_state_dict(torch.load(options["weights"], weights_only=True))
        if options.get("save"):
            torch.save(self.model.state_dict(), options["save"])
        self.kfg, self.optimizer, self.losses = host.kfg, host.build_optimizer(cfg, self.model), host.build_losses(cfg)
        self.reads = self.keys_read(cfg)
        self.data = noise_batch(options["batch"], options["lengths"], DEVICE)

    def configure(self, settings: dict[str, Any]) -> tuple[Any, Any]:
        """The config, and a namespace with the host's functions that build from it."""
        from xmodaler_ssattn import host
        from xmodaler_ssattn.cli.configuring import load_config

        settings["SOLVER.AMP"] = self.options.get("amp", False)
        if self.options.get("exact"):
            settings["MODEL.SS_ATTENTION.ACTIVATION"] = "tanh"
        opts = [str(word) for pair in settings.items() for word in pair] + self.options.get("set", [])
        row = self.options.get("row", "ss_attn")
        return load_config(str(ROOT / f"configs/flickr30k_entities/{row}.yaml"), opts, device=DEVICE), host

    def keys_read(self, cfg: Any) -> set[str]:
        from xmodaler_ssattn.data.inputs import keys_read

        return keys_read(cfg)

    def batch(self, images: int, captions: int) -> dict:
        """The output of ``preprocess_batch``."""
        from xmodaler_ssattn import keys
        from xmodaler_ssattn.data.word_pairs import PAIR_LOSSES

        data, kfg = self.data, self.kfg
        batch = {
            kfg.IDS: list(range(images)),
            kfg.ATT_FEATS: data["feats"],
            kfg.ATT_MASKS: torch.ones(images, REGIONS, device=DEVICE),
            keys.BOXES_PX: data["boxes"],
            keys.SPATIAL: data["p"],
            keys.CLASS_PROBS: data["c"],
            keys.IMAGE_SIZE: torch.full((images, 2), 500.0, device=DEVICE),
            keys.SIGMA: data["sigma"],
            keys.HAS_BOXES: torch.ones(images, 1, device=DEVICE),
            keys.NUM_REGIONS: [REGIONS] * images,
            keys.CAPTIONS_PER_IMAGE: captions,
        }
        if captions > 1:
            batch |= {kfg.G_TOKENS_IDS: data["tokens"], kfg.G_TARGET_IDS: data["targets"]}
            batch |= {keys.CAPTION_LENGTHS: data["lengths"], keys.NUM_WORDS: sum(data["lengths"])}
            if any(type(loss).__name__ in PAIR_LOSSES for loss in self.losses):
                batch[keys.WORD_PAIRS] = data["pairs"]
            if keys.WORD_SPANS in self.reads:
                batch[keys.WORD_SPANS] = data["spans"]
        return batch

    def loss_parts(self) -> dict:
        out = self.model({**self.batch(self.options["batch"], CAPTIONS), self.kfg.SS_PROB: self.options.get("ss", 0.0)})
        return {name: value for loss in self.losses for name, value in loss(out).items()}

    def loss(self) -> torch.Tensor:
        return sum(self.loss_parts().values())

    def step(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def decode(self) -> None:
        self.model.eval()
        with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16, enabled=self.options.get("amp", False)):
            # Only the beam search, as in the stock model; our captioner would also decode greedily.
            self.model.decode_beam_search(self.batch(self.options["batch"], 1), True)


class Stock(Ours):
    """Upstream X-modaler's Up-Down with its own embedding, loop, loss and optimiser, from the clone XMODALER_HOME.

    On a machine without CUDA, its ``.cuda()`` calls are replaced by the identity.
    """

    def configure(self, settings: dict[str, Any]) -> tuple[Any, Any]:
        if DEVICE == "cpu":
            torch.Tensor.cuda = lambda self, *_, **__: self
        sys.path[:0] = [os.environ["XMODALER_HOME"]]
        sys.path.append(STANDINS)
        from types import SimpleNamespace

        from xmodaler.config import get_cfg, kfg
        from xmodaler.losses import build_losses
        from xmodaler.modeling import add_config, build_model
        from xmodaler.optim import build_optimizer

        file = str(Path(os.environ["XMODALER_HOME"]) / "configs/image_caption/updown/updown.yaml")
        cfg = get_cfg()
        add_config(cfg, cfg.load_from_file_tmp(file, allow_unsafe=False))
        cfg.merge_from_file(file, allow_unsafe=False)
        settings["MODEL.DEVICE"] = DEVICE
        cfg.merge_from_list([word for pair in settings.items() for word in pair])
        builders = {"build_losses": build_losses, "build_model": build_model, "build_optimizer": build_optimizer}
        return cfg, SimpleNamespace(kfg=kfg, **builders)

    def keys_read(self, cfg: Any) -> set[str]:
        return set()

    def batch(self, images: int, captions: int) -> dict:
        # As from BaseEncoderDecoder.preprocess_batch: features repeated for each caption.
        data, kfg = self.data, self.kfg
        batch = {kfg.IDS: list(range(images)), kfg.ATT_FEATS: data["feats"].repeat_interleave(captions, 0)}
        batch[kfg.ATT_MASKS] = torch.ones(images * captions, REGIONS, device=DEVICE)
        if captions > 1:
            batch |= {kfg.G_TOKENS_IDS: data["tokens"].clone(), kfg.G_TARGET_IDS: data["targets"].clone()}
        return batch

    def decode(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.model(self.batch(self.options["batch"], 1), use_beam_search=True, output_sents=True)


class ImageCaptioning:
    """Up-Down of ruotianluo/ImageCaptioning.pytorch with its own loss, from the clone IMAGECAPTIONING_HOME (needs six).

    Its own training step (tools/train.py): Adam, gradients clipped by value. It has one row of features per image until
    they are embedded, as we have, and an image feature from outside, for which it is given the mean of the regions.
    """

    def __init__(self, options: dict):
        from types import ModuleType, SimpleNamespace

        folder = Path(os.environ["IMAGECAPTIONING_HOME"]) / "captioning"
        # Without the packages' own imports, which need further packages for models that are not measured.
        for name in ("captioning", "captioning.models", "captioning.modules", "captioning.utils"):
            package = sys.modules[name] = ModuleType(name)
            package.__path__ = [str(folder.joinpath(*name.split(".")[1:]))]
        from captioning.models.AttModel import UpDownModel
        from captioning.modules.losses import LanguageModelCriterion

        torch.manual_seed(0)
        sizes = dict.fromkeys(("rnn_size", "input_encoding_size"), 1024) | {"att_hid_size": 512, "num_layers": 2}
        sizes |= {"fc_feat_size": FEATURES, "att_feat_size": FEATURES, "vocab_size": VOCAB - 1}
        settings = {**sizes, "drop_prob_lm": 0.5, "max_length": MOST_WORDS, "vocab": {}}
        self.model = UpDownModel(SimpleNamespace(**settings)).to(DEVICE).train()
        self.criterion = LanguageModelCriterion()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-4)
        data = noise_batch(options["batch"], options["lengths"], DEVICE)
        words, targets = (data[key].view(options["batch"], CAPTIONS, -1) for key in ("tokens", "targets"))
        self.inputs = data["feats"].mean(1), data["feats"], words, torch.ones(data["feats"].shape[:2], device=DEVICE)
        self.targets = targets.clamp(min=0), (targets >= 0).float()

    def loss(self) -> torch.Tensor:
        return self.criterion(self.model(*self.inputs), *self.targets)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        torch.nn.utils.clip_grad_value_(self.model.parameters(), 0.1)
        self.optimizer.step()


KINDS = {"stock": Stock, "ImageCaptioning.pytorch": ImageCaptioning, "ours": Ours}


def serve(options: dict) -> None:
    """Answer each command on stdin with a JSON line, or ``"out of memory"``."""
    torch.set_num_threads(options["threads"])
    contestant = KINDS[options["kind"]](options)

    def timed(work: Callable[[], object]) -> float:
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    commands = {
        "step": lambda: timed(contestant.step),
        "decode": lambda: timed(contestant.decode),  # not of ImageCaptioning
        "loss": lambda: float(contestant.loss().detach()),
        "work": lambda: measures.work_of(contestant.step),
        "peak": measures.peak_mib,
        "memory": lambda: measures.kept_bytes(contestant.model, contestant.loss, contestant.step),
    }
    print("ready", flush=True)
    for command in map(str.strip, sys.stdin):
        try:
            answer = commands[command]()
        except (torch.cuda.OutOfMemoryError, MemoryError):
            answer = "out of memory"
        print(json.dumps(answer), flush=True)


# --- in the parent's process --------------------------------------------------------------------------------
def process(module: str, options: dict, host: str | None) -> dict[str, Any]:
    """Arguments of ``subprocess`` for a module of this folder with ``options``; ``host``: XMODALER_SSATTN_HOST."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("XMODALER_SSATTN")}
    if host:
        environ["XMODALER_SSATTN_HOST"] = host
    upstream = [os.environ["XMODALER_HOME"]] if host == "upstream" else []
    places = [*upstream, str(ROOT), str(ROOT / "tools"), environ.get("PYTHONPATH", "")]
    environ["PYTHONPATH"] = os.pathsep.join(places)
    return {"args": [sys.executable, "-m", module, json.dumps(options)], "env": environ, "text": True}


class Contestant:
    """A process that executes commands.

    Raises:
        EOFError: the process has ended, by itself or for lack of memory.
    """

    def __init__(self, name: str, **options):
        self.name, self.options = name, options
        self.process = subprocess.Popen(
            **process("benchmarks.contestants", options, None if options["kind"] == "stock" else "embedded"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if options.get("quiet", True) else None,
        )
        while self._line() != "ready":
            pass

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise EOFError(f"{self.name}: the process ended; give it the option quiet False to see why")
        return line.strip()

    def ask(self, command: str) -> Any:
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
