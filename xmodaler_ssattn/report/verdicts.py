"""Whether the box of a word is right, for display; the published score is in ``evaluation/grounding.py``.

The metric compares a sentence with each of five references in turn, so a word can be right against one and wrong
against another. On a page a word gets one verdict, against all references of its image together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xmodaler_ssattn.boxes import IOU_THRESHOLD, iou_gvd
from xmodaler_ssattn.caption import GroundedCaption
from xmodaler_ssattn.report.source import Box

RIGHT, WRONG, ABSENT = "r", "w", "n"
"""On an annotated box of the word's class; annotated, but elsewhere; no box of the class annotated in the image."""


def verdict_of(box_px: Sequence[float], annotated: Sequence[Box]) -> str:
    """RIGHT when the IoU with an annotated box is above 0.5, as in the metric, else WRONG; ABSENT if there is none."""
    if not annotated:
        return ABSENT
    overlaps = iou_gvd(np.asarray([box_px] * len(annotated)), np.asarray(annotated))
    return RIGHT if bool((overlaps > IOU_THRESHOLD).any()) else WRONG


def verdicts(caption: str, object_words: Mapping[str, str], boxes: Mapping[str, Sequence[Box]] | None) -> str:
    """One letter per object word (word -> class) of the caption, in order; "" for a caption without boxes.

    ``boxes``: class -> annotated boxes of the image, xyxy pixels; None (an image without annotations) gives "".
    """
    if boxes is None or not isinstance(caption, GroundedCaption):
        return ""
    return "".join(
        verdict_of(word.box_px, boxes.get(object_words[word.text], ()))
        for word in caption.words
        if word.text in object_words
    )
