"""The words of a command line, in any order, and what a command prints, whatever the terminal's encoding."""

import errno
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmodaler_ssattn.cli.child import python_module
from xmodaler_ssattn.cli.configuring import load_config
from xmodaler_ssattn.cli.main import main, parse
from xmodaler_ssattn.cli.output import accept_all_characters, exit_code_of, printable, visible
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.worlds.drawn.scenes import looks_drawn, make_scene

ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "sample" / "ss_attn.yaml")
PAIRS = ["SOLVER.EPOCH", "1", "MODEL.SS_ATTENTION.LAMBDA", "-1", "SOLVER.GRAD_CLIP", "-1e-5"]


# --- KEY VALUE pairs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config-file", CONFIG, "--resume", "--num-gpus", "2", *PAIRS],
        ["train", "--config-file", CONFIG, *PAIRS, "--resume", "--num-gpus", "2"],
        ["train", *PAIRS[:2], "--config-file", CONFIG, "--num-gpus", "2", *PAIRS[2:4], "--resume", *PAIRS[4:]],
        ["train", *PAIRS, "--resume", "--num-gpus=2", f"--config-file={CONFIG}"],
    ],
)
def test_options_and_pairs_come_in_any_order(words):
    args = parse(words)
    assert args.opts == PAIRS and args.resume and args.num_gpus == 2 and args.config_file == CONFIG


@pytest.fixture(autouse=True)
def processes_of_these_tests_need_no_clone(monkeypatch):
    """What is tested here does not depend on the host, and a clone's own requirements need not be installed."""
    monkeypatch.setenv("XMODALER_SSATTN_HOST", "embedded")
    monkeypatch.delenv("XMODALER_HOME", raising=False)


@pytest.mark.parametrize("command", [["train"], ["eval", "--weights", "w.pth"], ["check"]])
def test_every_command_with_pairs_takes_options_after_them(command):
    args = parse([*command, "SEED", "3", "--data", "d", "--config-file", CONFIG])
    assert args.opts == ["SEED", "3"] and args.data == "d" and args.config_file == CONFIG


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["SEED", "1", "--resum-it"], "there is no option --resum-it"),
        (["--num-gpu5", "SEED", "1"], "there is no option --num-gpu5"),
        (["SEED", "1", "SOLVER.EPOCH"], "SOLVER.EPOCH has no value"),
        (["SOLVER.EPOCH", "--data", "d", "SOLVER.BASE_LR", "1"], "SOLVER.EPOCH has no value"),
        (["SOLVER.EPOCH", "--frobnicate"], "SOLVER.EPOCH has no value"),
        (["SEED", "1", "-x"], "there is no option -x"),
        (["SOLVER.EPOCH", "-5"], "SOLVER.EPOCH: expected 0 or more, got -5"),
        (["SOLVER.BASE_LR", "nan"], "SOLVER.BASE_LR: expected a finite number above 0, got nan"),
        (["SOLVER.BASE_LR", "-0.1"], "SOLVER.BASE_LR: expected a finite number above 0, got -0.1"),
        (["SOLVER.EVAL_PERIOD", "-1"], "SOLVER.EVAL_PERIOD: expected 0 or more, got -1"),
        (["SOLVER.CHECKPOINT_PERIOD", "0"], "SOLVER.CHECKPOINT_PERIOD: expected 1 or more, got 0"),
        (["SOLVER.BETAS", "[0.9,1.5]"], "SOLVER.BETAS: expected a number from 0 to 1, got 1.5"),
        (["MODEL.PRED_DROPOUT", "2"], "MODEL.PRED_DROPOUT: expected a number from 0 to 1, got 2.0"),
        (["SOLVER.DAMAGED_CHECKPOINT", "x"], "expected one of ('previous', 'refuse'), got 'x'"),
        (["DATALOADER.TRAIN_BATCH_SIZE", "0"], "DATALOADER.TRAIN_BATCH_SIZE: expected 1 or more, got 0"),
        (["SEED=1"], "SEED=1: write the key and the value as two words, SEED 1"),
        (["--", "solver.epoch", "1"], "unknown config key solver.epoch; did you mean SOLVER.EPOCH?"),
    ],
)
def test_unknown_options_and_keys_without_a_value_are_named(command, words, named, capsys):
    assert main([command, "--config-file", CONFIG, *words]) == 2
    assert named in capsys.readouterr().err


