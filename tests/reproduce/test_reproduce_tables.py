"""The tool as a person runs it, on a few drawn scenes: killed, resumed, with rows that fail."""

import json
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.engine.finite import OnlyFinite
from xmodaler_ssattn.worlds.drawn import draw_dataset

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "reproduce_tables.py"
ROWS = ROOT / "configs" / "flickr30k_entities"
EPOCHS = 8

# 32 training pictures in batches of 8: 4 steps an epoch.
PLAN = f"""
title: A few scenes
base: {ROOT}/configs/sample/base.yaml
seeds: [0]
common:
  SOLVER.EPOCH: {EPOCHS}
  SOLVER.EVAL_PERIOD: 1
  SOLVER.WRITE_PERIOD: 4
  DATALOADER.TRAIN_BATCH_SIZE: 8
  MODEL.DECODER_DIM: 16
  INFERENCE.METRICS: [CIDEr, F1]
rows:
  full:
    config: {ROWS}/ss_attn.yaml
    evaluations:
      alpha: {{INFERENCE.GROUND_BY: alpha, INFERENCE.GT_ATTENTION: true}}
      shuffled: {{DATALOADER.REGIONS: '{{data}}/none.h5'}}
  nan:
    config: {ROWS}/updown.yaml
    set: {{SOLVER.BASE_LR: 1.0e+38}}
  gone:
    config: nowhere.yaml
orderings:
  - {{name: gamma is above alpha, a: full/alpha, b: full, metrics: [F1_loc]}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    draw_dataset(folder / "data", num_images=40, feature_dim=32)
    (folder / "x.plan.yaml").write_text(PLAN)
    return folder


def command(place, *more) -> list[str]:
    words = ["--data", place / "data", "--plan", place / "x.plan.yaml", "--out", place / "out", "--threads", "1"]
    return [str(word) for word in (*words, "--device", "cpu", "--metrics", "CIDEr", *more)]


def reproduce(*words: str) -> int:
    return main(["reproduce", *words])


def wait_for(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def stopped(place) -> Path:
    """The run's folder after the tool was ended in the middle of training."""
    run = place / "out" / "full" / "seed_0"
    process = subprocess.Popen(
        [sys.executable, TOOL, *command(place)],
        cwd=place,  # anywhere: the tool finds its package itself
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(lambda: (run / "best.json").is_file() or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "interrupted. The same command with --resume continues." in output
    return run


@pytest.fixture(scope="module")
def resumed(place, stopped):
    """(the record as it was, the tool's second run)"""
    before = json.loads((stopped / "run.json").read_text())
    done = subprocess.run(
        [sys.executable, TOOL, *command(place, "--resume")], capture_output=True, text=True, check=False
    )
    return before, done


def test_another_base_makes_other_runs(place, resumed, capsys):
    base = place / "small.yaml"
    base.write_text(f"_BASE_: {ROOT}/configs/sample/base.yaml\nSOLVER: {{BASE_LR: 0.125}}\n")
    shutil.copytree(place / "out", place / "copy")  # the other tests read the tables of "out"
    words = ["--base", str(base), "--out", str(place / "copy"), "--table-only", "--rows", "full"]
    reproduce(*command(place, *words))
    assert "SOLVER.BASE_LR was 0.0025, now 0.125" in capsys.readouterr().err
    assert reproduce(*command(place, "--base", str(place / "gone.yaml"))) == 2
    assert "--base: the file " in (error := capsys.readouterr().err) and "gone.yaml does not exist" in error


def test_a_tool_that_is_ended_leaves_a_run_that_can_be_resumed_and_no_process(stopped, resumed):
    before, _ = resumed
    assert before["status"] == "running" and not before["trained"] and before["seconds"]["train"] > 0


def test_a_resumed_run_continues_from_its_last_checkpoint_and_ends_complete(place, stopped, resumed):
    _, done = resumed
    assert done.returncode == 3, done.stdout + done.stderr  # the plan's bad rows
    starts = [line for line in (stopped / "log.txt").read_text().splitlines() if "Starting training from iter" in line]
    assert len(starts) == 2 and starts[0].endswith("iteration 0") and not starts[1].endswith("iteration 0")
    record = json.loads((stopped / "run.json").read_text())
    assert record["trained"] and [int(epoch) for epoch in record["epochs"]] == list(range(1, EPOCHS + 1))
    assert record["evaluations"]["best"]["scores"]["CIDEr"] is not None
    assert all("total_loss" in entry["train"] for entry in record["epochs"].values())
    # The last two checkpoints: model_final and the one before.
    before = "model_Epoch_00008_Iter_0000031.pth"
    assert {path.name for path in stopped.glob("*.pth")} == {"model_best.pth", "model_final.pth", before}
    best = torch.load(stopped / "model_best.pth", weights_only=True)
    assert best["epoch"] == record["best_epoch"]


def test_what_is_bad_is_reported_and_the_rest_continues(place, stopped, resumed):
    _, done = resumed
    assert "nan seed 0: diverged. The loss became infinite or NaN" in done.stderr
    assert "gone seed 0: no config." in done.stderr
    assert "full seed 0: failed. shuffled: Data files are missing" in done.stderr and "none.h5" in done.stderr
    text = (place / "out" / "tables.md").read_text()
    assert (place / "out" / "curves.svg").read_text().startswith("<svg ")
    full = next(line for line in text.splitlines() if line.startswith("| full |"))
    assert full.endswith("| 1/1 |")  # its best weights were scored all the same
    assert "| nan | 0 | diverged |" in text and "| gone | 0 | no config |" in text
    assert "| gamma is above alpha | full/alpha -> full | F1_loc |" in text
    # The reference captions were forced with alpha; the floors are those of the drawn data.
    sits = text[text.index("## Where the accuracy sits") :]
    assert (
        "| full / alpha |" in sits and "| floor: largest region |" in sits and "| ceiling: perfect attention |" in sits
    )
    summary = (place / "out" / "summary.json").read_text()
    assert json.loads(summary)["floors"]["rules"]["largest region"]["attention_accuracy"] > 0
    assert json.loads(summary)["rows"]["full"]["seeds"]["0"]["best_epoch"] >= 1
    assert str(place) not in summary and str(place) not in text


def test_the_scores_are_those_of_xmodaler_eval_with_the_same_weights(place, stopped, resumed, tmp_path):
    job = json.loads((stopped / "evaluate.json").read_text())
    options = [str(word) for pair in job["values"].items() for word in pair]
    changes = ["OUTPUT_DIR", str(tmp_path), "INFERENCE.METRICS", "['CIDEr','F1']", "INFERENCE.FINAL_METRICS", "[]"]
    words = ["eval", "--weights", stopped / "model_final.pth", "--config-file", job["config"], "--data", job["data"]]
    assert main([*map(str, words), "--device", "cpu", *options, *changes]) == 0
    theirs = json.loads((tmp_path / "results" / "test_eval.json").read_text())
    ours = json.loads((stopped / "eval" / "last" / "results" / "test_eval.json").read_text())
    assert [image["caption"] for image in ours["images"]] == [image["caption"] for image in theirs["images"]]
    assert theirs["scores"].items() <= ours["scores"].items()


def test_a_second_resume_has_nothing_to_train(place, resumed, capsys):
    code = reproduce(*command(place, "--resume", "--rows", "nan", "gone"))
    printed = capsys.readouterr()
    assert code == 3 and "nan seed 0: diverged" in printed.out
    assert "| full | 0 | failed |" in (place / "out" / "tables.md").read_text()  # the other rows stay in the tables


def test_without_resume_runs_that_are_there_are_not_touched(place, resumed, capsys):
    assert reproduce(*command(place)) == 2
    message = capsys.readouterr().err
    assert "full/seed_0 already contains a run" in message and "nan/seed_0 already contains a run" in message


def test_a_run_that_another_process_works_on_is_left_to_it(place, resumed, capsys):
    import fcntl

    with open(place / "out" / "full" / "seed_0" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reproduce(*command(place, "--resume", "--rows", "full"))
    assert "full seed 0: is being worked on by another process" in capsys.readouterr().out


def test_another_config_in_the_same_folder_is_reported_and_not_mixed_in(place, resumed, capsys):
    changed = place / "changed.plan.yaml"
    changed.write_text(PLAN.replace(f"SOLVER.EPOCH: {EPOCHS}", "SOLVER.EPOCH: 99"))
    code = reproduce(*command(place, "--resume", "--rows", "full", "--plan", str(changed)))
    assert code == 3
    assert f"full seed 0: other config. SOLVER.EPOCH was {EPOCHS}, now 99" in capsys.readouterr().err
    assert "| full | n/a |" in (place / "out" / "tables.md").read_text()


def test_the_table_alone_can_be_written_again_and_shards_leave_out_what_is_not_theirs(place, resumed, capsys):
    assert reproduce(*command(place, "--table-only", "--shard", "3/3")) == 3
    assert "gone seed 0" in (errors := capsys.readouterr().err) and "nan seed 0" not in errors
    assert "| full | 0 | failed |" in (place / "out" / "tables.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "none"], "--rows: no row none"),
        (["--shard", "4/3"], "--shard: expected i/n"),
        (["--seeds", "1", "1"], "--seeds: expected different numbers"),
        (["--threads", "-1"], "--threads must be at least 1, got -1"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--metrics", "XYZ"], "Unknown metric XYZ"),
        (["--plan", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--data", "nowhere"], "lacks vocabulary.txt"),
    ],
)
def test_a_mistake_on_the_command_line_is_named_before_anything_runs(place, words, message, capsys):
    assert reproduce(*command(place, "--out", str(place / "new"), *words)) == 2
    assert message in capsys.readouterr().err
    assert not (place / "new").exists()


def test_without_data_the_tool_asks_for_them(place, capsys):
    assert reproduce("--plan", str(place / "x.plan.yaml")) == 2
    assert "--data: give the folder written by" in capsys.readouterr().err


def test_a_killed_process_is_named_by_its_signal(tmp_path):
    from xmodaler_ssattn.reproduce.running import why

    assert why(-signal.SIGKILL, tmp_path / "none") == ("failed", "killed by SIGKILL")
    terminal = tmp_path / "terminal.txt"
    terminal.write_text("Traceback ...\nFloatingPointError: The loss became NaN at iteration 3!\nloss_dict = {}\n")
    assert why(1, terminal) == ("diverged", "The loss became NaN at iteration 3!")
    hook = OnlyFinite()
    hook.trainer = SimpleNamespace(iter=7, batch_ids=[3])
    try:
        hook._refuse("gradient", ["w"], "Nothing changed.")
    except FloatingPointError:
        terminal.write_text(traceback.format_exc())
    status, reason = why(1, terminal)
    assert status == "diverged" and reason.startswith("A gradient became infinite or NaN at iteration 7: w (images 3)")
    terminal.write_text("config\nxmodaler: error: no room\n")
    assert why(2, terminal) == ("failed", "no room")
    terminal.write_text("Traceback ...\nKeyError: 'x'\n\n")
    assert why(1, terminal) == ("failed", "exit code 1: KeyError: 'x'")
