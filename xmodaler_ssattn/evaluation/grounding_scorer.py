"""From captions that carry boxes to the grounding scores of one split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.evaluation.forced import attention_accuracy, match_forced, reachable_share
from xmodaler_ssattn.evaluation.grounding import generated_scores, match_generated
from xmodaler_ssattn.evaluation.gvd_format import Reference
from xmodaler_ssattn.evaluation.lemmas import Lemmas
from xmodaler_ssattn.evaluation.object_words import ObjectWords
from xmodaler_ssattn.evaluation.results import ImageResult, gvd_predictions

UNKNOWN = "unk"  # the vocabulary's UNK, lower-cased


class GroundingScorer:
    """Grounding scores against one reference.

    Args:
        reference: images and class names; the order of the names decides where lemmas collide.
        lemmas: word -> lemma, with its count of fallbacks.
        vocabulary: the words that the model can say; None: every class is reachable. See ``lemmas.class_of_lemma``.
    """

    def __init__(self, reference: Reference, lemmas: Lemmas, vocabulary: Iterable[str] | None = None) -> None:
        self.reference = reference
        self.lemmas = lemmas
        self._object_words = ObjectWords(reference.classes, lemmas, vocabulary)
        self._captions = {int(record["image_id"]): record["captions"] for record in reference.images}

    def object_words(self, words: Iterable[str]) -> dict[str, str]:
        """word -> class for those of ``words`` that name an object."""
        return self._object_words.among(words)

    def forced_sentences(self, image_id: int, references: Sequence[GroundedCaption]) -> tuple[dict[str, Any], ...]:
        """GVD's gt-mode sentences: at each annotated word, its class and the box attended to under teacher forcing.

        The forced captions hold the reference's tokens without empty ones, possibly cut at the model's length; an
        annotated word beyond the cut is left out, which the metric counts as a miss.

        Returns:
            One sentence for each reference caption; () for an image that the reference lacks.

        Raises:
            UserError: another number of captions than the reference has, or other words at the same place.
        """
        captions = self._captions.get(image_id)
        if captions is None:
            return ()
        if len(captions) != len(references):
            raise UserError(
                f"image {image_id}: {len(references)} forced captions for {len(captions)} of the grounding reference; "
                "do the annotations and the reference come from the same `xmodaler prepare`?"
            )
        sentences = []
        for caption, forced in zip(captions, references):
            positions = [i for i, token in enumerate(caption["tokens"]) if token != ""]
            said = [word.text.lower() for word in forced.words]
            written = [caption["tokens"][i].lower() for i in positions][: len(said)]
            if len(said) > len(written) or any(a != b for a, b in zip(said, written) if a != UNKNOWN):
                raise UserError(
                    f"image {image_id}: the forced caption {str(forced)!r} is not the reference's "
                    f"{' '.join(written)!r}; do annotations and reference come from the same `xmodaler prepare`?"
                )
            box_at = {position: word.box_px for position, word in zip(positions, forced.words)}
            kept = [(i, name) for i, name in zip(caption["process_idx"], caption["process_clss"]) if i in box_at]
            sentences.append(
                {
                    "clss": [name for _, name in kept],
                    "idx_in_sent": [i for i, _ in kept],
                    "bbox": [list(box_at[i]) for i, _ in kept],
                }
            )
        return tuple(sentences)

    def scores(
        self, images: Sequence[ImageResult], object_words: Mapping[str, str], *, undefined: float = 0.0
    ) -> dict[str, float]:
        """All grounding scores of the split, as fractions.

        Args:
            images: results whose captions carry boxes.
            object_words: from ``object_words`` over the words of these captions.
            undefined: the value of a 0/0.

        Returns:
            those of ``generated_scores``; ``lemma_fallback``, the share of words looked up that the lemma table
            lacks; ``reachable``, the share of annotated boxes that some region could hit, when the captions carry
            their image's regions; ``attention_accuracy`` when they carry forced references.
        """
        records = self.reference.images
        matches = match_generated(records, gvd_predictions(images, object_words), self.lemmas)
        scores = generated_scores(matches, undefined=undefined)
        scores["lemma_fallback"] = self.lemmas.fallback_share
        regions = {
            str(result.image_id): np.asarray(result.grounded.boxes_px)
            for result in images
            if result.grounded.boxes_px is not None
        }
        if regions:
            scores["reachable"] = reachable_share(records, regions, undefined=undefined)
        forced = [result for result in images if result.forced]
        if forced:
            matches = match_forced(records, gvd_predictions(forced, object_words, mode="gt"))
            scores["attention_accuracy"] = attention_accuracy(matches, undefined=undefined)
        return scores
