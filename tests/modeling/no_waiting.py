"""Training steps and decodings on a fake CUDA device; ``test_no_waiting.py`` runs it in a process of its own.

python no_waiting.py FOLDER      writes FOLDER/report.json: case -> what ``Watch`` noted, and its error
"""

import fake_cuda  # before torch

# isort: split
import contextlib
import json
import sys
import traceback
from pathlib import Path

import torch

from engine.rl_world import rl_options, rl_trainer, write_world
from fast.test_graphs import MIXED
from toys import TWO_IMAGES, toy_config, toy_model
from xmodaler_ssattn import keys
from xmodaler_ssattn.engine.finite import OnlyFinite
from xmodaler_ssattn.fast.graphs import CapturedForcing
from xmodaler_ssattn.fast.resident import ResidentRegions
from xmodaler_ssattn.fast.teacher_forcing import ways_agree
from xmodaler_ssattn.host import EventStorage, build_engine, build_losses, build_optimizer, kfg
from xmodaler_ssattn.modeling.sampling import sample_captions
from xmodaler_ssattn.modeling.visual_embed import SpatialSemanticEmbedding

DROPOUT = {f"MODEL__{part}__DROPOUT": 0.5 for part in ("TOKEN_EMBED", "VISUAL_EMBED")} | {"MODEL__PRED_DROPOUT": 0.5}
NORM = {f"MODEL__{part}__USE_NORM": True for part in ("TOKEN_EMBED", "VISUAL_EMBED")}
SOLVER = {"SOLVER__NAME": "FusedAdam", "SOLVER__GRAD_CLIP": 0.1, "SOLVER__GRAD_CLIP_TYPE": "norm"}
PAIRS = {keys.WORD_PAIRS: torch.tensor([[0, 1, 0], [1, 1, 1]]), keys.PAIR_WEIGHTS: torch.tensor([1.0, 0.5])}
STEPS = {
    "paper": {},
    "sampling": {"ss_prob": 0.25},
    "image_mean, clip by value": {"LOSSES__GROUNDING__REDUCTION": "image_mean", "SOLVER__GRAD_CLIP_TYPE": "value"},
    "positive_mean, renormalize, tanh": {
        "LOSSES__GROUNDING__REDUCTION": "positive_mean",
        "MODEL__SS_ATTENTION__RENORMALIZE": True,
        "MODEL__SS_ATTENTION__ACTIVATION": "tanh",
    },
    "log": {"MODEL__SS_ATTENTION__FUSION": "log", "SOLVER__NAME": "Adam"},
    "baseline": {"MODEL__SS_ATTENTION__ENABLED": False, "LOSSES__NAMES": ["CrossEntropy"]},
    "shared dropout": {"MODEL__SHARE_REGION_DROPOUT": True},
    "fused loss": {"LOSSES__NAMES": ["FusedCrossEntropy", "GroundingLoss"]},
    "word attention": {"LOSSES__NAMES": ["CrossEntropy", "GroundingLoss", "WordAttentionLoss"]},
    "word by word": {"MODEL__UPDOWN__DROPOUT1": 0.5},
    "word by word, sampling": {"MODEL__UPDOWN__DROPOUT1": 0.5, "ss_prob": 0.25},
    "word by word, word attention": {
        "MODEL__UPDOWN__DROPOUT1": 0.5,
        "LOSSES__NAMES": ["CrossEntropy", "GroundingLoss", "WordAttentionLoss"],
        "LOSSES__WORD_ATTENTION__REDUCTION": "words",
    },
    "state condition": {"MODEL__SS_ATTENTION__STATE_DIM": 3},
    "another embedding": {"another": True},
    "another embedding, shared dropout": {"another": True, "MODEL__SHARE_REGION_DROPOUT": True},
}
for _name in ("sampling", "log", "fused loss", "word attention", "word by word"):
    STEPS[f"{_name}, bfloat16"] = STEPS[_name] | NORM | {"SOLVER__AMP": True}


