"""The interface of decoders for GroundedCaptioner. To use another decoder, such as a transformer, derive from it.

Letters: B images, R rows (captions or beams) per image, N = B R, K regions.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from xmodaler_ssattn.host import Decoder, kfg


class GroundedDecoder(Decoder):
    """A decoder that predicts one word per call, returns its attention, and defines its own states.

    ``preprocess`` is called once per batch and keeps features at one row per image. ``forward`` reads the current
    word in G_TOKEN_EMBED (N, E) and returns ALPHA and GAMMA (N, K), the new states, and G_HIDDEN_STATES, a list whose
    last entry (N, H) is the input of the predictor and of scheduled sampling.

    Everything that ``forward`` returns, except ALPHA, GAMMA and the values of branches, is a state. States may have any
    shape and may grow from word to word. The methods below define the initial states and the selection of states by
    captions and beams.

    ALPHA and GAMMA may have more columns than there are regions; those after K are never a word's region. A decoder
    without attention sets ``attends = False`` and returns (N, 0): its captions then have no regions.
    """

    attends = True

    # Inputs of ``forward`` with one row per image; beam search drops the rows of finished images.
    READ_PER_STEP: tuple[str, ...] = ()
    # Outputs of ``forward`` in training, (N, ...), that the losses read for every word, (M, ...).
    READ_BY_LOSSES: tuple[str, ...] = ()
    # Parts that only losses read; weights with others of them, or without them, fit.
    OF_LOSSES: tuple[str, ...] = ()
    # Whether it returns BRANCH_REGIONS, for INFERENCE.REGION_RULE union.
    HAS_BRANCHES = False

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *arguments: Any) -> None:
        """Parts that only losses read keep their values where the weights have none, or others, for them."""
        own = self.state_dict(prefix=prefix)
        for part in (f"{prefix}{name}." for name in self.OF_LOSSES):
            for key in [key for key in state_dict if key.startswith(part)]:
                if key not in own or own[key].shape != state_dict[key].shape:
                    del state_dict[key]
            state_dict |= {key: own[key] for key in own if key.startswith(part) and key not in state_dict}
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    @abstractmethod
    def initial_states(self, like: Tensor, rows: int) -> dict[str, Any]:
        """The states of ``rows`` captions before the first word, with the device and dtype of ``like``."""

    def first_states(self, inputs: dict, rows: int) -> dict[str, Any]:
        """The states of ``rows`` captions of an encoded batch before the first word; a multiple of the batch's rows.

        They are ``initial_states``, unless a decoder's first states depend on the image.
        """
        return self.initial_states(inputs[kfg.ATT_FEATS], rows)

    def select_states(self, states: dict[str, Any], rows: Tensor) -> dict[str, Any]:
        """The states of ``rows``, in that order; a row that several beams continue is repeated.

        By default the first axis of each tensor, or of each tensor in a list, is N. A decoder with other states must
        override this method.

        Args:
            states: the states returned by the last ``forward``.
            rows: (n,) int64.
        """
        return {key: _select(state, rows) for key, state in states.items()}


def _select(state: Any, rows: Tensor) -> Any:
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    return [_select(part, rows) for part in state]
