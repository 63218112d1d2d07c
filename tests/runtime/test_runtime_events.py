"""Scalars, their writers, and bars or lines for people."""

import io
import json
import logging
import sys
import threading
from types import SimpleNamespace

import pytest

from xmodaler_ssattn import progress as progress_module
from xmodaler_ssattn.progress import progress
from xmodaler_ssattn.runtime import EventStorage, JSONWriter, default_writers, get_event_storage, hooks, setup_logger
from xmodaler_ssattn.runtime.setup import FILE_ONLY


def test_noisy_scalars_are_medians_and_others_the_last_value():
    with EventStorage(start_iter=5) as storage:
        for value in (1, 9, 2):
            storage.put_scalar("loss", value)
            storage.put_scalar("lr", value, smoothing_hint=False)
            storage.step()
        assert get_event_storage() is storage
    assert storage.latest() == {"loss": (2.0, 7), "lr": (2.0, 7)}
    assert storage.latest_with_smoothing_hint(20) == {"loss": (2.0, 7), "lr": (2.0, 7)}  # median of 1, 9, 2
    assert storage.latest_with_smoothing_hint(2)["loss"] == (5.5, 7)  # median of 9, 2
    assert storage.history("loss").values() == [(1.0, 5), (9.0, 6), (2.0, 7)]
    with pytest.raises(KeyError, match="no scalar 'time'; there are: loss, lr"):
        storage.history("time")
    with pytest.raises(ValueError, match="'lr' was put with smoothing_hint=False before"):
        storage.put_scalar("lr", 1)


def test_outside_of_training_there_is_no_storage():
    with pytest.raises(RuntimeError, match="during training"):
        get_event_storage()


def test_json_lines_hold_each_value_once_and_appending_continues(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    with EventStorage() as storage:
        writer = JSONWriter(path)
        storage.put_scalar("a", 1)
        writer.write()
        writer.write()  # nothing new
        storage.iter = 3
        storage.put_scalar("b", float("nan"))
        writer.write()
        writer.close()
        JSONWriter(path).write()  # a second run in the same folder
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[:2] == [{"a": 1.0, "iteration": 0}, {"b": None, "iteration": 3}]
    assert rows[2:] == rows[:2]


def test_without_tensorboard_its_writer_is_left_out_with_a_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.INFO, logger="xmodaler_ssattn"):
        writers = default_writers(tmp_path, 10)
    assert [type(writer).__name__ for writer in writers] == ["CommonMetricPrinter", "JSONWriter"]
    assert "pip install tensorboard" in caplog.text


def test_loggers_write_to_stdout_and_file_and_a_second_setup_replaces_the_first(tmp_path, capsys):
    for name in ("one", "two"):
        setup_logger(tmp_path / name)
        logging.getLogger("xmodaler").info("from the host %s", name)
        logging.getLogger("xmodaler_ssattn.cli").info("from the plugin %s", name)
    assert capsys.readouterr().out.count("from the host two") == 1
    assert (tmp_path / "one" / "log.txt").read_text().count("from the") == 2
    setup_logger(tmp_path, distributed_rank=1)
    logging.getLogger("xmodaler").info("from the second process")
    assert "from the second process" not in capsys.readouterr().out
    assert "from the second process" in (tmp_path / "log.txt.rank1").read_text()
    setup_logger()


def test_what_the_bar_shows_goes_to_the_file_only(tmp_path, capsys):
    setup_logger(tmp_path / "file.log")
    logging.getLogger("xmodaler").info("losses", extra=FILE_ONLY)
    setup_logger()
    assert "losses" not in capsys.readouterr().out
    assert "losses" in (tmp_path / "file.log").read_text()


def test_progress_is_a_bar_on_a_terminal_and_rare_lines_elsewhere(monkeypatch):
    clock = iter([0.0, 4.0, 11.0, 12.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    lines = []
    assert list(progress("abc", desc="decoding", say=lines.append)) == ["a", "b", "c"]
    # one line, after 11 s and two of three: (11 / 2) * 1 = 5.5 s left
    assert lines == ["decoding: 2/3, 6 s left"]

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.undo()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress("abc", 3, "decoding")) == ["a", "b", "c"]
    assert "decoding" in terminal.getvalue()


def test_the_time_left_counts_the_evaluations_to_come(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 5.0, 17.0, 19.0])  # after each of six steps: 1 s, then 2 s each; the fifth evaluates
    monkeypatch.setattr(hooks.time, "perf_counter", lambda: next(clock))
    # 4 steps an epoch, 2 epochs, evaluated after each: 5 images in an evaluation, 10 in a step
    evaluation = hooks.EvalHook(1, -1, lambda epoch: {}, iters_per_epoch=4, stage="val", images=5)
    trainer = SimpleNamespace(iter=0, start_iter=0, max_iter=8)
    clocked = hooks.TimeLeft([evaluation], images_per_step=10)
    clocked.trainer = trainer
    left = []
    with EventStorage() as trainer.storage:
        for trainer.iter in range(6):
            if trainer.iter == 4:
                evaluation.seconds.append(10.0)
            clocked.after_step()
            left.append(trainer.storage.latest().get("eta_seconds", (None,))[0])
    # from the end of the second step on, 2 s a step; before the first evaluation it is taken to be 2 s * 5 / 10:
    # 5 steps and 2 evaluations 12, 4 and 1: 9, 3 and one of 10 s: 16, 2 and one: 14
    assert left == [None, None, 12, 9, 16, 14]


@pytest.mark.parametrize(
    ("period", "start", "after", "expected"),
    [(1, -1, 0, 3), (1, -1, 4, 2), (1, 1, 0, 2), (2, -1, 0, 2), (2, -1, 8, 1), (0, -1, 0, 1), (1, 9, 4, 1)],
)
def test_the_evaluations_to_come_are_those_of_the_schedule_and_the_last(period, start, after, expected):
    """Three epochs of four steps; with period 2 the third is the last one and is evaluated as well."""
    hook = hooks.EvalHook(period, start, lambda epoch: {}, iters_per_epoch=4, stage="val")
    assert hook.remaining(after, 12) == expected


def test_what_takes_longer_is_said_once_and_what_is_short_is_not(monkeypatch):
    monkeypatch.setattr(progress_module, "SECONDS_OF_SILENCE", 0.02)
    lines, said = [], threading.Event()

    def say(line):
        lines.append(line)
        said.set()

    with progress_module.doing("Reading a.json", say=say):
        assert said.wait(10)
    assert lines == ["Reading a.json ..."]
    monkeypatch.setattr(progress_module, "SECONDS_OF_SILENCE", 60)
    with progress_module.doing("Reading b.json", say=say):
        pass
    assert len(lines) == 1
    with progress_module.doing("Reading c.json", size=progress_module.LARGE, say=say):
        assert lines[-1] == "Reading c.json ..."  # parsing will let no other thread run
