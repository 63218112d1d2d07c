"""From a list of sample dicts to one batch of named tensors.

Letters: B images, S captions per image, K regions, C classes, D feature size, T words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xmodaler_ssattn import keys
from xmodaler_ssattn.errors import UserError, raise_all
from xmodaler_ssattn.host import kfg

# Per-region values (k, ...) that are padded with zeros to the batch's largest K.
_REGION_KEYS = (kfg.ATT_FEATS, *keys.PER_REGION)
_REQUIRED = (kfg.IDS, kfg.ATT_FEATS, keys.BOXES_PX, keys.SPATIAL, keys.IMAGE_SIZE)
_CAPTIONS = (kfg.SEQ_PER_SAMPLE, kfg.G_TOKENS_IDS, kfg.G_TARGET_IDS)
# Optional keys; either all samples of a batch have such a key, or none.
_SAMPLE_KEYS = {
    *_REQUIRED,
    *_REGION_KEYS,
    *_CAPTIONS,
    *(keys.SIGMA, keys.HAS_BOXES, keys.WORD_PAIRS, keys.PAIR_WEIGHTS, keys.WORD_SPANS),
    *(keys.REF_TOKENS_IDS, keys.RESIDENT, keys.RESIDENT_ROW),
}


class WordPairs(NamedTuple):
    """Pairs of a word and a region in a batch, see ``keys.WORD_PAIRS``; each (n,)."""

    words: Tensor
    regions: Tensor
    weights: Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to ``device`` without waiting: pinned memory is copied in the background."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def collate(samples: list[dict], device: torch.device) -> dict:
    """Collate samples of Flickr30kEntitiesDataset; keys and shapes as in ``keys.py``.

    Region values are padded with zeros, and ATT_MASKS (B, K) is 1 for real regions. Captions are padded
    with 0 in G_TOKENS_IDS and with -1 (ignored) in G_TARGET_IDS, both (B S, T). Nothing is repeated
    per caption here. Values may be tensors or arrays; regions that are resident on the device
    (RESIDENT in the samples) are gathered there.

    Raises:
        UserError: a sample lacks a required key, has no region, or does not fit the others.
    """
    if not samples:
        raise UserError("collate: the batch is empty.")
    _check(samples)
    first = samples[0]
    if keys.RESIDENT in first:
        rows = [sample[keys.RESIDENT_ROW] for sample in samples]
        on_device, counts = first[keys.RESIDENT].gather(rows, device)
        batch: dict = {}
    else:
        on_device, counts = {}, [len(sample[kfg.ATT_FEATS]) for sample in samples]
        batch = {key: _pad([sample[key] for sample in samples], 0) for key in _REGION_KEYS if key in first}
        batch[keys.IMAGE_SIZE] = _stack([sample[keys.IMAGE_SIZE] for sample in samples])
    batch[kfg.ATT_MASKS] = (torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)).float()

    captions = 1
    if kfg.SEQ_PER_SAMPLE in first:
        captions = int(first[kfg.SEQ_PER_SAMPLE])
        batch[kfg.G_TOKENS_IDS] = _pad([ids for sample in samples for ids in sample[kfg.G_TOKENS_IDS]], 0)
        batch[kfg.G_TARGET_IDS] = _pad([ids for sample in samples for ids in sample[kfg.G_TARGET_IDS]], -1)
        if keys.SIGMA in first:
            batch[keys.SIGMA] = _pad_last([torch.as_tensor(sample[keys.SIGMA]) for sample in samples])
            batch[keys.HAS_BOXES] = _stack([sample[keys.HAS_BOXES] for sample in samples])
        if keys.WORD_SPANS in first:
            batch[keys.WORD_SPANS] = _word_spans(samples, captions, batch[kfg.G_TARGET_IDS].shape[1])
    if keys.REF_TOKENS_IDS in first:
        batch[keys.REF_TOKENS_IDS] = _stack_ragged([sample[keys.REF_TOKENS_IDS] for sample in samples])

    batch = {key: send(value, device) for key, value in batch.items()} | on_device
    if keys.WORD_PAIRS in first:
        pairs = _word_pairs(samples, captions, batch[kfg.G_TARGET_IDS].shape[1])
        batch[keys.WORD_PAIRS] = WordPairs(*(send(part, device) for part in pairs))
    # Python values, known here without waiting for the device.
    batch[keys.CAPTIONS_PER_IMAGE] = captions
    batch[keys.NUM_REGIONS] = counts
    batch[kfg.IDS] = [sample[kfg.IDS] for sample in samples]
    if kfg.SEQ_PER_SAMPLE in first:
        batch[keys.CAPTION_LENGTHS] = [len(ids) for sample in samples for ids in sample[kfg.G_TARGET_IDS]]
        batch[keys.NUM_WORDS] = sum(batch[keys.CAPTION_LENGTHS])
    return batch


def _check(samples: list[dict]) -> None:
    """Refuse samples that do not fit the contract (``keys.py``) or each other: all problems, with their images."""
    problems = []
    resident_ones = keys.RESIDENT in samples[0]
    required = (kfg.IDS, keys.RESIDENT_ROW) if resident_ones else _REQUIRED
    if kfg.SEQ_PER_SAMPLE in samples[0]:
        required = (*required, *_CAPTIONS)
    wanted = {key for sample in samples for key in sample if key in _SAMPLE_KEYS} | set(required)
    if keys.WORD_PAIRS in wanted:
        wanted |= {keys.PAIR_WEIGHTS}
    if wanted & set(keys.NEED_ATTENTION):
        wanted |= set(_CAPTIONS)
    for sample in samples:
        name = f"image {sample.get(kfg.IDS, '(no id)')}"
        missing = sorted(wanted - set(sample))
        if missing:
            problems.append(f"the sample of {name} lacks {', '.join(missing)}")
            continue
        if not resident_ones:
            counts = {key: len(sample[key]) for key in _REGION_KEYS if key in wanted}
            if counts[kfg.ATT_FEATS] == 0:
                problems.append(f"{name} has no region (K = 0): there is nothing to attend to")
            elif len(set(counts.values())) > 1:
                problems.append(f"{name} has different numbers of regions: {counts}")
        if keys.WORD_PAIRS in wanted:
            counted = len(sample[kfg.ATT_FEATS]) if not resident_ones else None
            problems += [f"{name}: {reason}" for reason in _wrong_pairs(sample, counted)]
        if keys.WORD_SPANS in wanted:
            problems += [f"{name}: {reason}" for reason in _wrong_spans(sample)]
        if kfg.SEQ_PER_SAMPLE in wanted:
            captions = [int(sample[kfg.SEQ_PER_SAMPLE]), len(sample[kfg.G_TOKENS_IDS]), len(sample[kfg.G_TARGET_IDS])]
            if set(captions) != {int(samples[0][kfg.SEQ_PER_SAMPLE])}:
                problems.append(
                    f"{name} has {captions[1]} captions, {captions[2]} targets and SEQ_PER_SAMPLE {captions[0]}; all "
                    "samples of a batch need the same number"
                )
    raise_all(
        problems,
        "GroundedCaptioner cannot make a batch (it takes samples of Flickr30kEntitiesDataset, or of a dataset whose "
        "samples are as described in xmodaler_ssattn/keys.py)",
    )


def _word_pairs(samples: list[dict], captions: int, length: int) -> WordPairs:
    """The pairs of all samples; ``length`` is T of the padded targets."""
    tables = [torch.as_tensor(sample[keys.WORD_PAIRS], dtype=torch.long) for sample in samples]
    caption, word, region = torch.cat(tables).unbind(1)
    image = torch.arange(len(tables)).repeat_interleave(torch.tensor([len(table) for table in tables]))
    weights = torch.cat([torch.as_tensor(sample[keys.PAIR_WEIGHTS]) for sample in samples])
    return WordPairs((image * captions + caption) * length + word, region, weights)


def _wrong_pairs(sample: dict, regions: int | None) -> list[str]:
    """Problems of a sample's WORD_PAIRS, which would supervise other words; ``regions``: their number, if known."""
    table = torch.as_tensor(sample[keys.WORD_PAIRS])
    weights = torch.as_tensor(sample[keys.PAIR_WEIGHTS])
    if not len(table) and not len(weights):
        return []
    if table.shape != (len(weights), 3):
        return [f"WORD_PAIRS has shape {tuple(table.shape)}, expected (n, 3) for PAIR_WEIGHTS of n = {len(weights)}"]
    lengths = torch.tensor([len(ids) for ids in sample[kfg.G_TARGET_IDS]])
    caption, word, region = table.unbind(1)
    exists = (table >= 0).all(1) & (caption < len(lengths))
    exists &= word < lengths[caption.clamp(0, len(lengths) - 1)]
    if regions is not None:
        exists &= region < regions
    if not exists.all():
        return [
            f"the pair {table[~exists][0].tolist()} in WORD_PAIRS names a caption, word or region that does not exist"
        ]
    return [] if (weights > 0).all() and torch.isfinite(weights).all() else ["PAIR_WEIGHTS must be finite and above 0"]


