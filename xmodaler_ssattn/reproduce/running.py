"""Run the jobs, each training and each scoring in its own process: a crash of one does not affect another."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy
import torch

from xmodaler_ssattn import host
from xmodaler_ssattn._version import __version__
from xmodaler_ssattn.cli.child import python_module
from xmodaler_ssattn.cli.demo import last_words, memory_of_machine, state_of
from xmodaler_ssattn.engine.best import BEST_WEIGHTS
from xmodaler_ssattn.engine.resume import LAST_CHECKPOINT
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_lines, write_json
from xmodaler_ssattn.reproduce import jobs, settings
from xmodaler_ssattn.reproduce.evaluate import EVALUATION_FILE, evaluation_folder
from xmodaler_ssattn.reproduce.jobs import Job
from xmodaler_ssattn.reproduce.plan import BEST, LAST
from xmodaler_ssattn.reproduce.study import LOCK, Prepared, Study, decision_of, evaluations_of, prepare, take_evaluation

FINAL_WEIGHTS = "model_final.pth"
TERMINAL = "terminal.txt"
SCORING = "xmodaler_ssattn.reproduce.evaluate"  # run as a program
CPU_INFO = Path("/proc/cpuinfo")
SECONDS_BETWEEN_LINES = 30.0


class Failed(Exception):
    """A process of a run ended with an error: (status, reason)."""


def run_job(study: Study, job: Job) -> Generator[subprocess.Popen, int, str]:
    """Continue one run to its end. Yields each process that it starts, and receives its exit code.

    Returns:
        the run's status.
    """
    prepared = prepare(study, job)
    with _locked(prepared.folder, prepared.problem) as lock:
        if lock is None and not prepared.problem:
            _say(job, "is being worked on by another process")
            return jobs.RUNNING
        decision, record = decision_of(study, prepared)
        if not decision.train and not decision.evaluate:
            if decision.status != jobs.DONE:
                _say(job, f"{decision.status}: {decision.reason}")
                return decision.status
            if record["status"] == jobs.DONE:
                return jobs.DONE
        if record is None:
            record = jobs.new_record(job, prepared.identity, settings.identity_sha256(prepared.identity))
        if decision.train and (machine := machine_of(study.machine.device)) not in record.setdefault("machines", []):
            record["machines"].append(machine)
        record |= {"status": jobs.RUNNING, "reason": "", "host": host.NAME}
        jobs.write_record(prepared.folder, record)
        try:
            if decision.train:
                yield from _train(study, prepared, record, lock)
            if decision.evaluate:
                yield from _evaluate(study, prepared, record, decision.evaluate, lock)
            failed = [f"{n}: {e['failed']}" for n, e in record["evaluations"].items() if e.get("failed")]
            record |= {"status": jobs.FAILED if failed else jobs.DONE, "reason": "; ".join(failed)}
        except Failed as error:
            record["status"], record["reason"] = error.args
        record["epochs"] = jobs.epochs_of(prepared.folder)
        jobs.write_record(prepared.folder, record)
        _say(job, _outcome(record))
        return record["status"]


def _outcome(record: Mapping[str, Any]) -> str:
    if record["status"] != jobs.DONE:
        return f"{record['status']}: {record['reason']}"
    scores = record["evaluations"][BEST]["scores"]
    names = [name for name in ("CIDEr", "F1_all", "F1_loc") if scores.get(name) is not None]
    shown = [f"{name} {100 * scores[name]:.2f}" for name in names]
    seconds = sum(record["seconds"].values())
    return f"done in {seconds:.0f} s, best epoch {record['best_epoch']}: {', '.join(shown)}"


def _train(study: Study, prepared: Prepared, record: dict[str, Any], lock: IO) -> Generator:
    folder = prepared.folder
    words = settings.words_of(settings.training_values(prepared.values, folder))
    if study.machine.threads:
        words += ["MODEL.CPU_THREADS", str(study.machine.threads)]
    command = ["xmodaler_ssattn", "train", "--config-file", prepared.config, "--data", str(study.data.path)]
    if study.machine.device:
        command += ["--device", study.machine.device]
    if (folder / LAST_CHECKPOINT).is_file():
        command.append("--resume")
    started = time.monotonic()
    try:
        code = yield _start([*command, *words], folder, study, lock)
    finally:  # also when this program is interrupted
        record["seconds"]["train"] = round(record["seconds"]["train"] + time.monotonic() - started, 1)
        jobs.write_record(folder, record)
    record["best_epoch"] = jobs.best_record(folder)["best"]
    if code:
        raise Failed(*why(code, folder / TERMINAL))
    record["trained"] = True
    for path in (folder / "results").glob("val_epoch_*.json"):  # the scores are in best.json; each has megabytes
        if path.stem != f"val_epoch_{record['best_epoch']}":
            path.unlink()
    jobs.write_record(folder, record)


def _evaluate(study: Study, prepared: Prepared, record: dict[str, Any], names: Sequence[str], lock: IO) -> Generator:
    folder = prepared.folder
    wanted = evaluations_of(study.plan.rows[prepared.job.row])
    best = BEST_WEIGHTS if (folder / BEST_WEIGHTS).is_file() else FINAL_WEIGHTS
    job = {
        "run": str(folder), "config": prepared.config, "values": dict(prepared.values), "data": str(study.data.path),
        "device": study.machine.device, "threads": study.machine.threads, "metrics": list(study.metrics),
        "evaluations": {
            name: {"set": dict(wanted[name]), "weights": FINAL_WEIGHTS if name == LAST else best} for name in names
        },
    }  # fmt: skip
    for name in names:  # remove the output of an earlier process
        (evaluation_folder(folder, name) / EVALUATION_FILE).unlink(missing_ok=True)
    write_json(folder / "evaluate.json", job, indent=1)
    started = time.monotonic()
    try:
        code = yield _start([SCORING, str(folder / "evaluate.json")], folder, study, lock)
    finally:
        record["seconds"]["evaluate"] = round(record["seconds"]["evaluate"] + time.monotonic() - started, 1)
        for name in names:
            take_evaluation(folder, name, record)
        jobs.write_record(folder, record)
    if code not in (0, 3):
        raise Failed(*why(code, folder / TERMINAL))


def machine_of(device: str | None) -> dict[str, Any]:
    """What a run is computed on, as plain JSON: processor, memory, GPUs and versions.

    Args:
        device: of the runs; None: the host's default, a GPU when there is one.
    """
    lines = read_lines(CPU_INFO, "The processor") if CPU_INFO.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = memory_of_machine()
    use_gpus = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    return {
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": None if memory is None else round(memory / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if use_gpus else [],
        "system": platform.system(),
        "versions": {
            "xmodaler_ssattn": __version__, "Python": platform.python_version(), "PyTorch": str(torch.__version__),
            "CUDA": (torch.version.cuda or "none") if use_gpus else "none", "numpy": numpy.__version__,
        },
    }  # fmt: skip


def why(code: int, terminal: Path) -> tuple[str, str]:
    """(status, reason) of a process that ended with an error, from its exit code and the end of its output."""
    text = terminal.read_text(encoding="utf-8", errors="replace") if terminal.is_file() else ""
    if code < 0:
        return jobs.FAILED, f"killed by {signal.Signals(-code).name}"
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    found = text.rfind("\nFloatingPointError: ")
    if found >= 0:
        return jobs.DIVERGED, text[found:].strip().splitlines()[0].removeprefix("FloatingPointError: ")
    if "xmodaler: error: " in text:
        return jobs.FAILED, last_words(text).removeprefix("xmodaler: error: ")
    return jobs.FAILED, f"exit code {code}: {last.strip()}"


def _start(module: Sequence[str], folder: Path, study: Study, lock: IO) -> subprocess.Popen:
    """Start ``module``, a name and its arguments; output goes to terminal.txt, and the lock is held until it ends."""
    with open(folder / TERMINAL, "w", encoding="utf-8") as terminal:
        return subprocess.Popen(
            [*python_module(module[0]), *module[1:]],
            stdout=terminal,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=(lock.fileno(),),
        )


@contextlib.contextmanager
def _locked(folder: Path, problem: str) -> Iterator[IO | None]:
    """The lock of a run's folder, or None when another process has it (or there is nothing to lock).

    The processes that the run starts inherit the lock, so that one that outlives a killed program still holds it.
    """
    if problem:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


def _state(study: Study, job: Job, process: subprocess.Popen) -> str:
    scoring = any(SCORING in word for word in process.args)
    return f"{job.name}: {'scoring' if scoring else state_of(job.folder(study.out))}"


def next_job(study: Study, waiting: Sequence[Job], active: Mapping[Job, Any]) -> Job | None:
    """The first waiting job that does not need the weights of an unfinished job."""
    starts = ((job, study.plan.rows[job.row].start) for job in waiting)
    return next((job for job, start in starts if (start, job.seed) not in (*waiting, *active)), None)


def _say(job: Job, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {job.name}: {text}", flush=True)


def run_all(study: Study, wanted: Sequence[Job], at_once: int = 1, finished: Any = None) -> dict[Job, str]:
    """Run the jobs, ``at_once`` at a time.

    Args:
        finished: called after every run, e.g. to update the tables.

    Returns:
        status by job. An interrupted program ends the processes that it started; the runs can be resumed.
    """
    waiting, active, statuses = list(wanted), {}, {}
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def advance(job: Job, run: Generator, code: int | None) -> None:
        try:
            active[job] = (run, next(run) if code is None else run.send(code))
            return
        except StopIteration as end:
            statuses[job] = end.value
        except UserError as error:  # a damaged record affects only this run
            statuses[job] = jobs.FAILED
            _say(job, f"failed: {error}")
        active.pop(job, None)
        if finished is not None:
            finished()

    try:
        while waiting or active:
            while len(active) < at_once:
                job = next_job(study, waiting, active)
                if job is None:
                    break
                waiting.remove(job)
                advance(job, run_job(study, job), None)
            for job, (run, process) in list(active.items()):
                if process.poll() is not None:
                    advance(job, run, process.returncode)
            if time.monotonic() >= next_line and active:
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
                print("   ".join(_state(study, job, process) for job, (_, process) in active.items()), flush=True)
            if active:
                time.sleep(0.2)
    finally:
        for _, process in active.values():
            process.terminate()
        for run, process in active.values():
            process.wait()
            run.close()
    return statuses