def test_values_that_begin_with_a_dash_reach_the_config():
    cfg = load_config(CONFIG, [*PAIRS, "SEED", "-7", "MODEL.WEIGHTS", ""], device="cpu")
    assert (cfg.MODEL.SS_ATTENTION.LAMBDA, cfg.SOLVER.GRAD_CLIP, cfg.SEED) == (-1.0, -1e-5, -7)
    with pytest.raises(UserError, match="unknown config key SOLVER.EPOCHS; did you mean SOLVER.EPOCH"):
        load_config(CONFIG, ["SOLVER.EPOCHS", "-1"])


def test_the_pairs_of_the_caption_command_may_be_negative_and_unknown_words_are_refused(capsys):
    words = ["caption", "a.jpg", "--weights", "w", "--opts", "SEED", "-1", "--report", "p.html"]
    args = parse(words)
    assert args.opts == ["SEED", "-1"] and args.report == "p.html" and args.photos == ["a.jpg"]
    with pytest.raises(SystemExit):
        parse([*words, "--frobnicate"])
    assert "unrecognized arguments: --frobnicate" in capsys.readouterr().err


# --- what is printed ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_character_that_the_encoding_lacks_is_escaped(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    accept_all_characters()
    print("café ✓ 中", flush=True)
    assert written.getvalue() == "café ✓ 中\n".encode(encoding, "backslashreplace")


def test_a_command_whose_terminal_knows_ascii_only_ends_well():
    script = (
        "import sys; from types import SimpleNamespace as N; from xmodaler_ssattn.cli import main as m;"
        "m.parse = lambda words: N(run=lambda args: print('caf\\u00e9 \\u2713 \\u4e2d'));"
        "sys.exit(m.main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"caf\\xe9 \\u2713 \\u4e2d\n"


def test_log_lines_pass_a_terminal_that_does_not_know_their_characters(monkeypatch):
    import logging

    from xmodaler_ssattn.runtime.setup import _ConsoleHandler

    bytes_written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_written, encoding="ascii", errors="strict"))
    record = logging.LogRecord("xmodaler", logging.INFO, "", 1, "épreuve ✓", None, None)
    _ConsoleHandler().emit(record)
    assert bytes_written.getvalue() == b"\\xe9preuve \\u2713\n"
    monkeypatch.setattr(sys, "stdout", None)  # a program without a terminal
    _ConsoleHandler().emit(record)


def test_a_name_that_is_not_utf8_becomes_text_that_any_file_takes(monkeypatch):
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
    assert printable(Path("café.jpg")) == "café.jpg"
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    accept_all_characters()
    print(os.fsdecode(b"caf\xe9.jpg"), flush=True)  # an error before
    assert stream.errors == "backslashreplace"


def test_a_full_disk_for_the_output_is_an_error_with_a_reason():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    script = (
        "import sys; from types import SimpleNamespace as N; from xmodaler_ssattn.cli import main as m;"
        "m.parse = lambda words: N(run=lambda args: print('line'));"
        "code = m.main([]); sys.stdout = None; import os; os._exit(code)"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, cwd=ROOT, check=False
        )
    assert done.returncode == 2 and b"No space left" in done.stderr


