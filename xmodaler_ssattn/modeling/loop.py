"""The loop over the words of captions, used for training, greedy decoding, beam search, sampling and forcing.

Letters: N captions or beams, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class WordModel(Protocol):
    """The interface of a captioner for forcing, sampling and decoding; documented in ``GroundedCaptioner``."""

    device: torch.device
    amp: bool
    share_region_dropout: bool
    # nn.Module returns its parts as Any: a wrapper may have replaced a class.
    decoder: Any
    predictor: Any
    greedy_decoder: Any

    @property
    def encodes_per_image(self) -> bool: ...

    @property
    def predicts_from_state(self) -> bool: ...

    def encode(self, batched_inputs: dict, images: Tensor | None = None) -> dict: ...

    def with_rows(self, inputs: dict, rows: int) -> dict: ...

    def step(self, inputs: dict, word: Tensor, t: int) -> None: ...

    def sample_words(self, hidden: Tensor) -> Tensor: ...


def each_word(
    model: WordModel, inputs: dict, word: Tensor, steps: int, next_word: Callable[[dict, int], Tensor | None]
) -> None:
    """Advance ``model`` word by word.

    Args:
        inputs: an encoded batch with states; each step updates it in place.
        word: (N,) int64, the first word of each row.
        steps: the maximum number of steps.
        next_word: called after step ``t`` as ``next_word(inputs, t)``. It reads the outputs of the step, may replace
            the states in ``inputs``, and returns the words of the next step, or None to stop.
    """
    for t in range(steps):
        model.step(inputs, word, t)
        following = next_word(inputs, t)
        if following is None:
            return
        word = following
