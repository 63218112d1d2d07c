"""The evaluator that X-modaler's trainer calls after every evaluated epoch, on either host.

The stock loop decodes each batch once and passes ``[{ID_KEY: int, VALUE: caption}, ...]``, but not the model.
Everything scored here (beam and greedy captions, boxes, forced references) is therefore stored in the caption object.
Names of scores begin with their split, because the stock hook would store val and test under the same name.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.evaluation.caption_files import keep_common, read_reference_captions
from xmodaler_ssattn.evaluation.doubts import grounding_doubts
from xmodaler_ssattn.evaluation.forced import forced_sentences, reachable_share
from xmodaler_ssattn.evaluation.grounding import GENERATED_SCORES
from xmodaler_ssattn.evaluation.gvd_format import read_reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.metrics import all_metrics, metric_names, what_can_run
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.evaluation.region_choice import check_classes_of
from xmodaler_ssattn.evaluation.results import ImageResult, Results, gvd_predictions, write_results
from xmodaler_ssattn.evaluation.scoring import ACCURACY, GREEDY, CaptionScorer, GroundingScorer, caption_sets, joined
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.host import EVALUATION_REGISTRY, comm
from xmodaler_ssattn.partners import decoder_attends

logger = logging.getLogger(__name__)

# The defaults of INFERENCE.METRICS and FINAL_METRICS, for a config without our keys.
DEFAULT_METRICS = ("Bleu", "ROUGE_L", "CIDEr", "F1")
DEFAULT_FINAL_METRICS = ("METEOR", "SPICE")
GROUNDING = "F1"
# METEOR takes seconds to start and uses 1 GB of memory while it runs. Short runs start it at once, in the background;
# in a long run the memory matters more than the wait at the end.
SHORT_RUN_EPOCHS = 20

_said: set[str] = set()


def _say_once(message: str) -> None:
    if message not in _said and comm.is_main_process():
        _said.add(message)
        logger.warning(message)


def split_of(cfg: Any, annfile: str, output_dir: str | None) -> str:
    """ "val" or "test": the split of ``annfile``. If both have the same file, the stock trainer gives val no folder."""
    val, test = cfg.INFERENCE.VAL_ANNFILE == annfile, cfg.INFERENCE.TEST_ANNFILE == annfile
    if val != test:
        return "val" if val else "test"
    return "val" if output_dir is None else "test"


def metrics_of(names: Iterable[str], split: str) -> tuple[str, ...]:
    """The metrics for a split: plain names, and names for this split only ("test/SPICE")."""
    pairs = [name.rpartition("/") for name in names]
    return tuple(metric for place, _, metric in pairs if place in ("", split))


def _caption_metrics(metrics: Iterable[str]) -> tuple[str, ...]:
    return metric_names(name for name in metrics if name != GROUNDING)


def scores_after_each_epoch(cfg: Any, split: str) -> tuple[str, ...]:
    """The names of the scores of ``INFERENCE.METRICS`` for a split that this machine can compute.

    Raises UserError: an unknown metric.
    """
    metrics = metrics_of(cfg.INFERENCE.get("METRICS", DEFAULT_METRICS), split)
    captions = [name for metric in _caption_metrics(metrics) for name in all_metrics()[metric].titles]
    names = [*captions, *(GREEDY + name for name in captions)]
    if GROUNDING in metrics and decoder_attends(cfg):
        names += GENERATED_SCORES
        names += [ACCURACY] if cfg.INFERENCE.get("GT_ATTENTION", False) else []
    return tuple(names)


@EVALUATION_REGISTRY.register()
class Flickr30kEntitiesEvaler:
    """Caption scores, and grounding scores when there is a reference.

    Config: ``INFERENCE.METRICS`` after every evaluated epoch and also ``INFERENCE.FINAL_METRICS`` after the last
    (``SOLVER.EPOCH``): names of ``metrics.all_metrics`` and "F1", and "test/SPICE" for one split only;
    ``DATALOADER.ANNO_FOLDER``, where ``grounding_{val,test}.json`` and ``lemmas.json`` are searched.

    Results go to ``OUTPUT_DIR/results/{val,test}_epoch_{n}.json``, or ``{val,test}_eval.json`` without training.

    Args:
        cfg: the full config.
        annfile: the split's reference captions, COCO style.
        output_dir: what the trainer passes; only used to tell val from test.

    Raises:
        UserError: a missing or broken annotation file, or an unknown metric.
    """

    def __init__(self, cfg: Any, annfile: str, output_dir: str | None) -> None:
        self.split = split_of(cfg, annfile, output_dir)
        inference = cfg.INFERENCE
        self._id_key, self._value = inference.ID_KEY, inference.VALUE
        self._save_attention = bool(inference.get("SAVE_ATTENTION", False))
        self._last_epoch = cfg.SOLVER.EPOCH
        self._folder = Path(cfg.OUTPUT_DIR) / "results"
        attends = decoder_attends(cfg)
        self._header = {"split": self.split}
        if attends:
            self._header["ground_by"] = inference.get("GROUND_BY", "gamma")
            self._header["region_rule"] = inference.get("REGION_RULE", "argmax")
        text = cfg.dump()
        self._header |= {"config_sha256": _sha256(text), "loss_sha256": _sha256(cfg.LOSSES.dump()), "config": text}
        self._metrics = metrics_of(inference.get("METRICS", DEFAULT_METRICS), self.split)
        final = metrics_of(inference.get("FINAL_METRICS", DEFAULT_FINAL_METRICS), self.split)
        self._final = (*self._metrics, *final)
        self._references = read_reference_captions(annfile)
        self._captions = CaptionScorer(self._references)
        self._grounding: _Grounding | None = None
        path = Path(cfg.DATALOADER.ANNO_FOLDER) / f"grounding_{self.split}.json"
        if GROUNDING in self._final:
            if not attends:
                _say_once(f"No grounding scores: MODEL.DECODER {cfg.MODEL.DECODER} has no attention.")
            elif not path.is_file():
                _say_once(f"No grounding scores for {self.split}: there is no {path}.")
            else:
                self._grounding = _Grounding(cfg, path)
                check_classes_of(cfg, self._grounding.records)
        self._previous: tuple[int, str, dict[str, float]] | None = None
        self._left_out = self._announce()

    def _announce(self) -> set[str]:
        """Warn before training of metrics that cannot be computed, and start METEOR in the background.

        Returns:
            the caption metrics to leave out.
        """
        wanted = _caption_metrics(self._final)  # also a check of the names, on every process
        if not comm.is_main_process():
            return set()
        reasons = {metric: reason for metric, reason in what_can_run(wanted).items() if reason}
        for metric, reason in reasons.items():
            _say_once(f"{metric} will be left out: {reason}.")
        soon = self._metrics if self._last_epoch > SHORT_RUN_EPOCHS else self._final
        self._captions.warm_up(_caption_metrics(soon))
        return set(reasons)

    def eval(self, results: Sequence[Mapping[str, Any]], epoch: int) -> dict[str, float]:
        """Score one pass over the split.

        Args:
            results: ``[{ID_KEY: int, VALUE: GroundedCaption, Caption or str}, ...]``; of a repeated id, the last is
                used.
            epoch: number of finished epochs; the last epoch, and a negative number (no training), add
                ``FINAL_METRICS``.

        Returns:
            ``{split}/Bleu_1`` ... for the main captions, ``{split}/greedy_...`` for greedy captions if present, and
            ``{split}/F1_all`` ... for the boxes of the greedy captions (see ``_Grounding.scores``). Fractions; a 0/0 is
            0.

        Raises:
            UserError: no results, or an image without reference captions.
        """
        captions = {int(record[self._id_key]): record[self._value] for record in results}
        fingerprint = _fingerprint(captions)
        if self._previous is not None and self._previous[:2] == (epoch, fingerprint):
            # The stock trainer evaluates the last epoch twice.
            return dict(self._previous[2])
        names = self._final if epoch < 0 or epoch >= self._last_epoch else self._metrics
        scores = self._caption_scores(captions, [m for m in _caption_metrics(names) if m not in self._left_out])
        images = [ImageResult(image_id, caption) for image_id, caption in captions.items()]
        object_words: dict[str, str] = {}
        if self._grounding is not None and GROUNDING in names:
            if all(result.grounded is not None for result in images):
                images, object_words = self._grounding.with_object_words(images)
                scores |= self._grounding.scores(images, object_words)
                doubts = grounding_doubts(self._grounding.records, gvd_predictions(images, object_words), "gen")
                self._warn_of(doubts)
            else:
                _say_once(f"No grounding scores for {self.split}: the captions have no regions.")
        header = {**self._header, "epoch": epoch, "scores": scores}
        name = f"{self.split}_epoch_{epoch}.json" if epoch >= 0 else f"{self.split}_eval.json"
        stored = Results(tuple(images), object_words, header)
        write_results(self._folder / name, stored, save_attention=self._save_attention)
        prefixed = {f"{self.split}/{key}": float(value) for key, value in scores.items()}
        self._previous = (epoch, fingerprint, prefixed)
        return dict(prefixed)

    def _warn_of(self, doubts: Iterable[str]) -> None:
        for doubt in doubts if comm.is_main_process() else ():
            logger.warning("%s: %s.", self.split, doubt)

    def _caption_scores(self, captions: Mapping[int, str], metrics: Sequence[str]) -> dict[str, float]:
        by_key = {str(image): caption for image, caption in captions.items()}
        _, missing = keep_common(self._references, by_key)
        if missing:
            logger.warning(
                "%s: %d of %d images have no caption and are not scored: %s",
                self.split, len(missing), len(self._references), ", ".join(missing[:10]),
            )  # fmt: skip
        scores = joined(self._captions.score_many(caption_sets(by_key), metrics))
        for metric, reason in scores.failed.items():
            _say_once(f"{metric} was left out: {reason}")
        self._warn_of(scores.doubts)
        return scores.values


class _Grounding:
    """Grounding scores against the reference of one split, in DATALOADER.ANNO_FOLDER. Raises UserError."""

    def __init__(self, cfg: Any, path: Path) -> None:
        words = Path(cfg.INFERENCE.VOCAB)
        vocabulary = read_lines(words, "Vocabulary") if words.is_file() else None
        reference = read_reference(path)
        self.records = reference.images
        self._captions = {int(record["image_id"]): record["captions"] for record in self.records}
        self._object_words = ObjectWords(reference.classes, Lemmas.of_folder(path.parent), vocabulary)
        self._scorer = GroundingScorer(self.records, self._object_words.lemmas, undefined=0.0)

    def with_object_words(self, images: Sequence[ImageResult]) -> tuple[list[ImageResult], dict[str, str]]:
        """(the results with their forced sentences, word -> class for the words of their captions)."""
        self._object_words.lemmas.reset_counts()
        captions = [c for r in images for c in (r.caption, r.grounded) if isinstance(c, GroundedCaption)]
        named = self._object_words.among(word.text for caption in captions for word in caption.words)
        return [
            ImageResult(r.image_id, r.caption, forced_sentences(r.image_id, references, r.caption.references))
            if isinstance(r.caption, GroundedCaption)
            and r.caption.references
            and (references := self._captions.get(r.image_id)) is not None
            else r
            for r in images
        ], named

    def scores(self, images: Sequence[ImageResult], object_words: Mapping[str, str]) -> dict[str, float]:
        """Those of ``GroundingScorer.score_results``; ``lemma_fallback``, the share of words that the lemma table
        lacks; ``reachable``, the share of annotated boxes that some region could hit, when the captions contain the
        regions of their images."""
        scores = dict(self._scorer.score_results(images, object_words).values)
        scores["lemma_fallback"] = self._object_words.lemmas.fallback_share
        boxes = {str(r.image_id): r.grounded.boxes_px for r in images if r.grounded is not None}
        regions = {image: np.asarray(found) for image, found in boxes.items() if found is not None}
        if regions:
            scores["reachable"] = reachable_share(self.records, regions, undefined=0.0)
        return scores


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _fingerprint(captions: Mapping[int, str]) -> str:
    """A digest of all captions and their chosen regions."""
    parts = []
    for image_id, caption in captions.items():
        for part in (caption, getattr(caption, "greedy", None)):
            regions = [word.region for word in part.words] if isinstance(part, GroundedCaption) else None
            parts.append((image_id, None if part is None else str(part), regions))
    return _sha256(repr(parts))
