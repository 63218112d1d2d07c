"""What one process and each of several do, to compare their numbers. In a file that a new process can import."""

from argparse import Namespace
from pathlib import Path

from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.data_files import prepare_sample
from xmodaler_ssattn.cli.training import run_host

CONFIG = Path(__file__).parents[2] / "configs" / "sample" / "ss_attn.yaml"
SETTINGS = {
    "DATALOADER.SAMPLE_SCENES": 44, "DATALOADER.TRAIN_BATCH_SIZE": 8, "DATALOADER.GLOBAL_BATCH": True,
    "DATALOADER.SEQ_PER_SAMPLE": 2, "DATALOADER.TEST_BATCH_SIZE": 2, "MODEL.VISUAL_EMBED.IN_DIM": 32,
    "MODEL.DECODER_DIM": 16, "MODEL.VISUAL_EMBED.DROPOUT": 0.0, "MODEL.TOKEN_EMBED.DROPOUT": 0.0,
    "MODEL.PRED_DROPOUT": 0.0, "SOLVER.WRITE_PERIOD": 1, "INFERENCE.METRICS": "['F1']",
    "INFERENCE.FINAL_METRICS": "[]", "DECODE_STRATEGY.BEAM_SIZE": 2,
}  # fmt: skip
LOSSES = {
    "words": {"LOSSES.NAMES": "['CrossEntropy','GroundingLoss','WordAttentionLoss']"},
    "images": {
        "LOSSES.NAMES": "['FusedCrossEntropy','GroundingLoss','WordAttentionLoss']",
        "LOSSES.GROUNDING.REDUCTION": "image_mean",
        "LOSSES.WORD_ATTENTION.REDUCTION": "words",
    },
}
"""Losses with all our divisors: words; rows with a box; pairs; words with a pair."""


def config(folder: Path, **settings):
    opts = [str(word) for pair in {**SETTINGS, **settings}.items() for word in pair]
    cfg = load_config(str(CONFIG), opts, data=str(folder / "data"), device="cpu")
    prepare_sample(cfg)
    return cfg


def train(folder: str, out: str, losses: str, epochs: int) -> None:
    """Train without dropout into ``folder/out``."""
    only_training = {"DATASETS.VAL": "", "DATASETS.TEST": "", "SOLVER.EPOCH": epochs, "SOLVER.CHECKPOINT_PERIOD": 99}
    cfg = config(Path(folder), OUTPUT_DIR=Path(folder, out), **only_training, **LOSSES[losses])
    run_host(Namespace(eval_only=False, resume=False), cfg, {})


def evaluate(folder: str, weights: str) -> None:
    """The results files of ``folder/weights`` in folder/evaluated/results."""
    cfg = config(Path(folder), OUTPUT_DIR=Path(folder, "evaluated"), **{"MODEL.WEIGHTS": Path(folder, weights)})
    run_host(Namespace(eval_only=True, resume=False), cfg, {})


def train_and_evaluate(folder: str, out: str, epochs: int) -> None:
    for losses in LOSSES:
        train(folder, f"{out}_{losses}", losses, epochs)
    evaluate(folder, "one_words/model_final.pth")
