"""Caption scores: BLEU 1-4, METEOR, ROUGE-L, CIDEr and SPICE through pycocoevalcap.

A metric that cannot be computed (no Java, no SPICE models, a process that died) costs that metric, with the reason,
never the run. ``what_can_run`` says it before training starts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation import jars
from xmodaler_ssattn.evaluation.corpus import (
    CorpusMetric,
    MeanMetric,
    bleu,
    cider,
    corpus_scores,
    meteor,
    rouge_l,
)
from xmodaler_ssattn.evaluation.doubts import caption_doubts
from xmodaler_ssattn.evaluation.java import JavaError, find_java
from xmodaler_ssattn.evaluation.meteor import Meteor, shared_meteor
from xmodaler_ssattn.evaluation.ptb import PtbTokenizer, one_line
from xmodaler_ssattn.evaluation.spice import Spice

METRICS = ("Bleu", "METEOR", "ROUGE_L", "CIDEr", "SPICE")
SCORES_OF = {metric: (metric,) for metric in METRICS} | {"Bleu": tuple(f"Bleu_{n}" for n in range(1, 5))}
"""metric -> the names of its scores."""


def metric_names(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics of ``METRICS`` for names in any case ("BLEU", "rouge-l"), in the order of ``METRICS``.

    Raises:
        UserError: names the unknown metrics and lists the known ones.
    """
    by_name = {metric.lower().replace("_", ""): metric for metric in METRICS}
    wanted, unknown = set(), []
    for name in names:
        metric = by_name.get(str(name).lower().replace("_", "").replace("-", ""))
        if metric is None:
            unknown.append(str(name))
        else:
            wanted.add(metric)
    if unknown:
        raise UserError(f"Unknown metric {', '.join(unknown)}; expected some of {', '.join(METRICS)}.")
    return tuple(metric for metric in METRICS if metric in wanted)


def what_can_run(metrics: Iterable[str] = METRICS, *, tokenized: bool = False) -> dict[str, str | None]:
    """metric -> None when this machine can compute it, else the reason with the way out.

    Args:
        metrics: names as ``metric_names`` takes them.
        tokenized: the captions are tokenised already, so that BLEU, ROUGE-L and CIDEr need no Java.
    """
    names = metric_names(metrics)
    try:
        jars.tokenizer_jar()
    except FileNotFoundError as error:
        return dict.fromkeys(names, str(error))
    try:
        find_java()
        no_java = None
    except JavaError as error:
        no_java = str(error)
    reasons: dict[str, str | None] = {}
    for name in names:
        needs_java = not tokenized or name in ("METEOR", "SPICE")
        reasons[name] = no_java if needs_java else None
        if reasons[name] is None and name in ("METEOR", "SPICE"):
            try:
                (jars.meteor_jar(), jars.meteor_paraphrases()) if name == "METEOR" else jars.spice_class_path()
            except FileNotFoundError as error:
                reasons[name] = str(error)
    return reasons


@dataclass(frozen=True)
class CaptionScores:
    """The result of ``CaptionScorer.score``.

    Attributes:
        scores: score name (``Bleu_1`` ... ``SPICE``) -> corpus score, for the metrics that worked.
        failed: metric -> reason, for those that did not.
        image_ids: the scored images, in the order of the metrics' rows.
        metrics: metric -> its rows, for intervals over images.
        doubts: what makes the scores doubtful (``doubts.caption_doubts``).
    """

    scores: dict[str, float]
    failed: dict[str, str]
    image_ids: tuple[Hashable, ...]
    metrics: dict[str, CorpusMetric] = field(repr=False, default_factory=dict)
    doubts: tuple[str, ...] = ()


