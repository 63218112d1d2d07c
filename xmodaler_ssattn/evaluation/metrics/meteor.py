"""METEOR 1.5 through pycocoevalcap's jar: one process for a whole run, started early, answers kept.

Starting it takes 5 to 16 seconds (it reads its paraphrase table), so it is started in the background and shared. The
protocol is METEOR's own ``-stdio``: ``SCORE`` turns a caption and its references into a line of counts, ``EVAL`` turns
counts into a score. A corpus score is one ``EVAL`` of the sum of ``addends``, the counts as METEOR adds them up.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Sequence

import numpy as np

from xmodaler_ssattn.evaluation.java import JavaError, LineServer, bundled, java_command
from xmodaler_ssattn.evaluation.metrics import Metric, register
from xmodaler_ssattn.evaluation.ptb import one_line

TIME_LIMIT_S = 300.0
SEPARATOR = "|||"

# The 23 counts, in METEOR's order: words, and function words, of the caption and of the reference; for each of the four
# matchers (exact, stem, synonym, paraphrase) the matched content words of both, then the matched function words of
# both; chunks; matched words of both. "Reference" is the one that gives the caption its best score.
FIELDS = 23
CAPTION_LENGTH, REFERENCE_LENGTH, CHUNKS = 0, 1, 20
CAPTION_MATCHES, REFERENCE_MATCHES = slice(4, CHUNKS, 2), slice(5, CHUNKS, 2)


def meteor_files() -> list[str]:
    """METEOR 1.5 and its table of English paraphrases. Raises JavaError."""
    return [str(bundled("meteor", "meteor-1.5.jar")), str(bundled("meteor", "data", "paraphrase-en.gz"))]


def meteor_command() -> list[str]:
    """The command line; the parallel collector and a large initial heap save a third of its start. Raises JavaError."""
    options = ["-Xms1G", "-Xmx2G", "-XX:+UseParallelGC"]
    # METEOR finds its paraphrases by itself only if its path has no space and only ASCII letters.
    jar, paraphrases = meteor_files()
    return java_command(*options, "-jar", jar, "-", "-", "-stdio", "-l", "en", "-norm", "-a", paraphrases)


def addends(counts: np.ndarray) -> np.ndarray:
    """The contribution of each caption to METEOR's total over a corpus: its counts, but 0 chunks for a perfect match.

    METEOR gives a caption no fragmentation penalty when all its words and all words of the reference are matched in one
    chunk, and when it adds up counts it keeps that chunk out of the total (``MeteorStats.addStats`` of METEOR 1.5).

    Args:
        counts: (n, 23) of n captions, from ``Meteor.counts``.

    Returns:
        (n, 23), a copy. Sums of its rows, and of repeated rows, are METEOR's totals exactly: all are whole numbers.

    Raises:
        JavaError: the number of counts is wrong, as from another version of METEOR.
    """
    counts = np.array(counts, dtype=np.float64)
    if counts.shape[1:] != (FIELDS,):
        raise JavaError(f"METEOR answered {counts.shape[-1]} counts per caption where {FIELDS} were expected.")
    perfect = (
        (counts[:, CAPTION_MATCHES].sum(axis=1) == counts[:, CAPTION_LENGTH])
        & (counts[:, REFERENCE_MATCHES].sum(axis=1) == counts[:, REFERENCE_LENGTH])
        & (counts[:, CHUNKS] == 1)
    )
    counts[perfect, CHUNKS] = 0.0
    return counts


def _clean(text: str) -> str:
    """The text as pycocoevalcap sends it, but without the protocol's separator and line ends."""
    return one_line(text.replace(SEPARATOR, " ")).replace("  ", " ")


class Meteor:
    """METEOR's process and the counts that it has returned so far.

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

    def start(self) -> LineServer:
        """The process; started if it is not running, without waiting until it is ready. Raises JavaError."""
        if self._server is None or not self._server.alive:
            self._server = LineServer(self._command or meteor_command(), "METEOR")
        return self._server

    def counts(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(n, 23) float64 counts of n captions, each against the reference that gives it its best score.

        Raises JavaError: METEOR died, took too long, or did not answer with numbers.
        """
        lines = [
            f"SCORE {SEPARATOR} {f' {SEPARATOR} '.join(_clean(r) for r in refs)} {SEPARATOR} {_clean(caption)}"
            for caption, refs in zip(captions, references, strict=True)
        ]
        with self._lock:
            new = [line for line in dict.fromkeys(lines) if line not in self._counts]
            if new:
                answers = self.start().ask(new, len(new), self.time_limit_s)
                width = len(answers[0].split())
                for answer in answers:
                    if len(answer.split()) != width or not _all_numbers(answer.split()):
                        # Stop here: after a surplus line, every later answer would belong to another question.
                        self.close()
                        raise JavaError(f"METEOR answered {answer[:200]!r} where counts were expected.")
                self._counts.update(zip(new, answers))
            rows = [self._counts[line].split() for line in lines]
        return np.array(rows, dtype=np.float64)

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """(m, 23) counts -> (m,) scores: of single captions, or of corpora when a row is a sum of ``addends``.

        Raises JavaError: as ``counts``.
        """
        counts = np.asarray(counts, dtype=np.float64)
        if not len(counts):
            return np.zeros(0)
        lines = [f"EVAL {SEPARATOR} {' '.join(map(repr, row))}" for row in counts.tolist()]
        with self._lock:
            # The answer to one line of counts is its score, then the total over this one line.
            answers = self.start().ask(lines, 2 * len(lines), self.time_limit_s)
        try:
            return np.array([float(answer) for answer in answers[::2]])
        except ValueError as error:
            self.close()  # after a surplus line, every later answer would belong to another question
            raise JavaError(f"METEOR did not answer with a score: {error}") from error

    def close(self) -> None:
        """End the process; the next call starts a new one."""
        if self._server is not None:
            self._server.close()
            self._server = None


def _all_numbers(row: Sequence[str]) -> bool:
    return bool(row) and all(value.replace(".", "", 1).replace("E-", "", 1).isdigit() for value in row)


_shared: Meteor | None = None


def shared_meteor() -> Meteor:
    """The one METEOR of this run: val and test, beam and greedy, every epoch."""
    global _shared
    if _shared is None:
        _shared = Meteor()
        atexit.register(_shared.close)
    return _shared


@register
class MeteorMetric(Metric):
    """METEOR of summed counts.

    Args:
        process: the METEOR to use; None: the shared one of this run.
    """

    name, titles = "METEOR", {"METEOR": "M"}
    needs_java = starts_slowly = True

    def __init__(self, process: Meteor | None = None) -> None:
        self.process = process or shared_meteor()

    @classmethod
    def check_files(cls) -> None:
        meteor_files()

    def start(self) -> None:
        self.process.start()

    def rows(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(images, 23): the contribution of each image to METEOR's total, see ``addends``."""
        return addends(self.process.counts(captions, references))

    def values(self, rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"METEOR": self.process.scores(weights @ rows)}
