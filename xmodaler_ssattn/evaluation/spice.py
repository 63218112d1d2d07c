"""SPICE 1.0 through pycocoevalcap's jar, in a private folder, with its answers kept.

pycocoevalcap's own wrapper downloads 400 MB at its first use and writes its temporary files and its cache of parses
into its package folder. Here a missing model is a reason that is known before training starts, and everything is
written into a temporary folder of this process, which keeps SPICE's cache of parsed captions for a whole run.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmodaler_ssattn.evaluation.jars import spice_class_path
from xmodaler_ssattn.evaluation.java import JavaError, run_java

# Parsing the five captions of 1,000 images takes many minutes the first time.
TIME_LIMIT_S = 7200.0

# SPICE 1.0 was written for Java 8. Two things keep it running on every Java since: the engine of
# ``jars.spice_engine_jar``, and these permissions.
# SPICE's serialiser looks into these packages by reflection, which Java 16 and later forbid unless told otherwise.
# The launcher of Java 8, which needs no permission and would refuse the option, does not read this variable.
_OPENED = ("java.lang", "java.lang.reflect", "java.math", "java.net", "java.nio", "java.text", "java.util")
_OPENED += ("java.util.concurrent", "java.util.concurrent.atomic", "sun.nio.ch")
_ENVIRONMENT = {"JDK_JAVA_OPTIONS": " ".join(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENED)}


class Spice:
    """SPICE's F of single captions; a (caption, references) pair that was scored before costs nothing.

    Args:
        arguments: what follows ``java``, before the file names; default the jars' class path and main class.
        time_limit_s: longest time for one call.
    """

    def __init__(self, arguments: Sequence[str] | None = None, time_limit_s: float = TIME_LIMIT_S) -> None:
        self._arguments = arguments
        self.time_limit_s = time_limit_s
        self._known: dict[tuple[str, ...], float] = {}
        self._folder: tempfile.TemporaryDirectory | None = None

    def scores(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(n,) F of each caption; NaN where SPICE gives none.

        Raises:
            JavaError: no models, SPICE died, took too long, or left out an answer.
        """
        keys = [(caption, *refs) for caption, refs in zip(captions, references, strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            self._known.update(zip(new, self._run(new)))
        return np.array([self._known[key] for key in keys], dtype=np.float64)

    def _run(self, pairs: list[tuple[str, ...]]) -> list[float]:
        arguments = self._arguments
        if arguments is None:
            try:
                class_path = os.pathsep.join(map(str, spice_class_path()))
            except FileNotFoundError as error:
                raise JavaError(str(error)) from error
            arguments = ["-Xmx8G", "-cp", class_path, "edu.anu.spice.SpiceScorer"]
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="ssattn_spice_", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        cache = folder / "cache"
        cache.mkdir(exist_ok=True)
        questions, answers = folder / "in.json", folder / "out.json"
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
