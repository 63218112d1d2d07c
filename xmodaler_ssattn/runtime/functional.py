"""Small pure functions on samples, padded batches and vocabularies.

Letters: B images, S captions per image, K regions, D feature size, T words.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xmodaler_ssattn.files import read_lines


def pad_tensor(tensor: Sequence, padding_value: float, use_mask: bool):
    """Stack tensors of different first length; a list of lists is flattened first (B lists of S captions -> B S rows).

    Returns:
        (rows, longest, ...) tensor, and with ``use_mask`` also a (rows, longest) float32 mask, 1 on real entries.
    """
    rows = list(itertools.chain.from_iterable(tensor)) if isinstance(tensor[0], list) else list(tensor)
    padded = pad_sequence(rows, batch_first=True, padding_value=padding_value)
    if not use_mask:
        return padded
    lengths = torch.tensor([row.size(0) for row in rows])
    return padded, (torch.arange(padded.size(1)) < lengths[:, None]).float()


def to_device(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it, through lists, tuples and dicts, on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def expand_tensor(tensor: Tensor | None, size: int, dim: int = 1) -> Tensor | None:
    """Repeat rows ``size`` times. ``dim`` 1: (a, b) -> (a, a, b, b), ``dim`` 0: (a, b) -> (a, b, a, b)."""
    if size == 1 or tensor is None:
        return tensor
    if dim == 0:
        return tensor.repeat(size, *[1] * (tensor.dim() - 1))
    return tensor.repeat_interleave(size, dim=dim - 1)


def load_vocab(path: str | os.PathLike) -> list[str] | None:
    """Read a vocabulary file, one word per line: line n is index n, index 0 is '.'. An empty path gives None."""
    return [".", *(line.strip() for line in read_lines(path, "The vocabulary"))] if str(path) else None


def decode_sequence(vocab: Sequence[str], seq: Tensor) -> list[str]:
    """(N, T) word indices -> N sentences; index 0 ends a sentence. IndexError for a word outside the vocabulary."""
    highest = int(seq.max()) if seq.numel() else 0
    if highest >= len(vocab):
        raise IndexError(
            f"The model predicted word {highest}, but the vocabulary ends at {len(vocab) - 1}: "
            "INFERENCE.VOCAB is not the file that MODEL.VOCAB_SIZE was set for."
        )
    return [" ".join(vocab[i] for i in itertools.takewhile(bool, row)) for row in seq.tolist()]