class AnotherEmbedding(SpatialSemanticEmbedding):
    """A part that is not ours may read anything in the batch, see ``GroundedCaptioner.encodes_per_image``."""

    def forward(self, batched_inputs):
        return super().forward(batched_inputs)


def prepared(watch, folder, dropout=True, **overrides):
    """A captioner in training on the device, whose first step is over: that one measures and compares."""
    another = overrides.pop("another", False)
    overrides = (DROPOUT if dropout else {}) | overrides
    if another:
        overrides["MODEL__VISUAL_EMBED__NAME"] = "SpatialSemanticEmbedding"
    model = watch.move(toy_model(folder, **overrides)).train()
    if another:
        model.visual_embed.__class__ = AnotherEmbedding
    model.dead_units.steps, model.fast_forcing.agrees = 1, True
    return model, toy_config(folder, **overrides)


def losses_of(model, cfg, samples, ss_prob=0.0):
    batch = model.preprocess_batch(samples)
    batch[kfg.SS_PROB] = ss_prob
    out = model(batch)
    losses = {}
    for loss in build_losses(cfg):
        losses.update(loss(out))
    return losses


def step(watch, folder, **overrides):
    ss_prob = overrides.pop("ss_prob", 0.0)
    model, cfg = prepared(watch, folder, **SOLVER | overrides)
    optimizer = build_optimizer(cfg, model)
    samples = TWO_IMAGES
    if "WordAttentionLoss" in cfg.LOSSES.NAMES:
        samples = [{**sample, **PAIRS} for sample in TWO_IMAGES]
    with watch:
        optimizer.zero_grad()
        sum(losses_of(model, cfg, samples, ss_prob).values()).backward()
        optimizer.step()
    without = [name for name, p in model.named_parameters() if p.grad is None and "kappa" not in name]
    assert not without, f"no gradient: {without}"


def trained(watch, trainer, steps=2):
    """Real steps of a trainer, with the hook of the command line that tests gradients."""
    watch.move(trainer.model)
    trainer.optimizer = build_optimizer(trainer.cfg, trainer.model)
    trainer.model.dead_units.steps, trainer.model.fast_forcing.agrees = 1, True
    trainer._hooks = []
    hook = OnlyFinite()
    trainer.register_hooks([hook])
    with EventStorage(0) as trainer.storage:
        hook.before_train()
        with watch:
            for trainer.iter in range(steps):
                watch.updated = False
                trainer.run_step()
                hook.after_step()


def trainer_step(watch, folder, **overrides):
    write_world(folder)
    options = rl_options(folder, LOSSES__NAMES=["CrossEntropy", "GroundingLoss"], ENGINE__NAME="DefaultTrainer")
    (folder / "out").mkdir()
    trained(watch, build_engine(toy_config(folder, **options | SOLVER | {"DATALOADER__SEQ_PER_SAMPLE": 2} | overrides)))


def self_critical(watch, folder, **overrides):
    trained(watch, rl_trainer(folder, **{"SOLVER__NAME": "FusedAdam", "DATALOADER__SEQ_PER_SAMPLE": 3} | overrides))


def resident(watch, folder):
    model, cfg = prepared(watch, folder)
    shapes = {kfg.ATT_FEATS: 6, keys.BOXES_PX: 4, keys.SPATIAL: 5, keys.CLASS_PROBS: 4}
    half = {kfg.ATT_FEATS: torch.float16, keys.CLASS_PROBS: torch.float16}
    table = ResidentRegions(
        {key: watch.on_device(torch.zeros(3, 5, size, dtype=half.get(key))) for key, size in shapes.items()},
        {keys.IMAGE_SIZE: watch.on_device(torch.zeros(3, 2))},
        [5, 2, 1],
    )
    samples = []
    for row, sample in enumerate(TWO_IMAGES):
        kept = {key: value for key, value in sample.items() if key not in (*shapes, keys.IMAGE_SIZE)}
        samples.append({**kept, keys.RESIDENT: table.name, keys.RESIDENT_ROW: row})
    with watch:
        sum(losses_of(model, cfg, samples).values()).backward()


