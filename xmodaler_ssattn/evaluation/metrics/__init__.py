"""The caption metrics, one file each. Files in this folder are found automatically: to add a metric, add a file.

Such a file registers a subclass of ``Metric``. Its ``rows`` are the counts, one row per image; its ``values`` turn
weighted rows into a corpus score, because not all corpus scores are means (BLEU and METEOR sum the counts first). With
the rows kept, any resample of the images can be scored without counting again, as an interval over images needs.

A metric whose score is the mean over images only needs ``rows``::

    @register
    class Length(Metric):
        name, titles = "Length", {"Length": "Len"}

        def rows(self, captions, references):
            return np.array([len(caption.split()) for caption in captions], dtype=np.float64)
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.java import JavaError, find_java, tokenizer_jar

if TYPE_CHECKING:  # numpy is imported only for scoring: the command line needs the names only
    import numpy as np

USUAL_ORDER = ("Bleu", "METEOR", "ROUGE_L", "CIDEr", "SPICE")
"""The order in which papers print them; other metrics follow by name."""


class Metric:
    """One caption metric; an object may keep results between calls."""

    name: ClassVar[str]  # as users write it, in any case
    titles: ClassVar[Mapping[str, str]]  # name of each score -> its short title in tables and plans ("Bleu_4" -> "B@4")
    needs_java: ClassVar[bool] = False  # whether the metric itself needs Java; the tokeniser always does
    starts_slowly: ClassVar[bool] = False  # whether a background start pays off; it is then computed last

    @classmethod
    def check_files(cls) -> None:
        """Raise JavaError, with a remedy, when a file is missing."""

    def start(self) -> None:
        """Start a slow program in the background; called only where the metric can run."""

    def prepare(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Receive all texts of the coming calls of ``rows``, e.g. to run a program once. Raises JavaError."""

    def rows(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """(images, ...) float64: the contribution of each image. Captions and references are tokens joined by spaces.

        Raises JavaError: a program was not found, died or took too long.
        """
        raise NotImplementedError

    def values(self, rows: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Name of each score -> (m,) corpus scores for m rows of image weights, ``weights`` (m, images).

        Raises JavaError: as ``rows``.
        """
        return {self.name: weights @ rows / weights.sum(axis=1)}


_REGISTERED: dict[str, type[Metric]] = {}


def register(metric: type[Metric]) -> type[Metric]:
    """Class decorator: make a metric known under its name."""
    _REGISTERED[metric.name] = metric
    return metric


def file_names() -> tuple[str, ...]:
    """The names of the metrics' files, without importing them, for a help text."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def all_metrics() -> dict[str, type[Metric]]:
    """Name -> class, in ``USUAL_ORDER``."""
    for name in file_names():
        importlib.import_module(f"{__name__}.{name}")
    usual = [name for name in USUAL_ORDER if name in _REGISTERED]
    return {name: _REGISTERED[name] for name in (*usual, *sorted(_REGISTERED.keys() - usual))}


def metric_names(names: Iterable[str] | None = None) -> tuple[str, ...]:
    """The metrics for names in any case ("BLEU", "rouge-l"), in the order of ``all_metrics``; None: all of them.

    Raises UserError: there are unknown metrics; the message lists the known ones.
    """
    known = tuple(all_metrics())
    if names is None:
        return known
    by_name = {metric.lower().replace("_", ""): metric for metric in known}
    wanted = {str(name): by_name.get(str(name).lower().replace("_", "").replace("-", "")) for name in names}
    unknown = [name for name, metric in wanted.items() if metric is None]
    if unknown:
        raise UserError(f"Unknown metric {', '.join(unknown)}; expected some of {', '.join(known)}.")
    return tuple(metric for metric in known if metric in wanted.values())


def score_titles() -> dict[str, str]:
    """Short title -> name of the score, of all metrics: "B@4" -> "Bleu_4"."""
    return {title: score for metric in all_metrics().values() for score, title in metric.titles.items()}


def what_can_run(metrics: Iterable[str] | None = None, *, tokenized: bool = False) -> dict[str, str | None]:
    """Metric -> None when this machine can compute it, else the reason with a remedy.

    Args:
        metrics: names as ``metric_names`` takes them; None: all.
        tokenized: the captions are tokenised already, so that BLEU, ROUGE-L and CIDEr need no Java.
    """
    reasons: dict[str, str | None] = {}
    for name in metric_names(metrics):
        metric = all_metrics()[name]
        reasons[name] = None
        try:
            tokenizer_jar()  # a file of pycocoevalcap, which all metrics need
            if metric.needs_java or not tokenized:
                find_java()
            metric.check_files()
        except JavaError as error:
            reasons[name] = str(error)
    return reasons
