"""The words of a model, INFERENCE.VOCAB. Weights are saved with their digest, so that another list is refused.

Two lists of the same length give two models of the same shapes. Without the digest, the second list would turn every
word of a caption into another one without an error.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodaler_ssattn.errors import UserError
from xmodaler_ssattn.files import read_lines
from xmodaler_ssattn.host import load_vocab

STATE = "_extra_state"
"""The name of the digest in a captioner's state dict, torch's own for ``get_extra_state``."""
UNKNOWN = bytes(hashlib.sha256().digest_size)


def read_vocabulary(path: str | Path) -> list[str]:
    """Index -> word, as in the hosts' load_vocab; upstream's would make a byte order mark part of the first word."""
    return [".", *(line.strip() for line in read_lines(path, "INFERENCE.VOCAB"))]


def check_vocabulary(cfg: Any) -> None:
    """Refuse a config whose vocabulary file is missing or does not fit MODEL.VOCAB_SIZE.

    As in X-modaler, an empty INFERENCE.VOCAB is allowed for a project that only trains: no words will be written.
    """
    if not cfg.INFERENCE.VOCAB:
        return
    path = Path(cfg.INFERENCE.VOCAB)
    if not path.is_file():
        raise UserError(
            f"INFERENCE.VOCAB: the vocabulary file {path} does not exist. `xmodaler prepare annotations` writes "
            "it as vocabulary.txt beside the annotation files."
        )
    size = len(read_vocabulary(path))
    try:
        load_vocab(str(path))  # upstream's captioner builds its own decoders first
    except UnicodeDecodeError as error:
        raise UserError(
            f"INFERENCE.VOCAB: X-modaler needs UTF-8, but {path} is in another encoding. Save it as UTF-8."
        ) from error
    if size != cfg.MODEL.VOCAB_SIZE:
        raise UserError(
            f"MODEL.VOCAB_SIZE is {cfg.MODEL.VOCAB_SIZE}, but {path} has {size - 1} words, which makes {size} with "
            f"the end mark. Set MODEL.VOCAB_SIZE: {size}."
        )


def words_sha256(words: Sequence[str] | None) -> str:
    """The sha256 of a word list, one word per line in the order of the indices 1 .. n; "" for no list.

    >>> words_sha256(["a", "dog", "UNK"])[:16]
    '2bc7c6a49ebfa159'
    """
    return hashlib.sha256("\n".join(words).encode("utf-8")).hexdigest() if words else ""


def to_state(sha256: str) -> Tensor:
    """(32,) uint8: the bytes of the digest, zeros for ""."""
    return torch.tensor(list(bytes.fromhex(sha256) if sha256 else UNKNOWN), dtype=torch.uint8)


def from_state(state: Tensor) -> str:
    """The inverse of ``to_state``."""
    digest = bytes(state.tolist())
    return "" if digest == UNKNOWN else digest.hex()


def check_words(trained: str, own: str, what: str) -> None:
    """Refuse weights of another word list, with a ``UserError`` that has both digests; "" for one means unknown.

    Args:
        trained, own: digests of the word lists of the training and of INFERENCE.VOCAB.
        what: the weights, as the subject of the message, such as ``"MODEL.WEIGHTS run/model_final.pth"``.
    """
    if trained and own and trained != own:
        raise UserError(
            f"{what}: trained with another word list (sha256 {trained[:16]}) than INFERENCE.VOCAB has now (sha256 "
            f"{own[:16]}). The indices would mean other words. Give the vocabulary.txt of that training, which "
            "`xmodaler prepare annotations` wrote beside its annotations (INFERENCE.VOCAB, or --data, or "
            "--vocabulary), or train a model for the new list."
        )


def accept_weights_without(module: nn.Module, incompatible: Any) -> None:
    """A hook after loading: old weights without a digest are accepted with a warning."""
    for name in [name for name in incompatible.missing_keys if name.rpartition(".")[2] == STATE]:
        incompatible.missing_keys.remove(name)
        logging.getLogger(__name__).warning(
            "The weights do not contain the digest of their word list; INFERENCE.VOCAB is assumed to be that list."
        )
