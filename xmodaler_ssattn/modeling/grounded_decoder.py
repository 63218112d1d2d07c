"""What GroundedCaptioner asks of a decoder. Derive from ``GroundedDecoder`` to use another one, such as a transformer.

Letters: B images, R rows (captions or beams) per image, N = B R, K regions.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from xmodaler_ssattn.host import Decoder


class GroundedDecoder(Decoder):
    """A decoder that says one word per call, gives the attention behind it, and owns its states.

    ``preprocess`` is called once per batch and leaves features at one row per image. ``forward`` reads the current
    word in G_TOKEN_EMBED (N, E) and returns ALPHA and GAMMA (N, K), the new states, and G_HIDDEN_STATES, a list whose
    last entry (N, H) is what the predictor and scheduled sampling read.

    A state is whatever ``forward`` returns beside ALPHA and GAMMA. States may have any shape, and may grow from word to
    word. The methods below say how they begin, and how captions and beams choose among them.
    """

    # What ``forward`` reads with one row per image; beam search drops the rows of images that have ended.
    READ_PER_STEP: tuple[str, ...] = ()

    @abstractmethod
    def initial_states(self, like: Tensor, rows: int) -> dict[str, Any]:
        """The states of ``rows`` captions before the first word, with the device and dtype of ``like``."""

    def select_states(self, states: dict[str, Any], rows: Tensor) -> dict[str, Any]:
        """The states of some rows, in their order; a row that several beams continue is repeated.

        Here the first axis of each tensor, or of each tensor in a list, is N. A decoder whose states look otherwise
        overrides this.

        Args:
            states: those that the last ``forward`` returned.
            rows: (n,) int64.
        """
        return {key: _select(state, rows) for key, state in states.items()}


def _select(state: Any, rows: Tensor) -> Any:
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    return [_select(part, rows) for part in state]