def _word_spans(samples: list[dict], captions: int, length: int) -> Tensor:
    """WORD_SPANS of a batch (N, T, 2) from the tables of the samples; ``length`` is T of the padded targets."""
    spans = torch.zeros(len(samples) * captions, length, 2, dtype=torch.long)
    for image, sample in enumerate(samples):
        for caption, start, end in torch.as_tensor(sample[keys.WORD_SPANS]).tolist():
            spans[image * captions + caption, start:end] = torch.tensor([start, end])
    return spans


def _wrong_spans(sample: dict) -> list[str]:
    """Problems of a sample's WORD_SPANS."""
    table = torch.as_tensor(sample[keys.WORD_SPANS])
    if table.dim() != 2 or table.shape[1] != 3:
        return [f"WORD_SPANS has shape {tuple(table.shape)}, expected (n, 3)"]
    lengths = [len(ids) for ids in sample[kfg.G_TARGET_IDS]]
    for caption, start, end in table.tolist():
        if not (0 <= caption < len(lengths) and 0 <= start < end <= lengths[caption]):
            return [f"the phrase {[caption, start, end]} in WORD_SPANS names a caption or words that do not exist"]
    return []


def _stack(values: list) -> Tensor:
    return torch.stack([torch.as_tensor(value) for value in values])


def _pad(sequences: list, value: int) -> Tensor:
    return pad_sequence([torch.as_tensor(s) for s in sequences], batch_first=True, padding_value=value)


def _pad_last(rows: list[Tensor]) -> Tensor:
    """[(S, k)] with differing k -> (B, S, K), zeros on the right."""
    return _pad([row.T for row in rows], 0).transpose(1, 2).contiguous()


def _stack_ragged(images: list[list]) -> Tensor:
    """B lists of captions (word ids), of different number and length -> (B, S, T) padded with -1."""
    captions = max(len(image) for image in images)
    words = max((len(ids) for image in images for ids in image), default=1)
    out = torch.full((len(images), captions, words), -1, dtype=torch.long)
    for b, image in enumerate(images):
        for s, ids in enumerate(image):
            out[b, s, : len(ids)] = torch.as_tensor(ids)
    return out
