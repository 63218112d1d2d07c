"""The checks of ``gpu_check.py``: what must be equal on a GPU, on the drawn sample scenes.

A check is a function of a ``Place`` that returns its numbers as {name: value}. It raises ``Wrong`` when they are not
what they should be, and ``Skipped`` when it cannot be done here. Every other error is a failure too.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "sample" / "ss_attn.yaml"
NO_DROPOUT = {
    "MODEL.PRED_DROPOUT": 0.0, "MODEL.TOKEN_EMBED.DROPOUT": 0.0, "MODEL.VISUAL_EMBED.DROPOUT": 0.0,
}  # fmt: skip
SCENES = {"DATALOADER.SAMPLE_SCENES": 200, "DATALOADER.TRAIN_BATCH_SIZE": 8}
LEARNING_STEPS = 60  # so that captions do not hang on ties of random weights


class Wrong(Exception):
    """A check was done, and its numbers are wrong. ``numbers`` are those that were measured."""

    def __init__(self, message: str, numbers: Mapping[str, Any]):
        super().__init__(message)
        self.numbers = dict(numbers)


class Skipped(Exception):
    """A check cannot be done on this machine, for the reason of the message."""


@dataclass
class Place:
    """Where a check computes.

    Attributes:
        device: "cuda"; in tests "cpu".
        folder: for the scenes and the runs.
        processes: of the check of several.
        settings: of the sample config, {KEY: value}.
    """

    device: str
    folder: Path
    processes: int = 2
    settings: Mapping[str, Any] = field(default_factory=lambda: SCENES)

    def options(self, **settings: Any) -> list[str]:
        return [str(word) for pair in {**self.settings, **settings}.items() for word in pair]

    def config(self, device: str | None = None, **settings: Any) -> Any:
        from xmodaler_ssattn.cli.configuring import load_config
        from xmodaler_ssattn.cli.data_files import prepare_sample

        data = str(self.folder / "data")
        exact = {"MODEL.TF32": False}  # a CPU rounds no inputs of products
        cfg = load_config(str(CONFIG), self.options(**exact, **settings), data=data, device=device or self.device)
        prepare_sample(cfg)
        return cfg


class Learner:
    """A model with its losses and its optimiser; the same initial weights for every device."""

    def __init__(self, place: Place, device: str | None = None, **settings: Any):
        from xmodaler_ssattn import host

        self.cfg, self.kfg = place.config(device, **settings), host.kfg
        torch.manual_seed(1)
        self.model = host.build_model(self.cfg.clone()).train()
        self.losses = host.build_losses(self.cfg)
        self.optimizer = host.build_optimizer(self.cfg, self.model)

    def samples(self, stage: str, images: int) -> list[dict]:
        from xmodaler_ssattn.host import DATASETS_REGISTRY

        # Kept, because a table on the device lives as long as its dataset.
        self.mapper = DATASETS_REGISTRY.get(self.cfg.DATASETS[stage.upper()])(self.cfg, stage)
        records = self.mapper.load_data(self.cfg)[:images]
        random.seed(1)
        return [self.mapper(record) for record in records]

    def loss(self, samples: list[dict]) -> torch.Tensor:
        out = self.model({**self.model.preprocess_batch(samples), self.kfg.SS_PROB: 0.0})
        return sum(value for loss in self.losses for value in loss(out).values())

    def step(self, samples: list[dict]) -> None:
        loss = self.loss(samples)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def learn(self, samples: list[dict]) -> None:
        for _ in range(LEARNING_STEPS):
            self.step(samples)

    def gradient(self, samples: list[dict]) -> tuple[float, torch.Tensor]:
        """The loss, and all gradients in one vector on the CPU."""
        self.optimizer.zero_grad()
        loss = self.loss(samples)
        loss.backward()
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.model.parameters()]
        return float(loss.detach()), torch.cat([part.detach().float().cpu().flatten() for part in parts])

    def captions(self, samples: list[dict]) -> list[str]:
        self.model.eval()
        with torch.no_grad():
            batch = self.model.preprocess_batch(samples)
            found = self.model(batch, use_beam_search=True, output_sents=True)[self.kfg.OUTPUT]
        return [text for caption in found for text in (str(caption), str(caption.greedy))]


def compare(one: tuple[float, torch.Tensor], other: tuple[float, torch.Tensor]) -> dict[str, float]:
    """Relative differences of two losses, and of two gradients (largest difference over largest gradient)."""
    return {
        "loss": abs(one[0] - other[0]) / max(abs(one[0]), 1e-12),
        "gradient": float((one[1] - other[1]).abs().max() / one[1].abs().max().clamp_min(1e-12)),
    }


def within(numbers: dict[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """``numbers``, when none is above its limit. NaN is above every limit."""
    over = [f"{k} {numbers[k]:.3g}, limit {limit:g}" for k, limit in limits.items() if not numbers[k] <= limit]
    if over:
        raise Wrong("; ".join(over), numbers)
    return numbers


# --- the checks -----------------------------------------------------------------------------------------------
def cpu_and_device(place: Place) -> dict[str, float]:
    """The same weights give the same loss, gradient and captions on the CPU."""
    there, here = Learner(place, **NO_DROPOUT), Learner(place, "cpu", **NO_DROPOUT)
    samples = there.samples("train", 8)
    there.learn(samples)
    here.model.load_state_dict({name: value.cpu() for name, value in there.model.state_dict().items()})
    numbers = compare(here.gradient(samples), there.gradient(samples))
    images = there.samples("test", 50)
    pairs = list(zip(here.captions(images), there.captions(images), strict=True))
    numbers["other captions"] = sum(one != other for one, other in pairs) / len(pairs)
    # A caption may change where two words are equally likely up to rounding.
    return within(numbers, {"loss": 1e-4, "gradient": 1e-3, "other captions": 0.05})


def plain_and_fast(place: Place) -> dict[str, float]:
    """The accelerated recurrence equals the loop over words that defines the model."""
    fast, plain = Learner(place, **NO_DROPOUT), Learner(place, **NO_DROPOUT)
    plain.model.fast_forcing = None
    samples = fast.samples("train", 8)
    return within(compare(plain.gradient(samples), fast.gradient(samples)), {"loss": 1e-5, "gradient": 1e-3})


def graphs(place: Place) -> dict[str, float]:
    """A replayed graph equals the step without graphs, also after the weights have changed."""
    if place.device != "cuda":
        raise Skipped("graphs are captured on CUDA only")
    plain, graph = (Learner(place, **NO_DROPOUT, **{"MODEL.CAPTURE_GRAPHS": on}) for on in (False, True))
    samples = plain.samples("train", 8)
    for _ in range(4):
        graph.gradient(samples)
    plain.learn(samples)
    graph.model.load_state_dict(plain.model.state_dict())
    return within(compare(plain.gradient(samples), graph.gradient(samples)), {"loss": 1e-5, "gradient": 1e-3})


def bfloat16(place: Place) -> dict[str, float]:
    """The loss with bfloat16 products is that of float32 up to the rounding of bfloat16, 2 ** -8."""
    full, half = (Learner(place, **NO_DROPOUT, **{"SOLVER.AMP": on}) for on in (False, True))
    samples = full.samples("train", 8)
    return within(compare(full.gradient(samples), half.gradient(samples)), {"loss": 0.02, "gradient": 0.2})


def waits(place: Place) -> dict[str, float]:
    """A training step, from collating to the optimiser, never waits for the device."""
    if place.device != "cuda":
        raise Skipped("only CUDA can report waits")
    learner = Learner(place)
    samples = learner.samples("train", 8)
    for _ in range(3):
        learner.step(samples)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.step(samples)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"waits": 0}


def resident(place: Place) -> dict[str, float]:
    """Regions that stay on the device give the same batch, bit for bit."""
    batches = []
    for cache in ("none", "device"):
        learner = Learner(place, **{"DATALOADER.CACHE": cache})
        batches.append(learner.model.preprocess_batch(learner.samples("train", 8)))
    tensors = [{k: v for k, v in batch.items() if isinstance(v, torch.Tensor)} for batch in batches]
    differ = [k for k in tensors[0] if k not in tensors[1] or not torch.equal(tensors[0][k], tensors[1][k])]
    numbers = {"arrays": len(tensors[0]), "different arrays": len(differ)}
    if differ:
        raise Wrong(f"different: {', '.join(differ)}", numbers)
    return numbers


def resume(place: Place) -> dict[str, float]:
    """A resumed run equals an uninterrupted one, as closely as two uninterrupted runs equal each other."""
    _train(place, "through", epochs=2)
    _train(place, "again", epochs=2)
    _train(place, "parts", epochs=1)
    _train(place, "parts", "--resume", epochs=2)
    noise, difference = _distance(place, "through", "again"), _distance(place, "through", "parts")
    numbers = {"two equal runs differ by": noise, "the resumed run differs by": difference}
    return within(numbers, {"the resumed run differs by": 10 * noise})


def several_processes(place: Place) -> dict[str, float]:
    """Several processes with a part of the batch each equal one process."""
    if place.device == "cuda" and torch.cuda.device_count() < place.processes:
        raise Skipped(f"this machine has {torch.cuda.device_count()} GPU(s), {place.processes} are needed")
    same = {"DATALOADER.GLOBAL_BATCH": True, **NO_DROPOUT}
    _train(place, "one", epochs=1, **same)
    _train(place, "several", "--num-gpus", str(place.processes), "--dist-url", "auto", epochs=1, **same)
    one, several = (_losses(place.folder / name) for name in ("one", "several"))
    if len(one) != len(several):
        raise Wrong(f"{len(one)} steps in one process, {len(several)} in several", {})
    largest = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(one, several, strict=True))
    return within({"steps": len(one), "largest difference of a loss": largest}, {"largest difference of a loss": 1e-3})


def _train(place: Place, out: str, *flags: str, epochs: int, **settings: Any) -> None:
    from xmodaler_ssattn.cli.main import main

    only = {"DATASETS.VAL": "", "DATASETS.TEST": "", "SOLVER.EPOCH": epochs, "SOLVER.WRITE_PERIOD": 1}
    options = place.options(**only, **settings, OUTPUT_DIR=place.folder / out)
    command = ["train", "--config-file", str(CONFIG), "--data", str(place.folder / "data"), "--device", place.device]
    if main([*command, *flags, *options]):
        raise Wrong(f"`xmodaler train` into {out} failed, see the output", {})


def _distance(place: Place, one: str, other: str) -> float:
    from xmodaler_ssattn.safe_load import safe_load

    a, b = (safe_load(place.folder / name / "model_final.pth")["model"] for name in (one, other))
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a if a[k].is_floating_point())


def _losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [line["total_loss"] for line in lines if "total_loss" in line]


CHECKS: dict[str, Callable[[Place], dict[str, float]]] = {
    check.__name__: check
    for check in (cpu_and_device, plain_and_fast, graphs, bfloat16, waits, resident, resume, several_processes)
}


def outcome(name: str, place: Place, checks: Mapping[str, Callable[[Place], dict]] = CHECKS) -> dict[str, Any]:
    """{"check", "verdict", "numbers", "message"} of a check; verdict: passed, FAILED or skipped. No error leaves it."""
    found: dict[str, Any] = {"check": name, "verdict": "FAILED", "numbers": {}, "message": ""}
    try:
        with tempfile.TemporaryDirectory(dir=place.folder) as own:
            found["numbers"] = checks[name](Place(place.device, Path(own), place.processes, place.settings))
        found["verdict"] = "passed"
    except Skipped as reason:
        found |= {"verdict": "skipped", "message": str(reason)}
    except Wrong as wrong:
        found |= {"numbers": wrong.numbers, "message": str(wrong)}
    except BaseException as error:  # also SystemExit of a command
        found["message"] = _where(error)
    return found


def _where(error: BaseException) -> str:
    """The error with the lines of this project that led to it, the last one first."""
    places: Sequence[str] = []
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(ROOT):
            places = [f"{file.relative_to(ROOT)}:{trace.tb_lineno}", *places]
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}"[:2000] + (f" ({', '.join(places[:6])})" if places else "")
