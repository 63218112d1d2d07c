"""The loop over the words of captions, used for training, greedy decoding, beam search, sampling and forcing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from xmodaler_ssattn.modeling.captioner import GroundedCaptioner

# On a GPU the host learns only after this number of words which captions have ended, since it must wait for the answer.
# Words that were decoded in vain are removed. On a CPU it learns it after each word.
WORDS_PER_LOOK = 4


def each_word(
    model: GroundedCaptioner, inputs: dict, word: Tensor, steps: int, next_word: Callable[[dict, int], Tensor | None]
) -> None:
    """Advance ``model`` word by word.

    Args:
        inputs: an encoded batch with states; each step updates it in place.
        word: (N,) int64, the first word of each of N captions or beams.
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


class Ends:
    """Which rows have ended after each word, read from the device only once in some words."""

    def __init__(self, device: torch.device, steps: int):
        self._every, self._last = 1 if device.type == "cpu" else WORDS_PER_LOOK, steps - 1
        self._unread: list[Tensor] = []

    def read(self, ended: Tensor, t: int) -> list | None:
        """``ended`` (bool, any shape) after each word since the last look, as lists; None without a look at ``t``."""
        self._unread.append(ended)
        if (t + 1) % self._every and t < self._last:
            return None
        rows = torch.stack(self._unread).cpu().tolist()
        self._unread = []
        return rows