class CaptionScorer:
    """Scores captions against fixed references; keeps what does not change between calls.

    Args:
        references: image -> its reference captions, at least one each.
        tokenized: captions and references are token strings already; PTB tokenising is left out.
        meteor: the METEOR process; default the run's shared one.
        spice: default one of its own.
        tokenizer: default one of its own.

    Raises:
        UserError: an image without references.
    """

    def __init__(
        self,
        references: Mapping[Hashable, Sequence[str]],
        *,
        tokenized: bool = False,
        meteor: Meteor | None = None,
        spice: Spice | None = None,
        tokenizer: PtbTokenizer | None = None,
    ) -> None:
        empty = [str(image) for image, captions in references.items() if not captions]
        if empty:
            raise UserError(f"References: no caption for image {', '.join(empty[:10])}.")
        self._references = {image: tuple(captions) for image, captions in references.items()}
        self._tokenized = tokenized
        self._meteor = meteor
        self._spice = spice or Spice()
        self._tokenizer = tokenizer or PtbTokenizer()
        self._rouge_known: dict[tuple[str, ...], float] = {}

    @property
    def meteor(self) -> Meteor:
        """The METEOR process in use."""
        return self._meteor or shared_meteor()

    def warm_up(self, metrics: Iterable[str] = METRICS) -> None:
        """Start METEOR in the background when it will be needed and can run; returns at once."""
        if "METEOR" in metric_names(metrics) and what_can_run(["METEOR"])["METEOR"] is None:
            self.meteor.start()

    def score(self, captions: Mapping[Hashable, str], metrics: Iterable[str] = METRICS) -> CaptionScores:
        """Score one caption for each image; images without a caption are left out.

        Args:
            captions: image -> caption.
            metrics: names as ``metric_names`` takes them.

        Raises:
            UserError: a caption of an image that has no references, an unknown metric, or no caption at all.
        """
        return self.score_many({"": captions}, metrics)[""]

    def score_many(
        self, sets: Mapping[str, Mapping[Hashable, str]], metrics: Iterable[str] = METRICS
    ) -> dict[str, CaptionScores]:
        """``score`` for several sets of captions, e.g. beam and greedy, with one start of each program.

        A metric that fails for one set is not tried for the next. Raises as ``score``.
        """
        names = metric_names(metrics)
        for captions in sets.values():
            self._check(captions)
        failed = {name: reason for name, reason in what_can_run(names, tokenized=self._tokenized).items() if reason}
        # The references' order decides, as in pycocoevalcap, whatever order the captions come in.
        images = {key: tuple(i for i in self._references if i in captions) for key, captions in sets.items()}
        try:
            tokens = self._tokens([(sets[key][i], self._references[i]) for key in sets for i in images[key]])
        except JavaError as error:
            failed = dict.fromkeys(names, str(error)) | failed
            return {key: CaptionScores({}, dict(failed), images[key]) for key in sets}
        if "SPICE" in names and "SPICE" not in failed:
            try:
                self._spice.scores(*zip(*tokens))  # all at once; the sets below then find their answers kept
            except JavaError as error:
                failed["SPICE"] = str(error)
        rest = iter(tokens)
        return {key: self._score_set(names, images[key], [next(rest) for _ in images[key]], failed) for key in sets}

    def _check(self, captions: Mapping[Hashable, str]) -> None:
        unknown = [str(image) for image in captions if image not in self._references]
        if unknown:
            raise UserError(f"Captions: no references for image {', '.join(unknown[:10])} ({len(unknown)} in all).")
        if not captions:
            raise UserError("Captions: there is none to score.")

    def _score_set(
        self,
        names: Sequence[str],
        images: tuple[Hashable, ...],
        tokens: Sequence[tuple[str, list[str]]],
        failed: dict[str, str],
    ) -> CaptionScores:
        """The scores of one set; what fails is added to ``failed``."""
        captions, references = [caption for caption, _ in tokens], [refs for _, refs in tokens]
        computed: dict[str, CorpusMetric] = {}
        scores: dict[str, float] = {}
        # METEOR last: its process may still be starting.
        for name in sorted(names, key="METEOR".__eq__):
            if name in failed:
                continue
            try:
                metric = self._compute(name, captions, references)
                scores |= corpus_scores({name: metric}, len(images))
            except JavaError as error:
                failed[name] = str(error)
            else:
                computed[name] = metric
        scores = {score: scores[score] for name in names for score in SCORES_OF[name] if score in scores}
        by_image = dict(zip(images, captions))
        doubts = caption_doubts(by_image, dict(zip(images, references)), tuple(computed))
        if "SPICE" in computed and (undefined := int(np.isnan(computed["SPICE"].rows).sum())):
            doubts.append(
                f"SPICE has no score for {undefined} of {len(images)} captions, so none for the corpus either"
            )
        return CaptionScores(scores, dict(failed), images, computed, tuple(doubts))

    def _tokens(self, pairs: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[str, list[str]]]:
        """(caption, its references) as token strings."""
        flat = [text for caption, refs in pairs for text in (caption, *refs)]
        tokens = iter([one_line(text) for text in flat] if self._tokenized else self._tokenizer.tokenize(flat))
        return [(next(tokens), [next(tokens) for _ in refs]) for _, refs in pairs]

    def _compute(self, name: str, captions: list[str], references: list[list[str]]) -> CorpusMetric:
        if name == "Bleu":
            return bleu(captions, references)
        if name == "ROUGE_L":
            return rouge_l(captions, references, self._rouge_known)
        if name == "CIDEr":
            return cider(captions, references)
        if name == "METEOR":
            return meteor(captions, references, self.meteor)
        return MeanMetric("SPICE", self._spice.scores(captions, references))

    def close(self) -> None:
        """Remove SPICE's private folder; the shared METEOR ends with the program."""
        self._spice.close()
