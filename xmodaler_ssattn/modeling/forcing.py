"""Teacher forcing word by word: the state for every word of a batch's captions. The definition of training.

``fast/`` has faster ways that return the same ``WordStates``.

Letters: B images, S captions per image, N = B S captions, T words, M words to predict in all, K regions, H hidden
size, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from xmodaler_ssattn import keys
from xmodaler_ssattn.host import kfg
from xmodaler_ssattn.modeling.collate import send
from xmodaler_ssattn.modeling.grounded_output import Decoded, of_regions
from xmodaler_ssattn.modeling.loop import each_word
from xmodaler_ssattn.modeling.sampling import replace_some, sample_words

if TYPE_CHECKING:
    from xmodaler_ssattn.modeling.captioner import GroundedCaptioner


class WordStates(NamedTuple):
    """The state from which each of the M words is predicted.

    Attributes:
        inputs: the encoded batch, with the inputs of the losses.
        hidden: (M, H).
        words: (M,) int64, index of the word in the flattened (N, T) tokens and targets.
        captions: (M,) int64, the word's caption.
        logits: (M, V) if the predictor reads more than the state, else None.
        alpha, gamma: (M, K), the attention of the step that predicts the word, if the batch has a key of
            NEED_ATTENTION, else None.
        rows: the encoded batch as the decoder reads it, one row per caption in the order of ``plan``; None from
            captured graphs.
        plan: the order of captions and words; None from captured graphs.
        further: the decoder's READ_BY_LOSSES, (M, ...) each.
    """

    inputs: dict
    hidden: Tensor
    words: Tensor
    captions: Tensor
    logits: Tensor | None = None
    alpha: Tensor | None = None
    gamma: Tensor | None = None
    rows: dict | None = None
    plan: CaptionPlan | None = None
    further: Mapping[str, Tensor] = MappingProxyType({})

    def supervised(self) -> dict:
        """The attention of all words, and WORD_PAIRS with the words as its rows; nothing if the batch has no pairs."""
        pairs = self.inputs.get(keys.WORD_PAIRS)
        if pairs is None:
            return {}
        row = self.words.new_zeros(self.inputs[kfg.G_TARGET_IDS].numel())
        row[self.words] = torch.arange(len(self.words), device=row.device)
        pairs = pairs._replace(words=row[pairs.words])
        return {keys.WORD_ALPHA: self.alpha, keys.WORD_GAMMA: self.gamma, keys.WORD_PAIRS: pairs}


class CaptionPlan(NamedTuple):
    """The order in which a batch's captions and words are processed: longest caption first, step after step.

    Attributes:
        order: (N,) int64, captions by length, longest first; captions of equal length keep their order.
        sizes: the number of captions that have a word at each step, for as many steps as the longest caption has words.
        words: (M,) int64, index of each word in the flattened (N, T) tokens.
        rows: (M,) int64, position of each word's caption in ``order``.
        cells: (M,) int64, index of each word in a flattened (T, N) grid of steps and positions in ``order``.
        listed: ``order`` on the host.
    """

    order: Tensor
    sizes: list[int]
    words: Tensor
    rows: Tensor
    cells: Tensor
    listed: list[int]

    @classmethod
    def of(cls, lengths: list[int], width: int, device: torch.device) -> CaptionPlan:
        """From the captions' lengths, known without waiting for the device.

        Args:
            width: T of the tokens.
        """
        words_of = torch.tensor(lengths)
        order = words_of.argsort(descending=True, stable=True)
        grid = torch.arange(width).unsqueeze(1) < words_of[order].unsqueeze(0)
        steps, rows = grid.nonzero(as_tuple=True)
        sizes = grid.sum(1)
        parts = (order, order[rows] * width + steps, rows, steps * len(lengths) + rows)
        listed = order.tolist()
        order, words, rows, cells = (send(part, device) for part in parts)
        return cls(order, sizes[sizes > 0].tolist(), words, rows, cells, listed)


def word_states(model: GroundedCaptioner, batch: dict, ss_prob: float) -> WordStates:
    """Run the decoder word by word for all captions of a batch.

    Args:
        batch: from ``preprocess_batch``, with captions.
        ss_prob: scheduled sampling: the probability of using the model's own word as input, except at the first step.
    """
    tokens = batch[kfg.G_TOKENS_IDS]
    plan = CaptionPlan.of(batch[keys.CAPTION_LENGTHS], tokens.shape[1], tokens.device)
    inputs, rows = encoded_rows(model, batch, plan)
    tokens = tokens[plan.order]
    from_state = model.predicts_from_state
    supervised = any(key in batch for key in keys.NEED_ATTENTION)
    # The values of each step: the fields of WordStates, and the decoder's READ_BY_LOSSES.
    steps: defaultdict[str, list[Tensor]] = defaultdict(list)

    def next_word(state: dict, t: int) -> Tensor | None:
        steps["hidden"].append(state[kfg.G_HIDDEN_STATES][-1])
        if not from_state:
            steps["logits"].append(model.predictor(state)[kfg.G_LOGITS])
        if supervised:
            steps["alpha"].append(state[keys.ALPHA])
            steps["gamma"].append(state[keys.GAMMA])
        for key in model.decoder.READ_BY_LOSSES:
            if key in state:
                steps[key].append(state[key])
        if t + 1 == tokens.shape[1]:
            return None
        word = tokens[:, t + 1]
        if not ss_prob > 0:
            return word
        source, sample = ("hidden", model.sample_words) if from_state else ("logits", sample_words)
        return replace_some(word, steps[source][-1].detach(), ss_prob, sample)

    each_word(model, model.with_rows(rows, len(tokens)), tokens[:, 0], tokens.shape[1], next_word)
    packed = {key: torch.stack(values).flatten(0, 1)[plan.cells] for key, values in steps.items()}
    further = {key: packed.pop(key) for key in model.decoder.READ_BY_LOSSES if key in packed}
    captions = plan.order[plan.rows]
    return WordStates(inputs, words=plan.words, captions=captions, rows=rows, plan=plan, further=further, **packed)


def encoded_rows(model: GroundedCaptioner, batch: dict, plan: CaptionPlan) -> tuple[dict, dict]:
    """The encoded batch: (for the losses, with one row per image; for the decoder, with one row per caption).

    Parts of the model that are not ours may read anything in the batch. Everything in it then has one row per caption
    before that part runs.

    Args:
        plan: the order of the rows.
    """
    order = plan.order
    captions = batch[keys.CAPTIONS_PER_IMAGE]
    images = order.div(captions, rounding_mode="floor")
    if model.encodes_per_image:
        inputs = model.encode(batch, images)
        return inputs, inputs
    if model.share_region_dropout:
        rows = _per_caption(model.encode(batch), plan, images)
    else:
        rows = model.encode(_per_caption(batch, plan, images))
    inputs = {**rows, **batch}
    # The first caption of each image in that order: values per image are equal for all its captions.
    first = order.argsort()[::captions]
    for key in (keys.LOG_BETA, keys.RAW_FEATS, keys.IMAGE_MASK, keys.IMAGE_EXT_MASK, keys.REGION_CLASS_SCORES):
        if inputs.get(key) is not None:
            inputs[key] = inputs[key][first]
    return inputs, rows


def _per_caption(batch: dict, plan: CaptionPlan, images: Tensor) -> dict:
    """A batch, encoded or not, in which everything with one row per image is repeated for each caption."""
    count = len(batch[kfg.IDS])
    at = {count: images, len(plan.order): plan.order}
    rows = {
        key: value[at[len(value)]]
        for key, value in batch.items()
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) in at
    }
    # States of decoders: lists of tensors.
    rows |= {
        key: [state[at[len(state)]] for state in value]
        for key, value in batch.items()
        if isinstance(value, list) and value and all(isinstance(state, Tensor) for state in value)
    }
    captions = batch[keys.CAPTIONS_PER_IMAGE]
    listed = {key: [batch[key][row // captions] for row in plan.listed] for key in (kfg.IDS, keys.NUM_REGIONS)}
    return {**batch, **rows, **listed}


def forced_references(model: GroundedCaptioner, inputs: dict) -> list[tuple]:
    """Teacher forcing on REF_TOKENS_IDS (B, S, T) of an encoded batch: B tuples of S GroundedCaptions.

    The region of word j of a caption (from 0) is that attended to at step j, the step that predicts the word.
    Without attention, the tuples are empty.
    """
    tokens = inputs[keys.REF_TOKENS_IDS]
    images, captions, length = tokens.shape
    if length < 2 or not model.decoder.attends:
        return [()] * images
    words = tokens.flatten(0, 1).clamp(min=0)
    steps: list[list[Tensor]] = []

    def next_word(state: dict, t: int) -> Tensor:
        steps.append(of_regions(state))
        return words[:, t + 1]

    each_word(model, model.with_rows(inputs, len(words)), words[:, 0], length - 1, next_word)
    attention = [torch.stack(parts, 1).unflatten(0, (images, captions)) for parts in zip(*steps, strict=True)]
    of_captions = (
        model.greedy_decoder.captions(Decoded(tokens[:, s, 1:], None, *(part[:, s] for part in attention)), inputs)
        for s in range(captions)
    )
    return list(zip(*of_captions, strict=True))