def first_step(watch, folder):
    """The comparison of both ways, and the measurement of dead units."""
    model, _ = prepared(watch, folder, dropout=False)
    model.dead_units.steps, model.fast_forcing.agrees = 0, None
    fork, torch.random.fork_rng = torch.random.fork_rng, lambda devices: contextlib.nullcontext()
    try:
        with watch:
            batch = model.preprocess_batch(TWO_IMAGES)
            ways_agree(model, batch)
            model.fast_forcing.agrees = True
            model(batch)
    finally:
        torch.random.fork_rng = fork


def captured(watch, folder, **overrides):
    """What a captured graph contains, forward and backward; ``make_graphed_callables`` itself needs a GPU."""
    model, cfg = prepared(watch, folder, **overrides)
    inside = fake_cuda.Watch(capturing=True)
    inside.fake, inside.waits, inside.faults = watch.fake, watch.faults, watch.faults  # no wait is possible in there

    def backend(shape, samples):
        with inside:
            outputs = [out for out in shape(*samples) if out.requires_grad]
            torch.autograd.grad(outputs, list(shape.parameters()), outputs, allow_unused=True)
        return shape

    model.fast_forcing.captured = CapturedForcing(backend)
    with watch:
        for ss_prob in (0.0, 0.25):
            sum(losses_of(model, cfg, MIXED, ss_prob).values()).backward()
    assert len(model.fast_forcing.captured) >= 1


def decode(watch, folder, beam, sents=True, **overrides):
    # 12 words, so that a wait per word is more than a few waits per batch.
    model, _ = prepared(watch, folder, MODEL__MAX_SEQ_LEN=12, INFERENCE__SAVE_ATTENTION=True, **overrides)
    model.eval()
    with watch, torch.no_grad():
        model(model.preprocess_batch(TWO_IMAGES), use_beam_search=beam, output_sents=sents)


def sample(watch, folder):
    model, _ = prepared(watch, folder, MODEL__MAX_SEQ_LEN=12)
    model.eval()
    with watch:
        sample_captions(model, model.preprocess_batch(TWO_IMAGES), 2, greedy_first=True)


CASES = {f"step: {name}": (step, overrides) for name, overrides in STEPS.items()} | {
    "trainer": (trainer_step, {}),
    "trainer, stock Adam": (trainer_step, {"SOLVER__NAME": "Adam"}),
    "self-critical, mean": (self_critical, {"SCORER__BASELINE": "mean", "SCORER__GROUNDING_WEIGHT": 1.0}),
    "self-critical, bfloat16": (self_critical, {"SOLVER__AMP": True}),
    "resident": (resident, {}),
    "first step": (first_step, {}),
    "captured": (captured, {}),
    "captured, bfloat16": (captured, NORM | {"SOLVER__AMP": True}),
    "greedy": (decode, {"beam": False}),
    "beam and references": (decode, {"beam": True, "INFERENCE__GT_ATTENTION": True}),
    "beam, bfloat16": (decode, NORM | {"beam": True, "sents": False, "SOLVER__AMP": True}),
    "sample": (sample, {}),
}


def main(folder: Path) -> None:
    fake_cuda.pretend()
    torch.set_num_threads(1)
    report = {}
    for number, (name, (case, settings)) in enumerate(CASES.items()):
        own = folder / str(number)
        own.mkdir()
        watch, error = fake_cuda.Watch(), ""
        try:
            case(watch, own, **settings)
        except Exception:
            error = traceback.format_exc()
        report[name] = {part: getattr(watch, part) for part in ("waits", "faults", "products")} | {"error": error}
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
