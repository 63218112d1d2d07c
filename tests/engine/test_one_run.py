"""One run, one folder."""

import json
import os
import signal
import subprocess
import sys

import pytest

from xmodaler_ssattn.engine.one_run import EndWhenAsked, cut_metrics, make_room, only_run_in
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.stopping import Stopped, polite_stops

HOLD = """
import sys, time
from pathlib import Path
from xmodaler_ssattn.engine.one_run import only_run_in
with only_run_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_in_the_folder_is_refused_until_the_first_has_ended_in_whatever_way(tmp_path):
    env = {**os.environ, "XMODALER_SSATTN_HOST": "embedded"}
    env.pop("XMODALER_HOME", None)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by another run .process {other.pid} on "), only_run_in(tmp_path):
            pass
        other.kill()
        other.wait()
        with only_run_in(tmp_path):
            assert f"process {os.getpid()} " in (tmp_path / ".running").read_text()


def test_a_new_run_over_an_old_one_is_refused_or_the_old_one_is_moved(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "metrics.json").write_text("")  # a run without a checkpoint has nothing to lose
    assert make_room(folder, move_aside=False) is None
    for number in (1, 2):
        folder.mkdir(exist_ok=True)
        (folder / "last_checkpoint").write_text(str(number))
        with pytest.raises(UserError, match=r"holds a run already \(last_checkpoint\)\. --resume"):
            make_room(folder, move_aside=False)
        assert make_room(folder, move_aside=True) == tmp_path / f"out.{number}"
    assert (tmp_path / "out.1" / "last_checkpoint").read_text() == "1" and not folder.exists()


def test_lines_that_are_written_again_are_removed_from_the_metrics(tmp_path):
    path = tmp_path / "metrics.json"
    cut_metrics(tmp_path, 4)
    assert not path.exists()
    path.write_text('{"iteration": 3, "a": 1}\n{"iteration": 4}\nbroken\n[]\n{"iteration": 1}\n{"iterat')
    cut_metrics(tmp_path, 4)
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [3, 1]


def test_the_hook_ends_a_run_that_was_asked_to_stop():
    hook = EndWhenAsked()
    hook.after_step()
    with polite_stops():
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Stopped) as stopped:
            hook.after_step()
    assert stopped.value.code == 129
    hook.after_step()
