"""SPICE 1.0 through pycocoevalcap's jar, in a private folder, with its answers kept.

pycocoevalcap's own wrapper downloads 400 MB at its first use and writes its temporary files and its cache of parses
into its package folder. Here a missing model is reported before training starts, and everything is written into a
temporary folder of this process, which keeps SPICE's cache of parsed captions for a whole run.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmodaler_ssattn.evaluation.java import JavaError, bundled, run_java
from xmodaler_ssattn.evaluation.metrics import Metric, register

# Parsing the five captions of 1,000 images takes many minutes the first time.
TIME_LIMIT_S = 7200.0

# SPICE 1.0 was written for Java 8. On later versions it needs the engine of ``spice_engine_jar`` and these permissions.
# SPICE's serialiser looks into these packages by reflection, which Java 16 and later forbid by default.
# The launcher of Java 8, which needs no permission and would refuse the option, does not read this variable.
_OPENED = (
    *("java.lang", "java.lang.reflect", "java.math", "java.net", "java.nio", "java.text", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "sun.nio.ch"),
)
_ENVIRONMENT = {"JDK_JAVA_OPTIONS": " ".join(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED)}
CORENLP_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
CORENLP_VARIABLE = "SSATTN_CORENLP"


def spice_engine_jar() -> Path:
    """A replacement for the JavaScript engine that SPICE needs and Java 15 removed; see resources/spice_engine.

    Raises JavaError: it is missing from this installation.
    """
    jar = Path(__file__).parents[1] / "resources" / "spice_engine" / "spice_engine.jar"
    if not jar.is_file():
        raise JavaError(f"{jar} is missing; reinstall xmodaler_ssattn")
    return jar


def spice_class_path() -> list[Path]:
    """SPICE 1.0, its libraries, the CoreNLP 3.6.0 jars, which pycocoevalcap does not contain, and our script engine.

    The CoreNLP jars are searched in the folder in ``SSATTN_CORENLP``, then in pycocoevalcap's ``spice/lib``.

    Raises JavaError: a file is missing; the message says how to get it.
    """
    spice = bundled("spice", "spice-1.0.jar")
    folder = spice.parent
    named = os.environ.get(CORENLP_VARIABLE, "").strip()
    for place in (*([Path(named).expanduser()] if named else []), folder / "lib"):
        corenlp = [place / name for name in CORENLP_JARS]
        if all(jar.is_file() for jar in corenlp):
            others = sorted(jar for jar in (folder / "lib").glob("*.jar") if jar.name not in CORENLP_JARS)
            return [spice, *others, *corenlp, spice_engine_jar()]
    lacks = f"{named} ({CORENLP_VARIABLE}) lacks" if named else f"{CORENLP_VARIABLE} names no folder with"
    raise JavaError(f"{lacks} the CoreNLP 3.6.0 jars; `xmodaler score captions --help` says how to get them")


@register
class Spice(Metric):
    """SPICE's F of single captions; the scores of (caption, references) pairs are cached.

    Args:
        arguments: those after ``java`` and before the file names; default the jars' class path and main class.
        time_limit_s: longest time for one call.
    """

    name, titles = "SPICE", {"SPICE": "S"}
    needs_java = True

    @classmethod
    def check_files(cls) -> None:
        spice_class_path()

    def __init__(self, arguments: Sequence[str] | None = None, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._arguments = arguments
        self.time_limit_s = time_limit_s
        self._known: dict[tuple[str, ...], float] = {}
        self._folder: tempfile.TemporaryDirectory | None = None

    def prepare(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        self.rows(captions, references)  # one start of the program for all sets; the answers are kept

    def rows(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(n,) F of each caption; NaN where SPICE gives none.

        Raises JavaError: no models, SPICE died, took too long, or left out an answer.
        """
        keys = [(caption, *refs) for caption, refs in zip(captions, references, strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            self._known.update(zip(new, self._run(new)))
        return np.array([self._known[key] for key in keys], dtype=np.float64)

    def _run(self, pairs: list[tuple[str, ...]]) -> list[float]:
        arguments = self._arguments
        if arguments is None:
            class_path = os.pathsep.join(map(str, spice_class_path()))
            arguments = ["-Xmx8G", "-cp", class_path, "edu.anu.spice.SpiceScorer"]
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="ssattn_spice_", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        cache, questions, answers = folder / "cache", folder / "in.json", folder / "out.json"
        cache.mkdir(exist_ok=True)
        answers.unlink(missing_ok=True)
        records = [{"image_id": i, "test": pair[0], "refs": list(pair[1:])} for i, pair in enumerate(pairs)]
        questions.write_text(json.dumps(records), encoding="utf-8")
        run_java(
            [*arguments, str(questions), "-cache", str(cache), "-out", str(answers), "-subset", "-silent"],
            what="SPICE",
            time_limit_s=self.time_limit_s,
            cwd=folder,
            env=_ENVIRONMENT,
        )
        try:
            found = {item["image_id"]: item["scores"]["All"]["f"] for item in json.loads(answers.read_text("utf-8"))}
            return [math.nan if found[i] is None else float(found[i]) for i in range(len(pairs))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JavaError(f"SPICE ended without a full answer ({type(error).__name__}: {error}).") from error

    def close(self) -> None:
        """Remove the private folder."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
