"""METEOR 1.5 through pycocoevalcap's jar: one process for a whole run, started early, answers kept.

Its start alone takes 5 to 16 seconds (it reads its paraphrase table), which is why it is started in the background
and shared. The protocol is METEOR's own ``-stdio``: ``SCORE`` turns a caption and its references into a line of
counts, ``EVAL`` turns counts into a score. The counts of several captions add up, so a corpus score is one ``EVAL``
of their sum.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Sequence

import numpy as np

from xmodaler_ssattn.evaluation.jars import meteor_jar
from xmodaler_ssattn.evaluation.java import JAVA_OPTIONS, JavaError, LineServer, find_java

TIME_LIMIT_S = 300.0
SEPARATOR = "|||"


def meteor_command() -> list[str]:
    """The command line; the parallel collector and a large first heap save about a third of the start.

    Raises:
        JavaError: no Java.
        FileNotFoundError: no jar.
    """
    options = ["-Xms1G", "-Xmx2G", "-XX:+UseParallelGC"]
    arguments = ["-jar", str(meteor_jar()), "-", "-", "-stdio", "-l", "en", "-norm"]
    return [find_java(), *JAVA_OPTIONS, *options, *arguments]


def _clean(text: str) -> str:
    return " ".join(text.replace(SEPARATOR, " ").split())


class Meteor:
    """METEOR's process and the counts that it gave so far.

    Args:
        command: how to start it; default the jar.
        time_limit_s: longest wait for one answer, the start included.
    """

    def __init__(self, command: Sequence[str] | None = None, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._command = command
        self.time_limit_s = time_limit_s
        self._server: LineServer | None = None
        self._counts: dict[str, str] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process unless it runs; does not wait until it is ready.

        Raises:
            JavaError: no Java, or it cannot be started.
        """
        if self._server is None or not self._server.alive:
            try:
                command = self._command or meteor_command()
            except FileNotFoundError as error:
                raise JavaError(str(error)) from error
            self._server = LineServer(command, "METEOR")

    def counts(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(n, fields) float64 counts of n captions against their references.

        Raises:
            JavaError: METEOR died, took too long, or answered something else than numbers.
        """
        lines = [
            f"SCORE {SEPARATOR} {f' {SEPARATOR} '.join(_clean(r) for r in refs)} {SEPARATOR} {_clean(caption)}"
            for caption, refs in zip(captions, references, strict=True)
        ]
        with self._lock:
            new = [line for line in dict.fromkeys(lines) if line not in self._counts]
            if new:
                self.start()
                self._counts.update(zip(new, self._server.ask(new, len(new), self.time_limit_s)))
            rows = [self._counts[line].split() for line in lines]
        try:
            return np.array(rows, dtype=np.float64)
        except ValueError:
            wrong = next(row for row in rows if len(row) != len(rows[0]) or not _all_numbers(row))
            raise JavaError(f"METEOR answered {' '.join(wrong)[:200]!r} where counts were expected.") from None

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """(m, fields) counts -> (m,) scores. Give the sum over a corpus as one row to get the corpus score.

        Raises:
            JavaError: as ``counts``.
        """
        counts = np.asarray(counts, dtype=np.float64)
        if not len(counts):
            return np.zeros(0)
        lines = [f"EVAL {SEPARATOR} {' '.join(map(repr, row))}" for row in counts.tolist()]
        with self._lock:
            self.start()
            # One line of counts is answered by its own score and by the total over that one line.
            answers = self._server.ask(lines, 2 * len(lines), self.time_limit_s)
        try:
            return np.array([float(answer) for answer in answers[::2]])
        except ValueError as error:
            raise JavaError(f"METEOR answered something else than a score: {error}") from error

    def close(self) -> None:
        """End the process; the next question starts a new one."""
        if self._server is not None:
            self._server.close()
            self._server = None


def _all_numbers(row: Sequence[str]) -> bool:
    return all(value.replace(".", "", 1).replace("E-", "", 1).isdigit() for value in row)


_shared: Meteor | None = None


def shared_meteor() -> Meteor:
    """The one METEOR of this run: val and test, beam and greedy, every epoch."""
    global _shared
    if _shared is None:
        _shared = Meteor()
        atexit.register(_shared.close)
    return _shared
