"""Caption test with a run's weights and score the captions, once per evaluation. Runs as its own process:

    python -m xmodaler_ssattn.reproduce.evaluate RUN/evaluate.json

The job file contains the config, its values, the data folder and, for each evaluation, weights and settings; the
output is ``RUN/eval/NAME/``: ``results/test_eval.json``, ``replicates.npz``, and ``evaluation.json``, which is written
last and therefore marks a complete evaluation.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xmodaler_ssattn import host
from xmodaler_ssattn.cli.data_files import check_files
from xmodaler_ssattn.engine.weights import check_weights
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.caption_files import read_reference_captions
from xmodaler_ssattn.evaluation.java import JavaError
from xmodaler_ssattn.evaluation.scoring import CaptionScorer
from xmodaler_ssattn.files import read_json, write_json
from xmodaler_ssattn.reproduce.replicates import score_results
from xmodaler_ssattn.reproduce.settings import DATA, Machine, config_of, read_data_folder, renamed
from xmodaler_ssattn.safe_load import safe_load, weights_of

EVALUATION_FILE = "evaluation.json"
# The evaluator scores only the grounding; the caption metrics are computed afterwards, with their rows.
EVALUATOR_METRICS = {"INFERENCE.METRICS": ["F1"], "INFERENCE.FINAL_METRICS": []}


def evaluation_folder(run: Path, name: str) -> Path:
    return run / "eval" / name


def evaluate(job: Mapping[str, Any]) -> int:
    """Do all evaluations of a job file; a failed one records its reason, and the next one runs.

    Returns:
        0, or 3 when one failed.
    """
    run, data, code = Path(job["run"]), read_data_folder(job["data"]), 0
    machine = Machine(job["device"], job["threads"])
    scorers: dict[str, CaptionScorer] = {}
    for name, entry in job["evaluations"].items():
        folder = evaluation_folder(run, name)
        if folder.exists():
            shutil.rmtree(folder)
        started = time.monotonic()
        record: dict[str, Any] = {"set": entry["set"], "weights": entry["weights"]}
        try:
            placed = {key: renamed(value, DATA, str(data.path)) for key, value in entry["set"].items()}
            # The job file names the weights; the initial weights of the run are not used.
            placed |= {**EVALUATOR_METRICS, "OUTPUT_DIR": str(folder), "MODEL.WEIGHTS": ""}
            cfg = config_of(job["config"], {**job["values"], **placed}, data, machine)
            _caption(cfg, run / entry["weights"])
            references = cfg.INFERENCE.TEST_ANNFILE
            if references not in scorers:
                scorers[references] = CaptionScorer(read_reference_captions(references))
            results = folder / "results" / "test_eval.json"
            annotations = Path(cfg.DATALOADER.ANNO_FOLDER)
            record |= score_results(results, scorers[references], job["metrics"], annotations)
        except (UserError, JavaError) as error:
            record["failed"] = str(error)
            code = 3
        record["seconds"] = round(time.monotonic() - started, 1)
        write_json(folder / EVALUATION_FILE, record, indent=1)
        print(f"{name}: {record.get('failed') or record['scores']}, {record['seconds']} s", flush=True)
    return code


def _caption(cfg: Any, weights: Path) -> None:
    """Decode test; the evaluator writes the captions with their boxes to OUTPUT_DIR/results/test_eval.json."""
    check_files(cfg)
    cfg.freeze()
    if cfg.MODEL.CPU_THREADS > 0:
        torch.set_num_threads(cfg.MODEL.CPU_THREADS)
    host.seed_all_rng(cfg.SEED)
    model = host.build_model(cfg)
    check_weights(str(weights), model)
    model.load_state_dict(safe_load(weights, part=weights_of))
    model.to(torch.device(cfg.MODEL.DEVICE))
    loader = host.build_xmodaler_valtest_loader(cfg, stage="test")
    evaluator = host.build_evaluation(cfg, cfg.INFERENCE.TEST_ANNFILE, cfg.OUTPUT_DIR)
    host.DefaultTrainer.test(cfg, model, loader, evaluator, -1)


if __name__ == "__main__":
    import xmodaler_ssattn  # noqa: F401  (registers our classes)

    try:
        sys.exit(evaluate(read_json(sys.argv[1], "The evaluation job")))
    except UserError as error:
        print(f"xmodaler: error: {error}", file=sys.stderr)
        sys.exit(2)
