"""``xmodaler train``, ``eval`` and ``demo`` as a person runs them, on a few drawn scenes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from xmodaler_ssattn.cli import demo as demo_command
from xmodaler_ssattn.cli.data_files import prepare_sample
from xmodaler_ssattn.cli.main import main
from xmodaler_ssattn.cli.training import loader_errors
from xmodaler_ssattn.engine.weights import check_weights
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.results import read_results
from xmodaler_ssattn.worlds.drawn import drawn_dataset

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "sample" / "ss_attn.yaml")
# 32 training pictures in batches of 8: 4 steps an epoch.
SMALL = {
    "DATALOADER.SAMPLE_SCENES": 40,
    "DATALOADER.TRAIN_BATCH_SIZE": 8,
    "MODEL.VISUAL_EMBED.IN_DIM": 32,
    "MODEL.DECODER_DIM": 16,
    "SOLVER.EPOCH": 2,
    "SOLVER.EVAL_PERIOD": 2,
    "INFERENCE.METRICS": "['CIDEr','F1']",
    "INFERENCE.FINAL_METRICS": "[]",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scenes") / "data"


def options(**changes) -> list[str]:
    merged = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return [str(word) for pair in merged.items() for word in pair]


def train(data: Path, out: Path, *flags: str, **changes) -> int:
    return main(["train", "--config-file", CONFIG, "--data", str(data), *flags, *options(OUTPUT_DIR=out, **changes)])


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    assert train(data, out) == 0
    return out


def test_the_first_use_draws_the_scenes_and_training_leaves_what_people_need(data, run, capsys):
    assert (data / "Images").is_dir() and (data / "regions.h5").is_file()
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.json", "log.txt", "model_final.pth", "last_checkpoint"} <= names
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(run.glob("events.out.tfevents.*.overlays")))).Reload()
    assert len(events.Tags()["images"]) == 8  # four pictures of val, four of test
    results = read_results(run / "results" / "test_epoch_2.json")
    assert len(results.images) == 4 and all(image.grounded is not None for image in results.images)
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert any("val/CIDEr" in line for line in lines) and any("test/F1_all" in line for line in lines)
    assert "Host: the embedded runtime" in (run / "log.txt").read_text()


def test_eval_scores_a_checkpoint_as_training_did(data, run, tmp_path, capsys):
    weights = str(run / "model_final.pth")
    words = ["eval", "--weights", weights, "--config-file", CONFIG, "--data", str(data), *options(OUTPUT_DIR=tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    trained = read_results(run / "results" / "test_epoch_2.json")
    again = read_results(tmp_path / "results" / "test_eval.json")
    assert [str(i.caption) for i in again.images] == [str(i.caption) for i in trained.images]
    assert again.header["scores"]["CIDEr"] == pytest.approx(trained.header["scores"]["CIDEr"])
    assert "test/CIDEr" in printed and "val/CIDEr" in printed


def test_an_evaluation_leaves_the_config_of_the_training(data, run, capsys):
    own = str(run / "config.yaml")
    before = Path(own).read_bytes()
    for weights, code in ((run, 0), (run / "metrics.json", 2)):  # the second is no checkpoint
        words = ["eval", "--weights", str(weights), "--config-file", own, "DECODE_STRATEGY.BEAM_SIZE", "1"]
        assert main(words) == code and Path(own).read_bytes() == before
    assert "metrics.json" in capsys.readouterr().err


def test_scenes_that_the_user_names_are_never_drawn_again(data, tmp_path, capsys):
    files = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    assert train(data, tmp_path, DATALOADER__SAMPLE_SCENES=30, SOLVER__EPOCH=1) == 0
    assert f"the 40 scenes in {data} are used, not 30" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == files


def test_a_signal_while_scenes_are_drawn_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn_dataset, "_draw_into", lambda folder, *rest: folder.mkdir() or signal.raise_signal(15))
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "data", tmp_path / "run")
    assert stopped.value.code == 128 + signal.SIGTERM and not any(tmp_path.iterdir())


def test_the_number_of_processes_is_at_least_one(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train(data, tmp_path, "--num-gpus", "0")
    assert "--num-gpus: expected a whole number of at least 1, got '0'" in capsys.readouterr().err


def test_eval_offers_no_flags_of_training(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    shown = capsys.readouterr().out
    assert "--data" in shown and "--resume" not in shown


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(data, run, tmp_path):
    # CHECKPOINT_PERIOD is 1: stop after the first of two epochs by training one, then go on.
    assert train(data, tmp_path, SOLVER__EPOCH=1) == 0
    assert train(data, tmp_path, "--resume") == 0
    one, other = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (run, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_new_run_over_a_finished_one_is_refused_or_moves_it_aside(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(data, out, SOLVER__EPOCH=1) == 0
    first = (out / "model_final.pth").read_bytes()
    assert train(data, out, SOLVER__EPOCH=1) == 2
    assert "holds a run already (last_checkpoint, model_final.pth). --resume continues it" in capsys.readouterr().err
    assert train(data, out, "--move-aside", SOLVER__EPOCH=1) == 0
    assert (tmp_path / "out.1" / "model_final.pth").read_bytes() == first
    assert len((out / "metrics.json").read_text().splitlines()) == len(
        (tmp_path / "out.1" / "metrics.json").read_text().splitlines()
    )


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_is_resumed(data, run, tmp_path, capsys):
    assert train(data, tmp_path, SOLVER__CHECKPOINT_STEPS=1) == 0
    last = tmp_path / (tmp_path / "last_checkpoint").read_text()
    last.write_bytes(last.read_bytes()[:-400] + bytes(100) + last.read_bytes()[-300:])
    assert train(data, tmp_path, "--resume", SOLVER__DAMAGED_CHECKPOINT="refuse") == 2
    assert f"{last.name} has changed since it was written" in capsys.readouterr().err
    assert train(data, tmp_path, "--resume") == 0
    one, other = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (run, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_signal_before_the_first_step_or_in_an_evaluation_ends_the_command_at_once(data, run, tmp_path, monkeypatch):
    from xmodaler_ssattn import host

    build = host.build_engine

    def build_and_stop(cfg):
        os.kill(os.getpid(), signal.SIGTERM)
        return build(cfg)

    monkeypatch.setattr(host, "build_engine", build_and_stop)
    for words in (["train"], ["eval", "--weights", str(run / "model_final.pth")]):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--config-file", CONFIG, "--data", str(data), *options(OUTPUT_DIR=tmp_path / words[0])])
        assert ended.value.code == 143
    assert not list(tmp_path.rglob("*.pth"))


def test_a_killed_process_that_loads_data_is_one_sentence(capsys):
    with (
        pytest.raises(UserError, match=r"A process that loads data was ended .*NUM_WORKERS"),
        loader_errors(),
    ):
        raise RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="other"), loader_errors():
        raise RuntimeError("other")


def test_weights_of_another_model_are_refused_with_what_does_not_fit(data, run, tmp_path, capsys):
    code = train(data, tmp_path, MODEL__DECODER_DIM=24, MODEL__WEIGHTS=run / "model_final.pth")
    message = capsys.readouterr().err
    assert code == 2 and "does not fit this config's model" in message
    assert "decoder.lstm1.weight_hh is (64, 16), expected (96, 24)" in message
    code = train(
        data,
        tmp_path,
        MODEL__SS_ATTENTION__ENABLED=False,
        LOSSES__NAMES="['CrossEntropy']",
        MODEL__WEIGHTS=run / "model_final.pth",
    )
    assert code == 2 and "has unknown 5 weights: decoder.ss_attention" in capsys.readouterr().err


@pytest.mark.parametrize("resume", [False, True])
def test_weights_that_hold_code_are_refused_and_do_not_run_it(data, tmp_path, capsys, resume):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    if resume:
        (tmp_path / "last_checkpoint").write_text("evil.pth")
        assert train(data, tmp_path, "--resume") == 2
    else:
        assert train(data, tmp_path, MODEL__WEIGHTS=tmp_path / "evil.pth") == 2
    assert "evil.pth is refused: it asks for" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_eval_only_needs_weights(data, tmp_path, capsys):
    assert train(data, tmp_path, "--eval-only") == 2
    assert "--eval-only needs MODEL.WEIGHTS" in capsys.readouterr().err


def test_sizes_of_the_sample_follow_what_was_drawn(data):
    from xmodaler_ssattn.cli.configuring import load_config

    cfg = load_config(CONFIG, options(), data=str(data), device="cpu")
    prepare_sample(cfg)
    words = (data / "vocabulary.txt").read_text(encoding="utf-8").split()
    assert len(words) + 1 == cfg.MODEL.VOCAB_SIZE
    assert cfg.MODEL.SS_ATTENTION.NUM_CLASSES == 16


def test_the_demo_trains_both_rows_and_reports_them_side_by_side(small_demo):
    out, printed = small_demo
    table = printed[printed.index("Scores on the test scenes") :]
    assert "Up-Down" in table and "SS attention" in table and "F1_loc" in table and "B@4" in table
    for row in ("updown", "ss_attn_words"):
        assert (out / row / "model_final.pth").is_file() and list((out / row / "results").glob("test_epoch_1.json"))
    assert list((out / "pictures").glob("*.png"))
    assert not list(out.rglob("*.tmp"))


def test_a_file_where_the_demos_folder_should_be_is_named(tmp_path, capsys):
    (tmp_path / "x").write_text("")
    assert main(["demo", "--out", str(tmp_path / "x")]) == 2
    assert "is a file, expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": 1}}, {"model": [1]}, "text"])
def test_a_file_without_weights_by_name_is_not_a_checkpoint(content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth has no weights by name"):
        check_weights(str(tmp_path / "w.pth"), torch.nn.Linear(1, 1))


def test_a_checkpoint_of_python_objects_is_refused_without_advice_to_load_it_all_the_same(tmp_path):
    torch.save({"model": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth is refused: it asks for pathlib") as caught:
        check_weights(str(tmp_path / "w.pth"), torch.nn.Linear(1, 1))
    assert "weights_only" not in str(caught.value)


def test_all_missing_data_files_stand_in_one_message(tmp_path, capsys):
    config = str(ROOT / "configs" / "flickr30k_entities" / "ss_attn.yaml")
    out = tmp_path / "out"
    assert main(["train", "--config-file", config, "--data", str(tmp_path / "none"), "OUTPUT_DIR", str(out)]) == 2
    message = capsys.readouterr().err
    for name in (
        "vocabulary.txt",
        "regions.h5",
        "train.json",
        "val.json",
        "test.json",
        "captions_val.json",
        "captions_test.json",
    ):
        assert message.count(f"none/{name} does not exist") == 1, name
    assert not out.exists()


def test_a_path_that_cannot_be_made_is_an_error_and_no_traceback(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--images", "10", "--out", str(tmp_path / "file" / "demo")]) == 2
    assert "xmodaler: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--images", "0"), ("--images", "2"), ("--epochs", "0"), ("--device", "gpu"), ("--seed", "-1")],
)
def test_a_demo_of_no_pictures_epochs_or_device_is_refused_before_anything_is_drawn(flag, value, tmp_path, capsys):
    assert main(["demo", flag, value, "--out", str(tmp_path / "demo")]) == 2
    assert f"{flag.removeprefix('--')}: expected" in capsys.readouterr().err.lower()  # --device is MODEL.DEVICE
    assert not (tmp_path / "demo").exists()


def test_a_demo_that_fits_neither_disk_nor_memory_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(demo_command.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    monkeypatch.setattr(demo_command, "memory_of_machine", lambda: 10**9)
    demo_command.check_space(1500, 8, tmp_path / "demo")  # 1,500 * 0.2 MB + 2 * 9 * 10 MB = 0.48 GB
    with pytest.raises(UserError) as error:
        demo_command.check_space(10_000, 8, tmp_path / "demo")
    assert "10,000 pictures and 8 epochs need 2.2 GB, " in str(error.value) and "has 1.0 GB free" in str(error.value)
    assert "needs 1.5 GB of memory, this machine has 1.0 GB" in str(error.value)
    (tmp_path / "demo" / "data").mkdir(parents=True)
    monkeypatch.setattr(demo_command, "memory_of_machine", lambda: None)
    demo_command.check_space(10_000, 8, tmp_path / "demo")  # the pictures exist already


def test_of_a_failed_run_the_demo_shows_the_error_and_not_the_config():
    assert demo_command.last_words("Host\nVERSION: 1\nxmodaler: error: no room\n") == "xmodaler: error: no room"
    assert demo_command.last_words("x" * 2000 + "end\n").endswith("xend")


def test_partial_weights_name_what_keeps_its_draw_and_still_refuse_another_model(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    path = str(tmp_path / "w.pth")
    torch.save({"model": {"0.weight": torch.ones(1, 1), "0.bias": torch.ones(1)}}, path)
    with pytest.raises(UserError, match="it lacks 2 weights: 1.bias, 1.weight"):
        check_weights(path, model)
    assert check_weights(path, model, partial=True) == ["1.bias", "1.weight"]
    torch.save({"model": {"other": torch.ones(1)}}, path)
    with pytest.raises(UserError, match="it contains none of the model's weights") as error:
        check_weights(path, model, partial=True)
    assert "it has unknown 1 weights: other" in str(error.value)


def test_the_loss_of_drawn_captions_asks_for_their_trainer(data, tmp_path, capsys):
    assert train(data, tmp_path, LOSSES__NAMES="['SelfCriticalLoss']") == 2
    assert "LOSSES.NAMES contains SelfCriticalLoss, but ENGINE.NAME is DefaultTrainer" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_traceback():
    """`xmodaler ... | head -1`: what is printed after head has gone meets a broken pipe."""
    script = (
        "import sys; from types import SimpleNamespace as N; from xmodaler_ssattn.cli import main as m;"
        "m.parse = lambda words: N(run=lambda args: print('line', flush=True));"
        "sys.stdin.read(); sys.exit(m.main([]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.close()  # before the line is printed
    process.stdin.close()
    assert (process.wait(), process.stderr.read()) == (141, b"")
    process.stderr.close()