# --- processes of our own -----------------------------------------------------------------------------------
def test_a_process_started_beside_a_folder_of_our_name_runs_this_package(tmp_path):
    """The folder that contains a clone: there `import xmodaler_ssattn` may find the clone's top folder."""
    for inner in ("xmodaler_ssattn", "configs"):
        (tmp_path / "xmodaler_ssattn" / inner).mkdir(parents=True)
    done = subprocess.run(
        [*python_module("xmodaler_ssattn"), "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "xmodaler_ssattn"), done.stderr


def test_an_editable_install_puts_the_clone_on_the_path_and_no_finder_after_it(tmp_path):
    """setuptools asks for a finder unless the layout is said; the finder comes too late beside a folder of our name."""
    pytest.importorskip("setuptools", minversion="64")
    script = (
        "import runpy, setuptools, sys; setuptools.setup = lambda **given: sys.stdout.write(str(given['package_dir']));"
        "runpy.run_path('setup.py')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "{'': '.'}"


# --- drawn scenes -------------------------------------------------------------------------------------------
def test_scenes_look_drawn_and_photographs_do_not():
    for index in range(5):
        buffer = io.BytesIO()
        make_scene(3, index).draw().save(buffer, "JPEG", quality=92)
        assert looks_drawn(Image.open(buffer))
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    assert not looks_drawn(Image.fromarray(noise))  # textured, as photographs are
    assert not looks_drawn(Image.new("RGB", (400, 300), "white"))
    assert not looks_drawn(make_scene(3, 0).draw().resize((640, 480)))  # of no size that scenes have


# --- the start ----------------------------------------------------------------------------------------------
def started(*words):
    """(exit code, output, errors) of the console script, which ends with an error if it has imported torch."""
    script = (
        "import sys, xmodaler_ssattn_command as c\n"
        "try: code = c.main()\n"
        "except SystemExit as end: code = end.code\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--version"], 0, "xmodaler_ssattn 0."),
        (["--help"], 0, "caption and score val and test with trained weights"),
        ([], 0, "usage: xmodaler"),
        (["train", "--help"], 0, "--config-file FILE"),
        (["trian"], 2, "unknown 'trian'; did you mean train?"),
        (["prepare", "annotatons"], 2, "unknown 'annotatons'; did you mean annotations?"),
        (["train"], 2, "the following arguments are required: --config-file"),
    ],
)
def test_help_and_typing_errors_are_answered_without_pytorch(words, code, named):
    given, output, errors = started(*words)
    assert given == code, errors
    assert named in (errors if code else output)


def test_commands_that_only_read_and_write_files_need_no_pytorch(small_demo, tmp_path):
    demo = small_demo[0]
    data, results = (
        demo / "data",
        [next(demo.glob(f"{name}/results/test_*.json")) for name in ("updown", "ss_attn_words")],
    )
    scored = ["--reference", data / "grounding_test.json"]
    for words in (
        ["score", "grounding", *scored, "--submission", results[0]],
        ["score", "compare", *results, *scored, "--references", data / "captions_test.json", "--metrics", "CIDEr"],
        ["report", *results, "--annotations", data, "--images", data / "Images", "--out", tmp_path / "page"],
        ["export", "coco", results[0]],
        ["prepare", "regions", "--format", "regions", "--help"],
        ["prepare", "npz", "--regions", data / "regions.h5", "--out", tmp_path / "npz"],
    ):
        code, _, errors = started(*map(str, words))
        assert code == 0, f"{words}: {errors}"


PARENT = """
import subprocess, sys
from xmodaler_ssattn.cli.child import python_module
child = subprocess.Popen(python_module("sleeper"))
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(not hasattr(os, "getppid"), reason="needs parents of processes")
def test_a_started_process_is_told_to_end_when_its_parent_dies(tmp_path):
    (tmp_path / "sleeper.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('ended', 'w').close(), sys.exit()))\n"
        "open('ready', 'w').close()\ntime.sleep(100)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env=env, stdout=subprocess.PIPE) as parent:
        for name in ("ready", "ended"):
            deadline = time.monotonic() + 60
            while not (tmp_path / name).exists():
                assert time.monotonic() < deadline, name
                time.sleep(0.1)
            parent.kill()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/a.pth"), "/x/a.pth: no space left on /"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: no space left on the disk"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: Read-only file system. Give another path"),
    ],
)
def test_a_full_disk_is_named_with_the_file(error, message, capsys):
    def run():
        raise error

    assert exit_code_of(run) == 2
    assert message in capsys.readouterr().err


def test_what_a_file_says_cannot_steer_the_terminal(capsys):
    assert visible("a\tb\nc é 犬") == "a\tb\nc é 犬"
    assert visible("\x1b[2Jx\x07\x9b\u202e\r") == r"\x1b[2Jx\x07\x9b\u202e\r"

    def run():
        raise UserError("the key '\x1b]0;title' is unknown")

    assert exit_code_of(run) == 2
    assert capsys.readouterr().err == "xmodaler: error: the key '\\x1b]0;title' is unknown\n"


def test_a_closed_stream_is_one_that_nobody_reads(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    accept_all_characters()
    print("to nobody")
    print("to nobody", file=sys.stderr)
    assert not sys.stderr.isatty()
