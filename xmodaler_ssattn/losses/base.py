"""The base of our losses: what each of them states about itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xmodaler_ssattn.config import add_ssattn_config
from xmodaler_ssattn.errors import raise_all
from xmodaler_ssattn.host import configurable, kfg
from xmodaler_ssattn.partners import require_outputs


class Loss(nn.Module):
    """A loss for the host's trainer: ``forward`` takes the captioner's training output and returns {name: () tensor}.

    The host adds the values up, without those whose name contains "acc".
    """

    # What it learns from reference captions: "words", "pairs" (of a word and a region), or "" for nothing. The
    # self-critical stage, whose captions are the model's own, refuses all but the last.
    learns_from_captions = ""
    # Where its inputs come from, for the error if one is missing.
    source = "GroundedCaptioner and the dataset Flickr30kEntitiesDataset provide it in training."

    @configurable
    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        return {}

    @classmethod
    def add_config(cls, cfg: Any, tmp_cfg: Any = None) -> None:
        add_ssattn_config(cfg)

    def read(self, outputs_dict: dict, *wanted: str) -> list[Any]:
        """The values of the keys ``wanted``.

        Raises:
            KeyError: names the missing keys and ``source``.
        """
        require_outputs(outputs_dict, wanted, type(self).__name__, self.source)
        return [outputs_dict[key] for key in wanted]

    def normaliser(self, outputs_dict: dict) -> Tensor | int:
        """What the loss was divided by, see ``processes.losses_over_processes``: the M words, if not overridden."""
        return len(outputs_dict[kfg.G_TARGET_IDS])


def check_weights(section: str, **weights: float) -> None:
    """Refuse weights of the config's ``section`` that are not finite numbers >= 0, all at once."""
    problems = [
        f"{section}.{key}: expected a number >= 0, got {value!r}."
        for key, value in weights.items()
        if not 0 <= value < float("inf")
    ]
    raise_all(problems, "The loss cannot be used")
