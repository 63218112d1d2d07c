"""Checkpoints within an epoch and polite stops: the resumed run is the run that was never stopped."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from runtime.toy_host import RuntimeToyEvaler, losses_of, toy_config, toy_trainer
from xmodaler_ssattn import stopping
from xmodaler_ssattn.runtime import HookBase, seed_all_rng
from xmodaler_ssattn.runtime.data import worker_init_reset_seed
from xmodaler_ssattn.stopping import Stopped, polite_stops
from xmodaler_ssattn.worlds.making import map_in_processes

STEPS, EPOCHS = 4, 3  # 13 images, 3 a batch


@pytest.fixture(autouse=True)
def fresh_evaluator(monkeypatch):
    monkeypatch.setattr(RuntimeToyEvaler, "calls", [])
    monkeypatch.setattr(RuntimeToyEvaler, "fail_at_epoch", None)


class Signal(HookBase):
    """Sends a signal to this process during a step."""

    def __init__(self, at, number=signal.SIGTERM):
        self.at, self.number = at, number

    def before_step(self):
        if self.trainer.iter == self.at:
            os.kill(os.getpid(), self.number)


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def everything(trainer):
    moments = [value.tolist() for state in trainer.optimizer.state.values() for value in state.values()]
    return [p.tolist() for p in trainer.model.parameters()], moments, trainer.scheduler.state_dict(), trainer.ss_prob


def run(folder, *opts, resume=False, at=None, number=signal.SIGTERM):
    seed_all_rng(999)  # another process has other random states
    trainer = toy_trainer(toy_config(folder, "SOLVER.EPOCH", EPOCHS, *opts), resume=resume)
    if at is not None:
        trainer.register_hooks([Signal(at, number)])
    with polite_stops():
        trainer.train()
    return trainer


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_after_any_step_and_resumed_equals_an_uninterrupted_one(tmp_path, workers, capfd):
    opts = ("DATALOADER.NUM_WORKERS", workers)
    through = run(tmp_path / "through", *opts)
    wanted, losses, after, calls = everything(through), losses_of(through), states(), list(RuntimeToyEvaler.calls)
    # With processes that load data, a step in the first epoch, at its end and in a later one.
    for at in range(STEPS * EPOCHS) if not workers else (1, 3, 6):
        RuntimeToyEvaler.calls.clear()
        folder = tmp_path / f"stopped {at}"
        with pytest.raises(Stopped) as stopped:
            run(folder, *opts, at=at)
        assert stopped.value.code == 143
        name = (folder / "last_checkpoint").read_text()
        assert f"Iter_{at:07d}" in name or (at == STEPS * EPOCHS - 1 and name == "model_final.pth")
        resumed = run(folder, *opts, resume=True)
        assert resumed.start_iter == at + 1
        assert (everything(resumed), states()) == (wanted, after), at
        assert RuntimeToyEvaler.calls == calls
        if at < STEPS * EPOCHS - 1:
            assert losses_of(resumed) == losses[at + 1 :]
    assert "SIGTERM: this run stops after the present step" in capfd.readouterr().err


def test_a_checkpoint_every_n_steps_is_as_good_as_one_at_the_end_of_an_epoch(tmp_path):
    through = run(tmp_path / "through")
    wanted = everything(through)
    folder = tmp_path / "parts"
    seed_all_rng(999)
    first = toy_trainer(toy_config(folder, "SOLVER.EPOCH", EPOCHS, "SOLVER.CHECKPOINT_STEPS", 3))

    class Killed(HookBase):
        def after_step(self):
            if self.trainer.iter == 7:
                raise KeyboardInterrupt

    first.register_hooks([Killed()])
    with pytest.raises(KeyboardInterrupt):
        first.train()
    names = sorted(path.name for path in folder.glob("model_*"))
    # After steps 3, 6 and at the epochs' ends 4 and 8; a step that is both is one checkpoint.
    assert names == [
        "model_Epoch_00001_Iter_0000003.pth",
        "model_Epoch_00002_Iter_0000007.pth",
        "model_Iter_0000002.pth",
        "model_Iter_0000005.pth",
    ]
    (folder / "last_checkpoint").write_text("model_Iter_0000005.pth")
    assert everything(run(folder, resume=True)) == wanted


def test_a_trainer_that_takes_its_batches_itself_is_saved_after_epochs_only(tmp_path, monkeypatch):
    from xmodaler_ssattn.runtime import DefaultTrainer

    def own(self):
        batch = next(self._train_data_loader_iter, None) if self._train_data_loader_iter else None
        if batch is None:
            self._train_data_loader_iter = iter(self.train_data_loader)
            batch = next(self._train_data_loader_iter)
        return batch

    monkeypatch.setattr(DefaultTrainer, "_next_batch", own)
    with pytest.raises(Stopped):
        run(tmp_path, "SOLVER.CHECKPOINT_STEPS", 1, at=6)
    assert [path.name for path in tmp_path.glob("model_*")] == ["model_Epoch_00001_Iter_0000003.pth"]
    assert run(tmp_path, resume=True).start_iter == 4


def test_a_checkpoint_after_some_minutes(tmp_path):
    trainer = toy_trainer(toy_config(tmp_path, "SOLVER.EPOCH", 1, "SOLVER.CHECKPOINT_MINUTES", 1e-9))
    trainer.train()
    assert len(list(tmp_path.glob("model_Iter_*"))) == STEPS - 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_the_exit_code_is_the_signals(tmp_path, number):
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, at=1, number=number)
    assert stopped.value.code == 128 + number


def test_an_evaluation_is_not_waited_for_and_is_done_by_the_resumed_run(tmp_path, monkeypatch):
    through = run(tmp_path / "through")
    wanted, calls = everything(through), list(RuntimeToyEvaler.calls)
    RuntimeToyEvaler.calls.clear()
    evaluate = RuntimeToyEvaler.eval

    def told_to_stop(self, results, epoch):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the evaluation went on")
        return evaluate(self, results, epoch)

    monkeypatch.setattr(RuntimeToyEvaler, "eval", told_to_stop)
    with pytest.raises(Stopped):
        run(tmp_path / "stopped")
    assert RuntimeToyEvaler.calls == calls[:1]
    monkeypatch.setattr(RuntimeToyEvaler, "eval", evaluate)
    assert everything(run(tmp_path / "stopped", resume=True)) == wanted and RuntimeToyEvaler.calls == calls


def test_the_handlers_of_the_program_around_come_back():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with pytest.raises(ZeroDivisionError), polite_stops():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.requested() == signal.SIGTERM
        raise ZeroDivisionError
    assert stopping.requested() == 0
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    threads = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer) and thread.is_alive()]
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_a_request_that_arrives_twice_is_one_and_a_later_one_ends_the_process(monkeypatch):
    now, ended = [100.0], []
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    with polite_stops():
        os.kill(os.getpid(), signal.SIGINT)
        for now[0] in (100.0, 100.9):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.requested() == signal.SIGINT
        monkeypatch.setattr(stopping.os, "kill", lambda pid, number: ended.append((pid, number)))
        now[0] = 101.0
        signal.raise_signal(signal.SIGTERM)
    assert ended == [(os.getpid(), signal.SIGTERM)]


def test_in_another_thread_nothing_changes():
    seen = []

    def work():
        with polite_stops():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the sender of a signal cannot be known here")
def test_only_the_parents_sigterm_ends_a_process_that_loads_data():
    iterator = iter(DataLoader(range(8), num_workers=1, worker_init_fn=worker_init_reset_seed))
    next(iterator)
    (worker,) = iterator._workers
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        subprocess.run([sys.executable, "-c", f"import os; os.kill({worker.pid}, {int(number)})"], check=True)
    assert [int(next(iterator)) for _ in range(6)] == [1, 2, 3, 4, 5, 6] and worker.is_alive()
    worker.terminate()  # as Python does at its end
    worker.join(30)
    assert worker.exitcode == 0


def test_a_fork_without_handlers_of_its_own_ends_when_it_is_told_to():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with stopping.polite_stops():
        process = context.Process(target=lambda: (ready.set(), time.sleep(60)))
        process.start()
        assert ready.wait(30)
        process.terminate()
        process.join(30)
        assert process.exitcode == 128 + signal.SIGTERM and stopping.requested() == 0


def test_a_signal_waits_for_a_process_of_a_pool_that_has_just_begun():
    with stopping.polite_stops(), stopping.starting_a_pool():
        process = multiprocessing.get_context("fork").Process(target=stopping.ended_by_its_pool)
        process.start()
        process.terminate()  # often before Python has begun in the fork
    process.join(30)
    assert process.exitcode == -signal.SIGTERM


def test_a_pool_can_end_its_processes_while_signals_are_noted():
    """A process that only notes SIGTERM would wait for its next task, and the pool for the process."""
    with stopping.polite_stops():
        found = list(map_in_processes(signal.getsignal, [signal.SIGTERM] * 8, workers=2))
    assert found == [signal.SIG_DFL] * 8
